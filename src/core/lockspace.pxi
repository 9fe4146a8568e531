# A lockspace of this process: the arena and its ports.

cdef enum:
    N_SHARDS = 64
    N_CLIENTS = 1024
    N_PROCS = 1024
    PAGE = 4096

cdef uint64_t MAGIC = 0x6d6c647970      # "pydlm"


cdef inline uint64_t page_up(uint64_t n) noexcept:
    return (n + PAGE - 1) // PAGE * PAGE


cdef class Arena:
    """The memory of one lockspace. Connections share it; it lasts as long as one of them.

    `capacity` is the number of locks and of resources it has room for. Address space is
    reserved for all of them; memory is used only for those that exist. Without `fd` it is
    private to this process; with the descriptor of a file, it is shared with all who map that. The
    file is made an arena with `create`, else it has to be one: ArenaDamaged if it is not.
    """

    cdef arena_t a
    cdef readonly str name
    cdef uint64_t size
    cdef bint shared
    cdef uint32_t epoch          # of the process that joined a shared one; 0: has not
    cdef uint32_t made_in        # of the process that made this object
    cdef object __weakref__

    def __cinit__(
        self, str name not None, *, capacity=None, lvb_len=None, int fd=-1, bint create=True,
        boot=b"",
    ):
        cdef header_t layout
        cdef uint32_t i
        cdef bytes this_boot
        self.name = name
        self.a.hdr = NULL
        self.a.ports = NULL
        self.a.duplicates = NULL
        self.a.bucket_pages = NULL
        self.a.outside = 0
        self.epoch = 0
        self.made_in = dlm_epoch
        if create:
            check_sizes(capacity, lvb_len)
            memset(&layout, 0, sizeof(layout))
            lay_out(&layout, capacity, lvb_len)
            layout.seed = _secrets.randbits(64)
            layout.futex_flags = 0 if fd >= 0 else FUTEX_PRIVATE_FLAG
            this_boot = boot.ljust(16, b"\0")
            layout.pid_space = pid_space()
            memcpy(layout.boot, PyBytes_AS_STRING(this_boot), 16)
        else:
            read_layout(fd, boot, &layout)
        self.size = layout.size
        self.shared = fd >= 0
        if create and fd >= 0:
            _os.ftruncate(fd, self.size)
            # Also what only looks reads these; the rest gets its memory as it is needed.
            _os.posix_fallocate(fd, 0, layout.off_buckets)
        base = mmap(
            NULL, self.size, PROT_READ | PROT_WRITE,
            (MAP_PRIVATE | MAP_ANONYMOUS if fd < 0 else MAP_SHARED) | MAP_NORESERVE, fd, 0,
        )
        if base == MAP_FAILED:
            raise LockspaceFull(
                f"cannot reserve {self.size >> 20} MiB of address space for {capacity} locks; "
                "connect with a smaller capacity"
            )
        if create:
            memcpy(base, &layout, sizeof(layout))
        attach(&self.a, base)
        if create:
            # Tokens rise also over restarts of the program, as long as its clock does.
            now = int(_time.time())
            for i in range(<uint32_t>N_SHARDS):
                self.a.shards[i].token = <uint64_t>now << 24
        self.a.ports = <port_t*>calloc(N_CLIENTS, sizeof(port_t))
        if self.a.ports == NULL:
            raise MemoryError
        for i in range(<uint32_t>N_CLIENTS):
            pthread_mutex_init(&self.a.ports[i].mutex, NULL)
        if fd < 0:
            self.a.procs[0].pid = _os.getpid()
            self.a.alive = P_ALIVE
            self.a.procs[0].state = P_ALIVE
            self.a.state = &self.a.procs[0].state
            return
        madvise(base, self.size, MADV_DONTFORK)
        self.a.duplicates = make_duplicates()
        self.a.bucket_pages = <unsigned char*>calloc((layout.n_buckets >> 10) + 1, 1)
        if self.a.bucket_pages == NULL:
            raise MemoryError
        if not create:
            self.check()

    def join(self, uint64_t started):
        """Enter this process, which began at `started`, into a shared arena; start the helper."""
        cdef uint32_t i, pid
        cdef int rc
        if waitv_probe():
            raise Unsupported("sharing locks between processes needs Linux 5.16 (futex_waitv)")
        self.reclaim()
        pid = _os.getpid()
        for i in range(self.a.hdr.n_procs):
            if cas32(&self.a.procs[i].state, P_FREE, pid << P_BITS | P_BETWEEN):
                break
        else:
            raise LockspaceFull(
                f"lockspace {self.name!r} has {self.a.hdr.n_procs} processes already"
            )
        crash_point()
        self.a.procs[i].pid = pid
        self.a.procs[i].started = started
        self.a.procs[i].in_flight = 0
        self.a.procs[i].purger = 0
        self.a.procs[i].moving = 0
        crash_point()
        self.a.me = i
        with nogil:
            rc = helper_ask(&self.a, ASK_JOIN)
        if rc == ENOSPC:
            self.a.procs[i].state = P_FREE
            raise LockspaceFull(f"this process has {MAX_ARENAS} shared lockspaces open already")
        if rc:
            self.a.procs[i].state = P_FREE
            raise DlmError(f"cannot start the helper thread: {_os.strerror(rc)}", errno=rc)
        self.epoch = dlm_epoch

    cdef int reclaim(self) except -1:
        """Free slots of processes that died while they were joining or leaving."""
        cdef uint32_t i, state
        for i in range(self.a.hdr.n_procs):
            state = load32(&self.a.procs[i].state)
            if state & P_MASK == P_BETWEEN and not has_process(state >> P_BITS):
                cas32(&self.a.procs[i].state, state, P_FREE)

    def processes(self):
        """Return (pid, start time in clock ticks since boot) of all processes that are in."""
        self.check_here()
        return processes_in(&self.a)

    def __dealloc__(self):
        if self.a.hdr == NULL:
            return
        if self.epoch and self.epoch == dlm_epoch:
            helper_ask(&self.a, ASK_LEAVE)
        # A forked child has not got the parent's shared arenas; its own may lie there.
        if self.made_in == dlm_epoch or not self.shared:
            munmap(self.a.hdr, self.size)
        free(self.a.ports)
        free_duplicates(<duplicates_t*>self.a.duplicates, self.made_in == dlm_epoch)
        free(self.a.bucket_pages)

    cdef int check_here(self) except -1:
        """Raise Forked in a child of the process that mapped a shared arena: it has not got it."""
        if self.shared and self.made_in != dlm_epoch:
            raise Forked(
                f"lockspace {self.name!r} is the parent process's; connect again in the child"
            )
        return 0

    @property
    def capacity(self):
        return self.a.limits[KIND_LKB] - 1

    @property
    def lvb_len(self):
        return self.a.lvb_len

    @property
    def connections(self):
        """How many connections there are."""
        cdef uint32_t i
        self.check_here()
        return sum(1 for i in range(self.a.hdr.n_clients) if load32(&self.a.clients[i].claim))

    def usage(self):
        """Return how many locks and resources exist, as a dict."""
        self.check_here()
        return usage_of(&self.a)

    def check(self):
        """Check every invariant; raise AssertionError if one is broken (stderr says which)."""
        cdef uint32_t i
        cdef bint sound
        self.check_here()
        for i in range(<uint32_t>N_SHARDS):
            if is_stuck(&self.a, &self.a.shards[i]):
                raise AssertionError(f"shard {i} of lockspace {self.name!r} is nobody's and locked")
            with nogil:
                if not shard_lock_until(&self.a, &self.a.shards[i], soon()):
                    continue    # somebody is stopped in it; all others can be used
                sound = (
                    shard_is_sound(&self.a, &self.a.shards[i])
                    and slots_are_sound(&self.a, &self.a.shards[i])
                )
                if sound:
                    shard_unlock(&self.a, &self.a.shards[i])
                else:           # a debug build would end here
                    mutex_unlock(&self.a.shards[i].mutex, self.a.futex_flags)
            if not sound:
                raise AssertionError(f"shard {i} of lockspace {self.name!r} is broken")


cdef bint is_stuck(arena_t* a, shard_t* s) except -1:
    """Return whether a shard's mutex is held by nobody who is in: it was written over.

    The kernel marks what a thread holds before its id is free. It may have begun just now, or be
    of a pid namespace that we do not see: so the mutex must not move for a while.
    """
    cdef uint32_t word = load32(&s.mutex), changes = load32(&s.changes), tries, i, pid
    if word == 0 or word & FUTEX_DIED:
        return False
    pid = process_with(word & FUTEX_TID)
    for i in range(a.hdr.n_procs):
        if pid and a.procs[i].pid == pid and a.procs[i].started == start_time(pid):
            return False
    for tries in range(20):
        _time.sleep(0.01)
        if load32(&s.mutex) != word or load32(&s.changes) != changes:
            return False
    return True


cdef object process_with(uint32_t tid):
    """Return the id of the process that a thread belongs to, 0 if there is no such thread."""
    try:
        with open(f"/proc/{tid}/status", "rb") as file:
            return int(file.read().partition(b"\nTgid:")[2].split()[0])
    except (OSError, IndexError):
        return 0


cdef dict usage_of(arena_t* a):
    cdef uint32_t i
    locks = resources = 0
    for i in range(a.shard_mask + 1):
        locks += a.shards[i].used_lkbs
        resources += a.shards[i].used_rsbs
    return {"locks": locks, "resources": resources, "capacity": a.hdr.n_lkbs - 1}


cdef list processes_in(arena_t* a):
    cdef uint32_t i
    return [
        (a.procs[i].pid, a.procs[i].started)
        for i in range(a.hdr.n_procs)
        if is_alive(&a.procs[i])
    ]


cdef int check_sizes(capacity, lvb_len) except -1:
    capacity, lvb_len = _operator.index(capacity), _operator.index(lvb_len)
    if not 16 <= capacity <= 1 << 30:
        raise BadArgument(f"capacity {capacity} is not between 16 and {1 << 30} locks")
    if not 8 <= lvb_len <= 4096 or lvb_len % 8:
        raise BadArgument(f"lvb_len {lvb_len} is not a multiple of 8 between 8 and 4096 bytes")
    return 0


cdef int read_layout(int fd, bytes boot, header_t* h) except -1:
    """Read the header of a shared arena; raise ArenaDamaged unless it is what we would write."""
    cdef header_t expected
    cdef bytes raw = _os.pread(fd, sizeof(header_t), 0)
    if len(raw) < <Py_ssize_t>sizeof(header_t):
        raise ArenaDamaged(f"{len(raw)} bytes are too few for a lockspace")
    memcpy(h, PyBytes_AS_STRING(raw), sizeof(header_t))
    if h.magic != MAGIC:
        raise ArenaDamaged("this is no lockspace")
    if h.layout != LAYOUT:
        raise ArenaDamaged(
            f"it has layout version {h.layout}, this pydlm has {LAYOUT}: "
            "stop the programs that use the other version, then remove it"
        )
    if h.boot[:16] != boot.ljust(16, b"\0"):
        raise ArenaDamaged("it is from before the last boot")
    if h.pid_space != pid_space():
        raise StackUnavailable(
            "it was made in another pid namespace, where the ids of threads are others; processes "
            "of several containers share locks only if they share that (or use one directory each)"
        )
    try:
        check_sizes(h.n_lkbs - 1, h.lvb_len)
    except BadArgument as error:
        raise ArenaDamaged(f"its header makes no sense: {error}") from None
    memset(&expected, 0, sizeof(expected))
    lay_out(&expected, h.n_lkbs - 1, h.lvb_len)
    if (
        memcmp(&expected.n_shards, &h.n_shards, 8 * sizeof(uint32_t))
        or memcmp(&expected.off_shards, &h.off_shards, 12 * sizeof(uint64_t))
        or expected.size != h.size or h.futex_flags != 0
    ):
        raise ArenaDamaged("its header makes no sense")
    size = _os.fstat(fd).st_size
    if size != <object>h.size:
        raise ArenaDamaged(f"it has {size} bytes, its header says {h.size}")
    return 0


cdef bint has_process(uint32_t pid) except -1:
    """Return whether there is a process of that id that has not ended."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


cdef uint64_t pid_space() except? 0:
    """Return what tells the name space of our pids from others; 0: not known."""
    try:
        return _os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


def start_time(pid):
    """Return when a process began, in clock ticks since boot; 0 if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            # The name, in brackets, may hold anything.
            return int(file.read().rpartition(b")")[2].split()[19])
    except OSError:
        return 0


cdef void lay_out(header_t* h, uint32_t capacity, uint32_t lvb_len) noexcept:
    """Decide where everything lies."""
    cdef uint32_t buckets = N_SHARDS
    cdef uint64_t end
    # Four to a lock: a name that is not there yet then seldom meets one that is.
    while buckets < 4 * <uint64_t>capacity and buckets < <uint32_t>1 << 31:
        buckets *= 2
    h.magic = MAGIC
    h.layout = LAYOUT
    h.lvb_len = lvb_len
    h.n_shards = N_SHARDS
    h.n_procs = N_PROCS
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
    h.off_procs = end
    end = page_up(end + N_PROCS * sizeof(proc_t))
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
    end = page_up(end + <uint64_t>h.n_names * NAME_MAX)
    h.off_homes[KIND_LKB] = end
    end = page_up(end + h.n_lkbs)
    h.off_homes[KIND_RSB] = end
    end = page_up(end + h.n_rsbs)
    h.off_homes[KIND_LVB] = end
    end = page_up(end + h.n_lvbs)
    h.off_homes[KIND_NAME] = end
    h.size = page_up(end + h.n_names)


cdef void attach(arena_t* a, void* base) noexcept:
    cdef char* start = <char*>base
    cdef int kind
    a.hdr = <header_t*>base
    a.shards = <shard_t*>(start + a.hdr.off_shards)
    a.procs = <proc_t*>(start + a.hdr.off_procs)
    a.clients = <client_t*>(start + a.hdr.off_clients)
    a.buckets = <uint32_t*>(start + a.hdr.off_buckets)
    a.rsbs = <rsb_t*>(start + a.hdr.off_rsbs)
    a.lkbs = <lkb_t*>(start + a.hdr.off_lkbs)
    a.lvbs = <unsigned char*>(start + a.hdr.off_lvbs)
    a.names = <unsigned char*>(start + a.hdr.off_names)
    for kind in range(4):
        a.homes[kind] = <unsigned char*>start + a.hdr.off_homes[kind]
    a.next_[KIND_LKB], a.limits[KIND_LKB] = &a.hdr.next_lkb, a.hdr.n_lkbs
    a.next_[KIND_RSB], a.limits[KIND_RSB] = &a.hdr.next_rsb, a.hdr.n_rsbs
    a.next_[KIND_LVB], a.limits[KIND_LVB] = &a.hdr.next_lvb, a.hdr.n_lvbs
    a.next_[KIND_NAME], a.limits[KIND_NAME] = &a.hdr.next_name, a.hdr.n_names
    a.state = &a.outside
    a.alive = a.outside
    a.lvb_len = a.hdr.lvb_len
    a.shard_mask = a.hdr.n_shards - 1
    a.bucket_mask = a.hdr.n_buckets - 1
    a.futex_flags = <int>a.hdr.futex_flags
