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
    """End one lock of a client that is gone; a native lock is released as if by `close`.

    It is its client's to the end: should we die, whoever clears up after us finds it by that.
    """
    cdef bint native = k.bits & B_SYNC and not died, left = False
    cdef rsb_t* r = &o.a.rsbs[k.rsb]
    if a_stranger(o.a, k.client):
        k.futex = 0             # its threads are gone too
    elif load32(&k.futex):
        store32(&k.futex, LEFT_TO_WAITER)      # its thread finds the connection closed
        futex_wake(&k.futex, 1, o.a.futex_flags)
        left = True
    crash_point()
    k.bits &= ~(B_READY | B_FD_SYNC | B_HAS_FD)
    k.fd = 0
    if is_zombie(k):
        # Only its events were left, and nobody will read them.
        if left:
            leave_to_waiter(o.a, k)
        else:
            give_lkb(o.a, o.s, k)
        return
    if k.queue == Q_HANDLE:
        give_lkb(o.a, o.s, k)
        return
    k.bits |= B_ORPHAN          # from here on, nobody is told
    k.bits &= ~B_SYNC
    crash_point()
    if k.exflags & LKF_PERSISTENT:
        if k.queue == Q_WAITING:
            do_cancel(o, r, k, ST_ECANCEL)
            return
        do_cancel(o, r, k, ST_ECANCEL)
        k.ready_next = node
        k.born = add32(&o.a.hdr.n_orphaned, 1)
        crash_point()
        k.client = NOBODY
        crash_point()
        return
    if not native:
        k.exflags |= LKF_IVVALBLK
    elif k.bits & B_DIRTY:
        publish_dirty(o.a, o.s, r, k)
    do_unlock(o, r, k)
    if left:
        leave_to_waiter(o.a, k)


cdef void leave_to_waiter(arena_t* a, lkb_t* k) noexcept nogil:
    """Let go of a slot that a thread of this process is to free when it wakes."""
    k.ready_next = a.me + 1
    crash_point()
    k.client = NOBODY
    crash_point()


cdef void reap_left(arena_t* a, uint32_t proc) noexcept nogil:
    """Free the slots that threads of a dead process were to free."""
    cdef uint32_t i
    cdef lkb_t* k
    cdef shard_t* s
    for i in range(1, load32(&a.hdr.next_lkb)):
        k = &a.lkbs[i]
        if k.client != NOBODY or load32(&k.futex) != LEFT_TO_WAITER or k.ready_next != proc + 1:
            continue
        s = shard_of(a, k)
        shard_lock(a, s)
        if (
            k.bits & B_USED and is_zombie(k) and k.client == NOBODY
            and load32(&k.futex) == LEFT_TO_WAITER and k.ready_next == proc + 1
        ):
            store32(&k.futex, 0)
            give_lkb(a, s, k)
        shard_unlock(a, s)


# The first eight bytes of a client_t, which change as one.
cdef extern from *:
    """
    static inline uint64_t claim_word(uint32_t claim, uint32_t node) {
        uint32_t both[2] = { claim, node };
        uint64_t word;
        memcpy(&word, both, sizeof word);
        return word;
    }
    static inline uint32_t claim_of(uint64_t word) {
        uint32_t both[2];
        memcpy(both, &word, sizeof word);
        return both[0];
    }
    static inline uint32_t node_of(uint64_t word) {
        uint32_t both[2];
        memcpy(both, &word, sizeof word);
        return both[1];
    }
    """
    uint64_t claim_word(uint32_t claim, uint32_t node) noexcept nogil
    uint32_t claim_of(uint64_t word) noexcept nogil
    uint32_t node_of(uint64_t word) noexcept nogil


cdef inline bint still(client_t* c, uint64_t claim) noexcept nogil:
    """Return whether a client's slot has not become somebody else's."""
    return load64(<uint64_t*>&c.claim) == claim


cdef bint record_death(
    arena_t* a, client_t* c, uint64_t claim, int64_t until
) noexcept nogil:
    """Put down that a client died, once."""
    cdef uint32_t n, i
    if not shard_lock_until(a, a.shards, until):
        return False
    n = load32(&a.hdr.n_deaths)
    # The oldest place is the one to be written now: whoever died there may have begun to.
    for i in range(n - MAX_DEATHS + 1 if n >= MAX_DEATHS else 0, n):
        if a.hdr.deaths[i % MAX_DEATHS] == node_of(claim):
            break
    else:
        if still(c, claim):
            a.hdr.deaths[n % MAX_DEATHS] = node_of(claim)
            crash_point()
            store32(&a.hdr.n_deaths, n + 1)
            crash_point()
    shard_unlock(a, a.shards)
    return True


cdef enum:
    PURGED
    NO_MEMORY
    HELD_UP                  # by shards that somebody is in, who may be stopped


cdef int purge_client(
    arena_t* a, uint32_t client, uint64_t claim, bint died, uint64_t* busy
) noexcept nogil:
    """Release all a client had, and its slot; with `died` as the kernel does for a client gone.

    `claim`: the client's; there is nothing to do once it is no longer in that slot. `busy`: the
    shards to be left out, to which are added those that take too long; NULL: waits for all.
    """
    cdef client_t* c = &a.clients[client]
    cdef op_t o
    cdef uint32_t i, n, rsb
    cdef lkb_t* k
    cdef bint left = False
    cdef born_t* locks = locks_of(a, client, &n)
    if locks == NULL:
        return NO_MEMORY
    for i in range(n):
        k = &a.lkbs[locks[i].lkb]
        op_init(&o, a, shard_of(a, k))
        if not lock_if_free(a, o.s, busy):
            left = True
            continue
        rsb = k.rsb
        if k.bits & B_USED and k.client == client and still(c, claim):
            lose_lkb(&o, k, node_of(claim), died)
        op_end(&o, rsb)
    free(locks)
    if left:
        return HELD_UP
    if died and not record_death(a, c, claim, NEVER if busy == NULL else soon()):
        return HELD_UP
    crash_point()
    cas64(<uint64_t*>&c.claim, claim, 0)
    crash_point()
    return PURGED


cdef inline int64_t soon() noexcept nogil:
    """Return the time until which to wait for a shard of which nobody should be long inside."""
    return monotonic_ns() + 20000000


cdef bint lock_if_free(arena_t* a, shard_t* s, uint64_t* busy) noexcept nogil:
    """Lock a shard unless it is one of the `busy`, or takes too long and becomes one."""
    cdef uint64_t bit = <uint64_t>1 << (s - a.shards)
    if busy == NULL:
        shard_lock(a, s)
        return True
    if busy[0] & bit or not shard_lock_until(a, s, soon()):
        busy[0] |= bit
        return False
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
    best.exflags = flags
    best.has_cast = best.bast_first = best.bast_then = 0
    best.granted_before = best.grmode
    best.born = add32(&o.a.clients[client].born, 1)
    best.futex = 0
    crash_point()
    best.client = client        # from here on, its death is what becomes of the lock
    crash_point()
    best.bits &= ~B_ORPHAN
    best.ready_next = 0
    out[0] = best
    return 0
