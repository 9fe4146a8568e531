# Resources: found by the hash of their name, kept while a lock is on them.

cdef extern from *:
    """
    static inline uint64_t dlm_mix(uint64_t x, uint64_t y) {
        unsigned __int128 product = (unsigned __int128)x * y;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }

    /* Seeded, so that nobody who chooses names can choose collisions. */
    static inline uint32_t dlm_hash(const unsigned char *name, size_t len, uint64_t seed) {
        uint64_t h = seed ^ (len * 0x9e3779b97f4a7c15ULL), word;
        while (len >= 8) {
            memcpy(&word, name, 8);
            h = dlm_mix(h ^ word, 0xd6e8feb86659fd93ULL);
            name += 8;
            len -= 8;
        }
        word = 0;
        memcpy(&word, name, len);
        h = dlm_mix(h ^ word, 0xa0761d6478bd642fULL);
        return (uint32_t)dlm_mix(h, seed | 1);
    }
    """
    uint32_t dlm_hash(const unsigned char* name, size_t len, uint64_t seed) noexcept nogil


cdef bint have_bucket(arena_t* a, uint32_t hash) noexcept nogil:
    """See that a bucket has memory; reading it where the tmpfs is full means SIGBUS."""
    cdef uint32_t bucket = hash & a.bucket_mask
    cdef unsigned char* known = a.bucket_pages
    cdef uint32_t page = bucket >> 10       # of 1024 buckets
    if known == NULL or known[page]:
        return True
    if populate(&a.buckets[bucket], sizeof(uint32_t)):
        return False
    known[page] = 1
    return True


cdef rsb_t* find_rsb(
    arena_t* a, const unsigned char* name, uint32_t len, uint32_t hash
) noexcept nogil:
    cdef rsb_t* r
    cdef uint32_t i
    if not have_bucket(a, hash):
        return NULL
    i = a.buckets[hash & a.bucket_mask]
    while i:
        r = &a.rsbs[i]
        if r.hash == hash and r.name_len == len and memcmp(name_at(a, r), name, len) == 0:
            return r
        i = r.chain
    return NULL


cdef rsb_t* make_rsb(
    arena_t* a, shard_t* s, const unsigned char* name, uint32_t len, uint32_t hash, int* lacking
) noexcept nogil:
    """Add a resource; on NULL, `lacking` says which kind of slot is used up."""
    cdef uint32_t i, slot = 0
    cdef rsb_t* r
    if not have_bucket(a, hash):
        a.full = True
        lacking[0] = KIND_RSB
        return NULL
    if len > NAME_INLINE:
        slot = take_slot(a, s, KIND_NAME)
        if slot == 0:
            lacking[0] = KIND_NAME
            return NULL
    i = take_slot(a, s, KIND_RSB)
    if i == 0:
        lacking[0] = KIND_RSB
        if slot:
            push_free(a, s, KIND_NAME, slot)
        return NULL
    r = &a.rsbs[i]
    crash_point()
    memset(r, 0, sizeof(rsb_t))     # not R_USED until all of it is there
    crash_point()
    r.hash = hash
    r.name_len = <uint8_t>len
    r.name_slot = slot
    memcpy(name_at(a, r), name, len)
    r.token = s.token
    r.shard = <uint8_t>(s - a.shards)
    crash_point()
    r.flags = R_USED
    crash_point()
    r.chain = a.buckets[hash & a.bucket_mask]
    crash_point()
    a.buckets[hash & a.bucket_mask] = i
    s.used_rsbs += 1
    crash_point()
    return r


cdef void drop_rsb(arena_t* a, shard_t* s, rsb_t* r) noexcept nogil:
    """Forget a resource that has no locks, and with it its lock value block (rule 20)."""
    cdef uint32_t i = rsb_index(a, r), slot = r.lvb
    cdef uint32_t* link = &a.buckets[r.hash & a.bucket_mask]
    while link[0] != i and link[0]:
        link = &a.rsbs[link[0]].chain
    link[0] = r.chain
    crash_point()
    if r.token > s.token:
        s.token = r.token       # so that tokens rise though the resource was forgotten
    crash_point()
    if slot:
        r.lvb = 0
        crash_point()
        push_free(a, s, KIND_LVB, slot)
    slot = r.name_slot
    r.flags = 0
    crash_point()
    if slot:
        push_free(a, s, KIND_NAME, slot)
    push_free(a, s, KIND_RSB, i)
    s.used_rsbs -= 1
