# The requests: check the arguments, do it, see to the consequences. Return 0 or an errno.


cdef inline void shard_lock(arena_t* a, shard_t* s) noexcept nogil:
    shard_lock_until(a, s, -1)


cdef inline bint shard_lock_until(arena_t* a, shard_t* s, int64_t until) noexcept nogil:
    """Lock a shard; False: whoever has it did not give it up in time."""
    cdef int rc
    dlm_thread_ready()
    rc = mutex_lock(&s.mutex, until, a.futex_flags)
    if rc < 0:
        return False
    if rc:
        repair_shard(a, s)
    if load32(a.state) != a.alive:
        wait_for_death()
    crash_point()
    return True


cdef inline void shard_unlock(arena_t* a, shard_t* s) noexcept nogil:
    if PYDLM_DEBUG:
        check_shard(a, s)
    s.changes += 1
    crash_point()
    mutex_unlock(&s.mutex, a.futex_flags)


cdef int check_lock_flags(int mode, uint32_t flags) noexcept nogil:
    """Rule 27: what the kernel refuses before it looks at a lock."""
    if mode < NL or mode > EX or flags & ~LKF_KNOWN or flags & LKF_CANCEL:
        return EINVAL
    if flags & (LKF_QUECVT | LKF_CONVDEADLK) and not flags & LKF_CONVERT:
        return EINVAL
    if flags & LKF_CONVDEADLK and flags & LKF_NOQUEUE:
        return EINVAL
    if flags & LKF_EXPEDITE and (
        flags & (LKF_CONVERT | LKF_QUECVT | LKF_NOQUEUE) or mode != NL
    ):
        return EINVAL
    return 0


cdef void release_lkb(op_t* o, rsb_t* r, lkb_t* k) noexcept nogil:
    """Take a lock off its resource; its slot goes once nothing refers to it any more."""
    crash_point()
    k.rsb = 0
    crash_point()
    r.n_locks -= 1
    if r.n_locks == 0:
        drop_rsb(o.a, o.s, r)
    k.queue = Q_NONE            # a zombie, if something still refers to it
    give_if_done(o.a, o.s, k)


cdef lkb_t* add_lkb(op_t* o, rsb_t* r, uint16_t client, uint8_t bits) noexcept nogil:
    cdef uint32_t i = take_lkb(o.a, o.s)
    cdef lkb_t* k
    if i == 0:
        o.lacking = KIND_LKB
        return NULL
    k = &o.a.lkbs[i]
    k.rsb = rsb_index(o.a, r)
    k.client = client
    k.grmode = IV
    k.rqmode = IV
    k.granted_before = IV
    k.born = add32(&o.a.clients[client].born, 1)
    crash_point()
    k.bits = bits | B_USED      # not before all of it is there
    crash_point()
    r.n_locks += 1
    return k


cdef int do_lock(
    op_t* o, uint16_t client, const unsigned char* name, uint32_t len, uint32_t hash,
    int mode, uint32_t flags, uint8_t bits, uint32_t owner, lkb_t** out
) noexcept nogil:
    """A new request (rule 4). ENOSPC: no slot of the kind `o.lacking` is left in this shard."""
    cdef arena_t* a = o.a
    cdef rsb_t* r = find_rsb(a, name, len, hash)
    cdef lkb_t* k
    cdef bint deadlock
    cdef uint8_t wanted = 0 if r == NULL else r.wanted_mask
    if r == NULL:
        r = make_rsb(a, o.s, name, len, hash, &o.lacking)
        if r == NULL:
            return ENOSPC
    k = add_lkb(o, r, client, bits)
    if k != NULL and flags & LKF_VALBLK and not bits & B_SYNC:
        k.lvb = take_slot(a, o.s, KIND_LVB)
        crash_point()
        if k.lvb == 0:
            o.lacking = KIND_LVB
            release_lkb(o, r, k)
            return ENOSPC
        memset(lvb_at(a, k.lvb), 0, a.lvb_len)
        k.bits |= B_OWN_LVB
    if k == NULL:
        if r.n_locks == 0:
            drop_rsb(a, o.s, r)
        return ENOSPC
    k.exflags = flags
    k.rqmode = <int8_t>mode
    k.owner = owner
    out[0] = k
    if grantable(a, r, k, True, &deadlock):
        grant_and_tell(o, r, k)
    elif not flags & LKF_NOQUEUE:
        put_queued(a, r, k, Q_WAITING)
        notify_of_waiter(o, r, k)
        if mode == NL or r.wanted[mode - 1] <= 2:     # one may be a holder's own
            follow_interest(o, r, wanted)
    else:
        complete(o, k, ST_EAGAIN)
        if flags & LKF_NOQUEUEBAST:
            notify_one_request(o, r, k, r.granted)
            notify_one_request(o, r, k, r.converting)
        release_lkb(o, r, k)
    return 0


cdef int do_convert(op_t* o, rsb_t* r, lkb_t* k, int mode, uint32_t flags) noexcept nogil:
    """A conversion (rules 5 to 13)."""
    cdef arena_t* a = o.a
    cdef bint deadlock, cw
    cdef int high
    cdef uint8_t wanted = r.wanted_mask
    if k.queue != Q_GRANTED:
        return EBUSY
    if flags & LKF_QUECVT and not may_quecvt(k.grmode, mode):
        return EINVAL
    k.exflags = flags
    k.sbflags = 0
    k.rqmode = <int8_t>mode
    if k.lvb:
        k.bits |= B_OWN_LVB
    if grantable(a, r, k, True, &deadlock):
        grant_and_tell(o, r, k)
        grant_pending(o, r)
        return 0
    if deadlock and not flags & LKF_NODLCKWT:
        k.rqmode = IV
        complete(o, k, ST_EDEADLK)
        return 0
    if k.sbflags & SBF_DEMOTED:
        # It made way; whoever now can goes first.
        grant_conversions(o, r, &high, &cw)
        if grantable_as(a, r, k, mode, True):
            grant_and_tell(o, r, k)
            grant_pending(o, r)
            return 0
    if not flags & LKF_NOQUEUE:
        take_off_queue(a, r, k)
        put_queued(a, r, k, Q_CONVERT)
        notify_of_waiter(o, r, k)
        if mode == NL or r.wanted[mode - 1] <= 2:     # one may be a holder's own
            follow_interest(o, r, wanted)
        return 0
    complete(o, k, ST_EAGAIN)   # rqmode stays: see put_granted
    if flags & LKF_NOQUEUEBAST:
        notify_one_request(o, r, k, r.granted)
        notify_one_request(o, r, k, r.converting)
    return 0


cdef int do_unlock(op_t* o, rsb_t* r, lkb_t* k) noexcept nogil:
    """Remove a lock, whatever queue it is on."""
    cdef uint32_t i = k.rsb
    cdef uint8_t wanted = r.wanted_mask
    lvb_at_unlock(o.a, o.s, r, k)
    take_off_queue(o.a, r, k)
    uncount_held(r, k.grmode)
    record(k, ST_EUNLOCK, IV)
    set_state(k, Q_NONE, IV, IV)
    announce(o, k)
    release_lkb(o, r, k)
    if o.a.rsbs[i].flags & R_USED:
        grant_pending(o, r)
        follow_interest(o, r, wanted)
    return 0


cdef int do_cancel(op_t* o, rsb_t* r, lkb_t* k, int status) noexcept nogil:
    """Take back a request: a conversion keeps its granted mode, a new lock is gone."""
    cdef int queue = k.queue
    cdef uint32_t i = k.rsb
    cdef uint8_t wanted = r.wanted_mask
    if queue == Q_GRANTED:
        return 0                # nothing to take back (rule 30)
    take_off_queue(o.a, r, k)
    record(k, status, k.grmode)
    if queue == Q_CONVERT:
        set_state(k, Q_GRANTED, k.grmode, IV)
        put_granted(o.a, r, k)
        r.basted = 0            # back at the front with an old token: see notify_holders
        announce(o, k)
    else:
        set_state(k, Q_NONE, IV, IV)
        announce(o, k)
        release_lkb(o, r, k)
    if o.a.rsbs[i].flags & R_USED:
        grant_pending(o, r)
        follow_interest(o, r, wanted)
    return 0


cdef void op_flush(op_t* o) noexcept nogil:
    """Wake the granted and tell the notified. Called without the mutex."""
    cdef uint32_t i
    for i in range(o.n_direct):
        raise_direct(o, o.direct[i])
    o.n_direct = 0
    for i in range(o.n_wake):
        futex_wake(&o.a.lkbs[o.wake[i]].futex, 1, o.a.futex_flags)
        crash_point()
    if o.n_ring > MAX_RING:
        pump_all(o.a)
    else:
        for i in range(o.n_ring):
            pump(o.a, o.ring[i])
    o.n_wake = 0
    o.n_ring = 0


cdef void op_end(op_t* o, uint32_t rsb) noexcept nogil:
    """Give the mutex up and deliver; go on while the grants of `rsb` are not done."""
    cdef bint more = o.unfinished, flight = o.n_wake or o.n_ring or o.n_direct or more
    cdef rsb_t* r
    if flight:
        # Whoever clears up after us then knows that somebody may not have been told.
        add32(&o.a.procs[o.a.me].in_flight, 1)
    crash_point()
    shard_unlock(o.a, o.s)
    crash_point()
    if not flight:
        return
    op_flush(o)
    while more:
        op_begin(o, o.a, o.s)
        # Somebody else may have this slot meanwhile; a pass over it does no harm.
        r = &o.a.rsbs[rsb]
        if r.flags & R_USED and (r.hash & o.a.shard_mask) == <uint32_t>(o.s - o.a.shards):
            grant_pending(o, r)
        more = o.unfinished
        shard_unlock(o.a, o.s)
        op_flush(o)
    add32(&o.a.procs[o.a.me].in_flight, <uint32_t>-1)
