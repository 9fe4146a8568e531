# The processes that have an arena mapped, and what the others do when one of them dies.
#
# Each process has a helper thread that holds the robust mutex `life` of its slot. When the
# process dies, in whatever way, the kernel marks the mutex and wakes a helper that sleeps on it.

cdef enum:
    FUTEX_TID = 0x3fffffff
    FUTEX_DIED = 0x40000000
    FUTEX_SLEEPERS = 0x80000000


cdef inline uint32_t* life_word(proc_t* p) noexcept nogil:
    return <uint32_t*>(<char*>&p.life + LIFE_WORD)


cdef inline bint is_dead(proc_t* p) noexcept nogil:
    """Return whether a process that had joined has died."""
    return load32(&p.state) == P_ALIVE and load32(life_word(p)) & FUTEX_DIED != 0


cdef void ring_others(arena_t* a) noexcept nogil:
    cdef uint32_t i
    for i in range(a.hdr.n_procs):
        if i != a.me and load32(&a.procs[i].state) == P_ALIVE:
            ring_process(a, i)


cdef bint claim_dead(arena_t* a, uint32_t i) noexcept nogil:
    """Make clearing up after process `i` ours; False: somebody alive is at it."""
    cdef proc_t* p = &a.procs[i]
    cdef uint32_t by = load32(&p.purger)
    if by and by != a.me + 1 and load32(&a.procs[by - 1].state) == P_ALIVE:
        if not is_dead(&a.procs[by - 1]):
            return False
    return cas32(&p.purger, by, a.me + 1)


cdef void finish_grants(arena_t* a) noexcept nogil:
    """Do the grants that somebody who died may have left undone, in all shards."""
    cdef op_t o
    cdef uint32_t i
    cdef rsb_t* r
    for i in range(1, load32(&a.hdr.next_rsb)):
        r = &a.rsbs[i]
        if not r.flags & R_USED or (r.converting == 0 and r.waiting == 0):
            continue
        op_begin(&o, a, &a.shards[r.shard])
        if r.flags & R_USED and &a.shards[r.shard] == o.s:
            grant_pending(&o, r)
        op_end(&o, i)


cdef void bury(arena_t* a, uint32_t i) noexcept nogil:
    """Release all that a dead process had, and its slot. Whoever dies here is buried with it."""
    cdef proc_t* p = &a.procs[i]
    cdef uint32_t c, searching
    if not claim_dead(a, i):
        return
    # If we die in here, those who clear up after us know that there is more to do.
    add32(&a.procs[a.me].in_flight, 1)
    for c in range(a.hdr.n_clients):
        if load32(&a.clients[c].claim) != i + 1:
            continue
        searching = load32(&a.hdr.searching)
        if searching and searching == a.clients[c].node and cas32(&a.hdr.searching, searching, 0):
            futex_wake(&a.hdr.searching, 0x7fffffff, a.futex_flags)
        while not purge_client(a, c, True):
            pass                # no memory for a moment; nobody else can do it
    # The next to take a shard that it died in repairs that; so that nobody waits for it, we do.
    for c in range(a.shard_mask + 1):
        if load32(&a.shards[c].mutex) & FUTEX_DIED:
            shard_lock(a, &a.shards[c])
            shard_unlock(a, &a.shards[c])
    finish_grants(a)
    for c in range(a.hdr.n_clients):
        if load32(&a.clients[c].node):
            or32(&a.clients[c].rescan, RESCAN_FDS | RESCAN_EVENTS)
    store32(&p.in_flight, 0)
    store32(&p.state, P_FREE)
    store32(&p.purger, 0)
    ring_others(a)
    store32(&a.procs[a.me].doorbell, 1)
    add32(&a.procs[a.me].in_flight, <uint32_t>-1)


cdef void bury_all(arena_t* a) noexcept nogil:
    cdef uint32_t i
    for i in range(a.hdr.n_procs):
        if i != a.me and is_dead(&a.procs[i]):
            bury(a, i)


cdef void look_after(arena_t* a) noexcept nogil:
    """Serve our own connections: their descriptors, and threads whose waker died."""
    cdef uint32_t i
    cdef lkb_t* k
    cdef bint rescan = False
    for i in range(a.hdr.n_clients):
        if load32(&a.clients[i].claim) == a.me + 1 and load32(&a.clients[i].node):
            if load32(&a.clients[i].rescan) & RESCAN_FDS:
                rescan = True
            pump_mine(a, <uint16_t>i)
    if not rescan:
        return
    for i in range(1, load32(&a.hdr.next_lkb)):
        k = &a.lkbs[i]
        if load32(&k.futex) == ENDED and k.client != NOBODY and not a_stranger(a, k.client):
            futex_wake(&k.futex, 1, a.futex_flags)
