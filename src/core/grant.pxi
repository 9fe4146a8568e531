# Who is granted what, and when (docs/design.md, rules 4 to 17).


cdef inline bint conflicts(rsb_t* r, lkb_t* k, int mode) noexcept nogil:
    """Return whether somebody else holds a mode that excludes `mode`."""
    cdef uint8_t others = r.held_mask
    if k.grmode > NL and r.held[k.grmode - 1] == 1:
        others &= ~(1 << k.grmode)
    return others & dlm_conflicts[mode]


cdef bint grantable_as(arena_t* a, rsb_t* r, lkb_t* k, int mode, bint now) noexcept nogil:
    """Rules 4 to 9. `now`: the request has just been made, and is on no queue of waiters yet."""
    cdef bint conversion = k.grmode != IV
    if k.exflags & LKF_EXPEDITE:
        return True
    if conflicts(r, k, mode):
        return False
    if now and conversion:
        return r.converting == 0 or not k.exflags & LKF_QUECVT
    if k.exflags & LKF_NOORDER:
        return True
    if now:
        return r.converting == 0 and r.waiting == 0
    if conversion:
        return r.converting == lkb_index(a, k)
    return r.converting == 0 and r.waiting == lkb_index(a, k)


cdef bint deadlocks(arena_t* a, rsb_t* r, lkb_t* k) noexcept nogil:
    """Rule 10: would this conversion and one on the queue wait for each other?

    One ahead of it that its own granted mode holds up; behind it, only one that holds it up too.
    """
    cdef lkb_t* other
    cdef uint32_t i = r.converting
    # A native lock that is converted in place queues at the head, so all the others are behind it.
    cdef bint ahead = k.bits & B_SYNC and k.exflags & LKF_HEADQUE and k.queue == Q_GRANTED
    if k.grmode <= NL:
        return False
    while i:
        other = &a.lkbs[i]
        i = other.next
        if other == k:
            ahead = True
        elif modes_compatible(k.grmode, other.rqmode):
            continue
        elif not ahead or not modes_compatible(other.grmode, k.rqmode):
            return True
    return False


cdef bint grantable(arena_t* a, rsb_t* r, lkb_t* k, bint now, bint* deadlock) noexcept nogil:
    """Return whether `k` can be granted, after CONVDEADLK, ALTPR, ALTCW (rules 11 and 12)."""
    cdef int alternative = IV
    deadlock[0] = False
    if grantable_as(a, r, k, k.rqmode, now):
        return True
    if k.grmode != IV and not k.exflags & LKF_NOQUEUE and deadlocks(a, r, k):
        if k.exflags & LKF_CONVDEADLK:
            uncount_held(r, k.grmode)
            k.sbflags |= SBF_DEMOTED
            set_state(k, k.queue, NL, k.rqmode)
        else:
            deadlock[0] = True
        return False
    if k.rqmode != PR and k.exflags & LKF_ALTPR:
        alternative = PR
    elif k.rqmode != CW and k.exflags & LKF_ALTCW:
        alternative = CW
    if alternative == IV or not grantable_as(a, r, k, alternative, now):
        return False
    if not now:
        uncount_wanted(r, k.rqmode)
        count_wanted(r, alternative)
    k.sbflags |= SBF_ALTMODE
    set_state(k, k.queue, k.grmode, alternative)
    return True


cdef void grant_and_tell(op_t* o, rsb_t* r, lkb_t* k) noexcept nogil:
    cdef int mode = k.rqmode
    lvb_at_grant(o.a, o.s, r, k)
    r.token += 1
    crash_point()
    k.token = r.token
    k.since = coarse_centiseconds()
    record(k, ST_OK, mode)
    if k.grmode != mode or k.queue != Q_GRANTED:
        take_off_queue(o.a, r, k)
        uncount_held(r, k.grmode)
        k.highbast = 0
        set_state(k, Q_GRANTED, mode, IV)
        count_held(r, mode)
        put_granted(o.a, r, k)
    else:
        r.basted = 0            # granted anew in its old place: see notify_holders
        k.highbast = 0
        set_state(k, Q_GRANTED, mode, IV)
    k.trybast = 0
    announce(o, k)
    if k.sbflags & SBF_ALTMODE:
        follow_interest(o, r, 0xff)     # who kept out the mode asked for may not this one


cdef bint grant_in_order(op_t* o, rsb_t* r) noexcept nogil:
    """Grant what stands at the heads. Enough as long as no queued lock may break the order."""
    cdef bint deadlock
    cdef uint32_t head
    while o.n_wake < MAX_WAKE:
        head = r.converting if r.converting else r.waiting
        if head == 0 or not grantable(o.a, r, &o.a.lkbs[head], False, &deadlock):
            return True
        grant_and_tell(o, r, &o.a.lkbs[head])
    return False


cdef bint grant_conversions(op_t* o, rsb_t* r, int* high, bint* cw) noexcept nogil:
    """Walk the conversions until nothing changes any more (rule 13)."""
    cdef lkb_t* k
    cdef uint32_t i
    cdef bint deadlock, demoted, again = True, redo_demoted = True, was_demoted
    while again:
        again = False
        demoted = False
        high[0] = IV
        i = r.converting
        while i:
            k = &o.a.lkbs[i]
            i = k.next
            if o.n_wake == MAX_WAKE:
                return False
            was_demoted = k.sbflags & SBF_DEMOTED != 0
            if grantable(o.a, r, k, False, &deadlock):
                grant_and_tell(o, r, k)
                again = True
            elif not was_demoted and k.sbflags & SBF_DEMOTED:
                demoted = True
            elif deadlock:
                if k.exflags & LKF_NODLCKWT and k.highbast < k.rqmode:
                    notify(o, k, k.rqmode)
            else:
                high[0] = max(high[0], <int>k.rqmode)
                if k.rqmode == CW:
                    cw[0] = True
        if demoted and redo_demoted and not again:
            redo_demoted = False
            again = True
    return True


cdef bint grant_waiters(op_t* o, rsb_t* r, int* high, bint* cw) noexcept nogil:
    cdef lkb_t* k
    cdef bint deadlock
    cdef uint32_t i = r.waiting
    while i:
        k = &o.a.lkbs[i]
        i = k.next
        if o.n_wake == MAX_WAKE:
            return False
        if grantable(o.a, r, k, False, &deadlock):
            grant_and_tell(o, r, k)
        else:
            high[0] = max(high[0], <int>k.rqmode)
            if k.rqmode == CW:
                cw[0] = True
    return True


cdef void notify_holders(op_t* o, rsb_t* r, int high, bint cw) noexcept nogil:
    """Tell those who hold up what is left on the queues (rules 15 to 17).

    Who has been told of `high` is not told again, so after one whole walk only the locks
    granted since have to be looked at: they are at the front, and bear the higher tokens.
    """
    cdef lkb_t* k
    cdef uint32_t i = r.granted
    cdef bint known = r.basted >= high and (not cw or r.basted == EX)
    while i:
        k = &o.a.lkbs[i]
        i = k.next
        if known and k.token <= r.basted_token:
            break
        if k.grmode == PR and cw:
            if k.highbast < EX:
                notify(o, k, CW if high == PR else high)
                k.highbast = <uint8_t>high
        elif k.highbast < high and not modes_compatible(k.grmode, high):
            notify(o, k, high)
    r.basted = <uint8_t>high    # those granted since know of no more than this
    r.basted_token = r.token


cdef void notify_one_request(op_t* o, rsb_t* r, lkb_t* wanting, uint32_t first) noexcept nogil:
    """Tell the holders on one queue of a request that has just been made (rule 14)."""
    cdef lkb_t* k
    cdef uint32_t i = first
    cdef int mode = wanting.rqmode
    cdef bint inverted
    while i:
        k = &o.a.lkbs[i]
        i = k.next
        if k == wanting:
            continue
        inverted = (k.grmode == PR and mode == CW) or (k.grmode == CW and mode == PR)
        if k.highbast >= (EX if inverted else mode) or modes_compatible(k.grmode, mode):
            continue
        notify(o, k, mode)
        if inverted:
            r.basted = 0        # what it was told of may have been more
        if wanting.exflags & LKF_NOQUEUE:
            k.trybast = max(k.trybast, <uint8_t>mode)


cdef void notify_of_waiter(op_t* o, rsb_t* r, lkb_t* k) noexcept nogil:
    if k.rqmode >= PW and r.basted >= k.rqmode and r.basted_token == r.token:
        return                  # all who hold it up know of one like this
    notify_one_request(o, r, k, r.granted)
    if k.rqmode >= PW:
        r.basted = <uint8_t>k.rqmode
        r.basted_token = r.token


cdef void grant_pending(op_t* o, rsb_t* r) noexcept nogil:
    """Serve the queues after something was given up."""
    cdef int high = IV
    cdef bint cw = False, done
    cdef int mode
    if r.converting == 0 and r.waiting == 0:
        return
    if r.special:
        done = grant_conversions(o, r, &high, &cw) and grant_waiters(o, r, &high, &cw)
    else:
        done = grant_in_order(o, r)
        cw = r.wanted_mask >> CW & 1
        for mode in range(EX, NL, -1):
            if r.wanted_mask >> mode & 1:
                high = mode
                break
    if not done:
        o.unfinished = True
    elif high > NL:
        notify_holders(o, r, high, cw)


cdef int wanted_by_others(rsb_t* r, lkb_t* k) noexcept nogil:
    """Return the strictest mode that somebody waits for and `k` keeps from being granted, or NL."""
    cdef int mode
    cdef uint8_t wanted = r.wanted_mask
    if k.queue == Q_CONVERT and k.rqmode > NL and r.wanted[k.rqmode - 1] == 1:
        wanted &= ~(1 << k.rqmode)
    if k.trybast:
        wanted |= 1 << k.trybast
    for mode in range(EX, NL, -1):
        if wanted >> mode & 1 and not modes_compatible(k.grmode, mode):
            return mode
    return NL


cdef void follow_interest(op_t* o, rsb_t* r, uint8_t before) noexcept nogil:
    """Keep what holders are shown in step with what is wanted; `before`: r.wanted_mask as it was.

    Raw locks are told as the kernel tells them, once for each rise. A native lock is told again
    if a mode is wanted anew after those who wanted it had given up.
    """
    cdef uint32_t heads[2]
    cdef uint32_t i
    cdef int q
    cdef lkb_t* k
    cdef bint lost = before & ~r.wanted_mask != 0
    if not lost and not r.flags & R_POLLED:
        return
    heads[0] = r.granted
    heads[1] = r.converting
    for q in range(2):
        i = heads[q]
        while i:
            k = &o.a.lkbs[i]
            i = k.next
            if lost and k.highbast and k.bits & B_SYNC:
                k.highbast = <uint8_t>wanted_by_others(r, k)
            push_fd_sync(o, k)
    if lost:
        r.basted = 0
