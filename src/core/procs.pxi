# The processes that have an arena mapped, and what the others do when one of them dies.
#
# Each process has a helper thread that holds the robust mutexes `life` of its slot. When the
# process dies, in whatever way, the kernel marks them and wakes one sleeper on each, who may be
# stopped: hence several.

cdef enum:
    FUTEX_TID = 0x3fffffff
    FUTEX_DIED = 0x40000000
    FUTEX_SLEEPERS = 0x80000000
    BURIAL_TIME = 20         # centiseconds; who takes longer is stopped, and somebody else helps


cdef inline uint32_t* life_word(proc_t* p, uint32_t which) noexcept nogil:
    return <uint32_t*>(<char*>&p.life[which] + LIFE_WORD)


cdef inline bint is_dead(proc_t* p) noexcept nogil:
    """Return whether a process that had joined has died, and its slot is still to be cleared."""
    cdef uint32_t state = load32(&p.state) & P_MASK
    # The first one that it took is the last one that the kernel marks.
    return state == P_DEAD or (state == P_ALIVE and load32(life_word(p, 0)) & FUTEX_DIED != 0)


cdef inline bint is_alive(proc_t* p) noexcept nogil:
    return load32(&p.state) & P_MASK == P_ALIVE and not is_dead(p)


cdef void ring_others(arena_t* a) noexcept nogil:
    cdef uint32_t i
    for i in range(a.hdr.n_procs):
        if i != a.me and load32(&a.procs[i].state) & P_MASK == P_ALIVE:
            ring_process(a, i)


cdef bint somebody_buries(arena_t* a, uint32_t i) noexcept nogil:
    """Return whether another process clears up after process `i`, and has not stopped over it."""
    cdef proc_t* p = &a.procs[i]
    cdef uint32_t by = load32(&p.purger)
    if by == 0 or by == a.me + 1 or by > a.hdr.n_procs or not is_alive(&a.procs[by - 1]):
        return False
    return coarse_centiseconds() - p.purged_since < BURIAL_TIME


cdef bint claim_dead(arena_t* a, uint32_t i) noexcept nogil:
    """Make clearing up after process `i` ours; False: it has been done, or somebody is at it."""
    cdef proc_t* p = &a.procs[i]
    cdef uint32_t by
    while is_dead(p):
        by = load32(&p.purger)
        if somebody_buries(a, i):
            helper.later = True
            return False
        p.purged_since = coarse_centiseconds()
        crash_point()
        if cas32(&p.purger, by, a.me + 1):
            crash_point()
            if is_dead(p):
                return True
            cas32(&p.purger, a.me + 1, 0)   # it was somebody new already
    return False


cdef void tell_all(arena_t* a, uint64_t* busy) noexcept nogil:
    """Do what somebody who died may have left undone: grants, and telling others of theirs."""
    cdef op_t o
    cdef uint32_t i
    cdef rsb_t* r
    for i in range(1, load32(&a.hdr.next_rsb)):
        r = &a.rsbs[i]
        if not r.flags & R_USED or (r.converting == 0 and r.waiting == 0):
            continue
        op_init(&o, a, &a.shards[r.shard])
        if not lock_if_free(a, o.s, busy):
            continue
        if r.flags & R_USED and &a.shards[r.shard] == o.s:
            grant_pending(&o, r)
        op_end(&o, i)
    crash_point()
    for i in range(a.hdr.n_clients):
        if load32(&a.clients[i].claim):
            or32(&a.clients[i].rescan, RESCAN_FDS | RESCAN_EVENTS)


cdef void bury(arena_t* a, uint32_t i) noexcept nogil:
    """Release all that a dead process had, and its slot.

    Who dies in here is buried in turn, and somebody else goes on. Several may be at it at once:
    each step is taken by the first, and of no effect for the others.
    """
    cdef proc_t* p = &a.procs[i]
    cdef uint32_t c, searching, state
    cdef uint64_t claim
    cdef shard_t* s
    cdef uint64_t busy = 0
    cdef int how
    if not claim_dead(a, i):
        return
    # If we die in here, those who clear up after us know that there is more to do.
    add32(&a.procs[a.me].in_flight, 1)
    crash_point()
    state = load32(&p.state)
    cas32(&p.state, state, state | P_DEAD)
    state |= P_DEAD
    crash_point()
    # The helper died; other threads may live a moment longer. Each shard, once locked from here
    # on, is rid of them. Those that it died in are repaired. Somebody else may be stopped in one:
    # that is left for later, and all the others are done.
    for c in range(a.shard_mask + 1):
        s = &a.shards[c]
        if not lock_if_free(a, s, &busy):
            continue
        if s.repaired:
            s.repaired = 0
            store32(&p.in_flight, 1)    # for whoever goes on
        shard_unlock(a, s)
    for c in range(a.hdr.n_clients):
        claim = load64(<uint64_t*>&a.clients[c].claim)
        if claim_of(claim) != i + 1:
            continue
        if load32(&p.state) != state:
            break               # somebody else has finished; this is a new process's
        searching = load32(&a.hdr.searching)
        if searching == node_of(claim):
            cas32(&a.hdr.searching, searching, 0)
        while True:
            how = purge_client(a, c, claim, True, &busy)
            if how != NO_MEMORY:        # for a moment; nobody else can do it
                break
        if how == HELD_UP:
            busy |= 1           # the first shard's mutex is over the list of deaths
    futex_wake(&a.hdr.searching, 0x7fffffff, a.futex_flags)
    if busy == 0:
        rescue_slot(a, p)
        reap_left(a, i)
    if load32(&p.in_flight):
        tell_all(a, &busy)
    if busy:
        helper.later = True
        cas32(&p.purger, a.me + 1, 0)
        add32(&a.procs[a.me].in_flight, <uint32_t>-1)
        return
    crash_point()
    for c in range(a.hdr.n_procs):
        cas32(&a.procs[c].purger, i + 1, 0)
    crash_point()
    cas32(&p.state, state, P_FREE)
    crash_point()
    ring_others(a)
    store32(&a.procs[a.me].doorbell, RUNG)
    add32(&a.procs[a.me].in_flight, <uint32_t>-1)


cdef void bury_all(arena_t* a) noexcept nogil:
    cdef uint32_t i
    for i in range(a.hdr.n_procs):
        if i != a.me and is_dead(&a.procs[i]):
            bury(a, i)


cdef void wake_for_the_dead(arena_t* a) noexcept nogil:
    """Have our helper bury whoever died and is still there.

    All who were to be woken by a death may be stopped. So a thread that waits, perhaps for the
    dead, looks for itself now and then; what the kernel tells is faster, and nearly always comes.
    """
    cdef uint32_t i
    for i in range(a.hdr.n_procs):
        if is_dead(&a.procs[i]):
            ring_process(a, a.me)
            return


cdef void look_after(arena_t* a) noexcept nogil:
    """Serve our own connections: their descriptors, and threads whose waker died."""
    cdef uint32_t i, client
    cdef lkb_t* k
    cdef bint rescan = False
    for i in range(a.hdr.n_clients):
        if load32(&a.clients[i].claim) == a.me + 1:
            if load32(&a.clients[i].rescan) & RESCAN_FDS:
                rescan = True
            pump_mine(a, <uint16_t>i)
    if not rescan:
        return
    for i in range(1, load32(&a.hdr.next_lkb)):
        k = &a.lkbs[i]
        client = k.client
        if load32(&k.futex) == ENDED and client != NOBODY and not a_stranger(a, client):
            futex_wake(&k.futex, 1, a.futex_flags)
