# What becomes of the locks of a client that is gone (rules 31 to 33).

cdef struct born_t:
    uint32_t born
    uint32_t lkb


cdef int older(const void* x, const void* y) noexcept nogil:
    return -1 if (<born_t*>x).born < (<born_t*>y).born else 1


cdef born_t* locks_of(arena_t* a, uint32_t client, uint32_t* n) noexcept nogil:
    """List the locks of a client, oldest first. The caller frees the list; NULL: no memory."""
    cdef uint32_t i, room = 0, last = load32(&a.hdr.next_lkb)
    cdef lkb_t* k
    cdef born_t* list_
    n[0] = 0
    for i in range(1, last):
        k = &a.lkbs[i]
        if k.bits & B_USED and k.client == client:
            room += 1
    list_ = <born_t*>malloc((room + 1) * sizeof(born_t))
    if list_ == NULL:
        return NULL
    for i in range(1, last):
        k = &a.lkbs[i]
        if k.bits & B_USED and k.client == client and n[0] < room:
            list_[n[0]].born = k.born
            list_[n[0]].lkb = i
            n[0] += 1
    qsort(list_, n[0], sizeof(born_t), older)
    return list_


cdef void lose_lkb(op_t* o, lkb_t* k, uint32_t node, bint died) noexcept nogil:
    """End one lock of a client that is gone; a native lock is released as if by `close`."""
    cdef bint native = k.bits & B_SYNC and not died
    cdef rsb_t* r = &o.a.rsbs[k.rsb]
    if is_zombie(k):
        # Only its events were left, and nobody will read them.
        give_lkb(o.a, o.s, k)
        return
    k.bits &= ~(B_READY | B_FD_SYNC | B_HAS_FD)
    if a_stranger(o.a, k.client):
        k.futex = 0             # its threads are gone too
    elif load32(&k.futex):
        store32(&k.futex, LEFT_TO_WAITER)      # its thread finds the connection closed
        futex_wake(&k.futex, 1, o.a.futex_flags)
    if k.queue == Q_HANDLE:
        give_lkb(o.a, o.s, k)
        return
    k.bits |= B_ORPHAN          # from here on, nobody is told
    k.bits &= ~B_SYNC
    k.client = NOBODY
    k.ready_next = node
    k.born = add32(&o.a.hdr.n_orphaned, 1)
    if k.exflags & LKF_PERSISTENT:
        if k.queue == Q_WAITING or k.queue == Q_CONVERT:
            do_cancel(o, r, k, ST_ECANCEL)
        return
    if not native:
        k.exflags |= LKF_IVVALBLK
    elif k.bits & B_DIRTY:
        publish_dirty(o.a, o.s, r, k)
    do_unlock(o, r, k)


cdef void record_death(arena_t* a, uint32_t node) noexcept nogil:
    cdef uint32_t n
    shard_lock(a, a.shards)
    n = a.hdr.n_deaths
    a.hdr.deaths[n % MAX_DEATHS] = node
    crash_point()
    store32(&a.hdr.n_deaths, n + 1)
    shard_unlock(a, a.shards)


cdef bint purge_client(arena_t* a, uint32_t client, bint died) noexcept nogil:
    """Release all a client had, and its slot; with `died` as the kernel does for a client gone."""
    cdef client_t* c = &a.clients[client]
    cdef uint32_t node = c.node
    cdef op_t o
    cdef uint32_t i, n, rsb
    cdef lkb_t* k
    cdef born_t* locks = locks_of(a, client, &n)
    if locks == NULL:
        return False
    for i in range(n):
        k = &a.lkbs[locks[i].lkb]
        op_begin(&o, a, shard_of(a, k))
        rsb = k.rsb
        if k.bits & B_USED and k.client == client:
            lose_lkb(&o, k, node, died)
        op_end(&o, rsb)
    free(locks)
    c.ready = 0
    c.fd_sync = 0
    if died and node:
        record_death(a, node)
    crash_point()
    store32(&c.node, 0)
    crash_point()
    store32(&c.claim, 0)
    return True


cdef bint purge_orphans(arena_t* a, uint32_t node) noexcept nogil:
    cdef op_t o
    cdef uint32_t i, n, rsb
    cdef lkb_t* k
    cdef born_t* locks = locks_of(a, NOBODY, &n)
    if locks == NULL:
        return False
    for i in range(n):
        k = &a.lkbs[locks[i].lkb]
        op_begin(&o, a, shard_of(a, k))
        rsb = k.rsb
        if k.bits & B_ORPHAN and (node == 0 or k.ready_next == node):
            k.exflags |= LKF_FORCEUNLOCK | LKF_IVVALBLK
            do_unlock(&o, &a.rsbs[rsb], k)
        op_end(&o, rsb)
    free(locks)
    return True


cdef int adopt_orphan(
    op_t* o, rsb_t* r, uint16_t client, int mode, uint32_t flags, lkb_t** out
) noexcept nogil:
    """Give an orphan a client again: the first one left of that mode (rule 33)."""
    cdef lkb_t* k
    cdef lkb_t* best = NULL
    cdef bint other_mode = False
    cdef uint32_t i = r.granted
    while i:
        k = &o.a.lkbs[i]
        i = k.next
        if not k.bits & B_ORPHAN:
            continue
        if k.grmode != mode:
            other_mode = True
        elif best == NULL or k.born < best.born:
            best = k
    if best == NULL:
        return EAGAIN if other_mode else ENOENT
    best.bits &= ~B_ORPHAN
    best.client = client
    best.exflags = flags
    best.ready_next = 0
    best.has_cast = best.bast_first = best.bast_then = 0
    best.granted_before = best.grmode
    best.born = add32(&o.a.clients[client].born, 1)
    out[0] = best
    return 0
