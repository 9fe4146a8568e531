# Completions (AST) and notices (BAST), recorded in the lock they concern (rules 23 to 26).
#
# While a shard is locked we only write memory. Whom to wake and whose descriptors to raise is
# collected in an op_t and done after the mutex is given up.

cdef enum:
    MAX_WAKE = 32            # grants of one critical section; more go on in the next
    MAX_RING = 16            # connections told one by one; more, and all are looked at
    MAX_DIRECT = 4           # descriptors of other processes raised at once: see direct.pxi

cdef struct op_t:
    arena_t* a
    shard_t* s
    uint32_t n_wake
    uint32_t n_ring
    bint unfinished          # n_wake was reached: run the grant pass of the resource again
    int lacking              # kind of slot that is used up, if that is why it failed
    uint32_t wake[MAX_WAKE]
    uint16_t ring[MAX_RING]
    uint32_t n_direct
    uint32_t direct[MAX_DIRECT]


cdef inline void op_init(op_t* o, arena_t* a, shard_t* s) noexcept nogil:
    o.a = a
    o.s = s
    o.n_wake = 0
    o.n_ring = 0
    o.n_direct = 0
    o.unfinished = False


cdef inline void op_begin(op_t* o, arena_t* a, shard_t* s) noexcept nogil:
    op_init(o, a, s)
    shard_lock(a, s)


cdef inline void enter(op_t* o, arena_t* a, shard_t* s) noexcept:
    """op_begin with the GIL: not held while we wait for the mutex.

    Nor is the mutex held while we wait for the GIL: who has the GIL may be waiting for the mutex.
    So we wait until it is free, come back, and try again.
    """
    op_init(o, a, s)
    while not (dlm_thread_ready() and mutex_trylock(&s.mutex)):
        with nogil:
            shard_lock(a, s)
            shard_unlock(a, s)
    if load32(a.state) != a.alive:
        wait_for_death()
    crash_point()


cdef void ring(op_t* o, uint16_t client) noexcept nogil:
    cdef uint32_t i
    if o.n_ring > MAX_RING:
        return
    for i in range(o.n_ring):
        if o.ring[i] == client:
            return
    if o.n_ring < MAX_RING:
        o.ring[o.n_ring] = client
    o.n_ring += 1


cdef void push_ready(op_t* o, lkb_t* k) noexcept nogil:
    """Put a lock that has got its first event on its client's list."""
    cdef client_t* c = &o.a.clients[k.client]
    cdef uint32_t i = lkb_index(o.a, k)
    cdef uint32_t head
    if k.bits & B_READY:
        if a_stranger(o.a, k.client):
            ring(o, k.client)   # as below
        return
    crash_point()
    k.bits |= B_READY           # first: if we die, its owner looks for it though it is not listed
    while True:
        head = load32(&c.ready)
        k.ready_next = head
        crash_point()
        if cas32(&c.ready, head, i):
            break
    crash_point()
    # Whoever came first is to tell; but in another process it may be stopped before it does.
    if head == 0 or a_stranger(o.a, k.client):
        ring(o, k.client)


cdef void push_fd_sync(op_t* o, lkb_t* k) noexcept nogil:
    """Have the lock's own descriptor brought up to date."""
    cdef client_t* c = &o.a.clients[k.client]
    cdef uint32_t i = lkb_index(o.a, k)
    cdef uint32_t head
    if not k.bits & B_HAS_FD:
        return
    if k.bits & B_FD_SYNC:
        # Somebody else has it done by the helper; but our own may be raised, and we are here
        # already, and who is to ring another's may be stopped.
        ring(o, k.client)
        return
    crash_point()
    k.bits |= B_FD_SYNC
    while True:
        head = load32(&c.fd_sync)
        k.fd_next = head
        crash_point()
        if cas32(&c.fd_sync, head, i):
            break
    crash_point()
    if head == 0 or a_stranger(o.a, k.client):
        ring(o, k.client)


cdef inline void record(lkb_t* k, int status, int mode) noexcept nogil:
    """Write down how a request ends, before the state says that it has."""
    k.status = status
    if not k.bits & (B_SYNC | B_ORPHAN):
        k.cast_mode = <int8_t>mode
        k.cast_sb = k.sbflags
        k.has_cast = True
    crash_point()


cdef inline void announce(op_t* o, lkb_t* k) noexcept nogil:
    """Tell the owner, once the state has changed."""
    if k.bits & B_SYNC:
        if load32(&k.futex) == WAITED:
            store32(&k.futex, ENDED)
            crash_point()
            o.wake[o.n_wake] = lkb_index(o.a, k)
            o.n_wake += 1
    elif not k.bits & B_ORPHAN:
        push_ready(o, k)


cdef inline void complete(op_t* o, lkb_t* k, int status) noexcept nogil:
    """Record and announce the end of a request that leaves the lock as it was."""
    record(k, status, k.grmode)
    announce(o, k)


cdef void notify(op_t* o, lkb_t* k, int mode) noexcept nogil:
    """Record that a holder is wanted to make way for `mode`."""
    cdef uint8_t* slot
    if not k.bits & B_ORPHAN:
        push_fd_sync(o, k)
        if k.fd and o.n_direct < MAX_DIRECT and a_stranger(o.a, k.client):
            o.direct[o.n_direct] = lkb_index(o.a, k)
            o.n_direct += 1
        if o.a.clients[k.client].listening:
            slot = &k.bast_then if k.has_cast else &k.bast_first
            if mode > slot[0]:
                slot[0] = <uint8_t>mode
            push_ready(o, k)
    k.highbast = <uint8_t>mode  # last: who dies before leaves it to be told
    crash_point()
