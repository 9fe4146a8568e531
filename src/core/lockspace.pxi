# A lockspace of this process: the arena and its ports.

cdef enum:
    N_SHARDS = 64
    N_CLIENTS = 1024
    PAGE = 4096

cdef uint64_t MAGIC = 0x6d6c647970      # "pydlm"


cdef inline uint64_t page_up(uint64_t n) noexcept:
    return (n + PAGE - 1) // PAGE * PAGE


cdef class Arena:
    """The memory of one lockspace. Connections share it; it lasts as long as one of them.

    `capacity` is the number of locks and of resources it has room for. Address space is
    reserved for all of them; memory is used only for those that exist.
    """

    cdef arena_t a
    cdef readonly str name
    cdef uint64_t size
    cdef object __weakref__

    def __cinit__(self, str name, *, uint32_t capacity, uint32_t lvb_len):
        self.name = name
        self.a.hdr = NULL
        self.a.ports = NULL

    def __init__(self, str name, *, uint32_t capacity, uint32_t lvb_len):
        cdef header_t layout
        if not 16 <= capacity <= 1 << 30:
            raise BadArgument(f"capacity {capacity} is not between 16 and {1 << 30} locks")
        if not 8 <= lvb_len <= 4096 or lvb_len % 8:
            raise BadArgument(f"lvb_len {lvb_len} is not a multiple of 8 between 8 and 4096 bytes")
        memset(&layout, 0, sizeof(layout))
        lay_out(&layout, capacity, lvb_len)
        self.size = layout.size
        base = mmap(
            NULL, self.size, PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0,
        )
        if base == MAP_FAILED:
            raise LockspaceFull(
                f"cannot reserve {self.size >> 20} MiB of address space for {capacity} locks; "
                "connect with a smaller capacity"
            )
        memcpy(base, &layout, sizeof(layout))
        attach(&self.a, base)
        fresh_seed = _secrets.randbits(64)
        self.a.hdr.seed = fresh_seed
        self.a.hdr.futex_flags = FUTEX_PRIVATE_FLAG
        self.a.futex_flags = FUTEX_PRIVATE_FLAG
        # Tokens rise also over restarts of the program, as long as its clock does.
        now = int(_time.time())
        for i in range(<uint32_t>N_SHARDS):
            self.a.shards[i].token = <uint64_t>now << 24
        self.a.ports = <port_t*>calloc(N_CLIENTS, sizeof(port_t))
        if self.a.ports == NULL:
            raise MemoryError
        for i in range(<uint32_t>N_CLIENTS):
            pthread_mutex_init(&self.a.ports[i].mutex, NULL)

    def __dealloc__(self):
        if self.a.hdr != NULL:
            munmap(self.a.hdr, self.size)
        free(self.a.ports)

    @property
    def capacity(self):
        return self.a.hdr.n_lkbs - 1

    @property
    def lvb_len(self):
        return self.a.lvb_len

    def usage(self):
        """Return how many locks and resources exist, as a dict."""
        locks = resources = 0
        for i in range(<uint32_t>N_SHARDS):
            locks += self.a.shards[i].used_lkbs
            resources += self.a.shards[i].used_rsbs
        return {"locks": locks, "resources": resources, "capacity": self.capacity}

    def check(self):
        """Check every invariant; raise AssertionError if one is broken (stderr says which)."""
        cdef uint32_t i
        cdef bint sound
        for i in range(<uint32_t>N_SHARDS):
            with nogil:
                shard_lock(&self.a, &self.a.shards[i])
                sound = shard_is_sound(&self.a, &self.a.shards[i])
                shard_unlock(&self.a, &self.a.shards[i])
            if not sound:
                raise AssertionError(f"shard {i} of lockspace {self.name!r} is broken")


cdef void lay_out(header_t* h, uint32_t capacity, uint32_t lvb_len) noexcept:
    """Decide where everything lies."""
    cdef uint32_t buckets = N_SHARDS
    cdef uint64_t end
    while buckets < capacity:
        buckets *= 2
    h.magic = MAGIC
    h.layout = LAYOUT
    h.lvb_len = lvb_len
    h.n_shards = N_SHARDS
    h.n_clients = N_CLIENTS
    h.n_buckets = buckets
    h.n_rsbs = capacity + 1
    h.n_lkbs = capacity + 1
    # Each resource and each lock may have one, and a write needs another for a moment.
    h.n_lvbs = 2 * capacity + N_SHARDS + 1
    h.n_names = capacity + 1
    h.next_rsb = h.next_lkb = h.next_lvb = h.next_name = 1
    end = page_up(sizeof(header_t))
    h.off_shards = end
    end = page_up(end + N_SHARDS * sizeof(shard_t))
    h.off_clients = end
    end = page_up(end + N_CLIENTS * sizeof(client_t))
    h.off_buckets = end
    end = page_up(end + <uint64_t>buckets * sizeof(uint32_t))
    h.off_rsbs = end
    end = page_up(end + <uint64_t>h.n_rsbs * sizeof(rsb_t))
    h.off_lkbs = end
    end = page_up(end + <uint64_t>h.n_lkbs * sizeof(lkb_t))
    h.off_lvbs = end
    end = page_up(end + <uint64_t>h.n_lvbs * lvb_len)
    h.off_names = end
    h.size = page_up(end + <uint64_t>h.n_names * NAME_MAX)


cdef void attach(arena_t* a, void* base) noexcept:
    cdef char* start = <char*>base
    a.hdr = <header_t*>base
    a.shards = <shard_t*>(start + a.hdr.off_shards)
    a.clients = <client_t*>(start + a.hdr.off_clients)
    a.buckets = <uint32_t*>(start + a.hdr.off_buckets)
    a.rsbs = <rsb_t*>(start + a.hdr.off_rsbs)
    a.lkbs = <lkb_t*>(start + a.hdr.off_lkbs)
    a.lvbs = <unsigned char*>(start + a.hdr.off_lvbs)
    a.names = <unsigned char*>(start + a.hdr.off_names)
    a.lvb_len = a.hdr.lvb_len
    a.shard_mask = a.hdr.n_shards - 1
    a.bucket_mask = a.hdr.n_buckets - 1
    a.futex_flags = <int>a.hdr.futex_flags
