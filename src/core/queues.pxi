# The three queues of a resource, and the counters that spare us walking them.

cdef inline void count_held(rsb_t* r, int mode) noexcept nogil:
    if mode > NL:
        r.held[mode - 1] += 1
        crash_point()
        r.held_mask |= 1 << mode


cdef inline void uncount_held(rsb_t* r, int mode) noexcept nogil:
    if mode > NL:
        r.held[mode - 1] -= 1
        crash_point()
        if r.held[mode - 1] == 0:
            r.held_mask &= ~(1 << mode)


cdef inline void count_wanted(rsb_t* r, int mode) noexcept nogil:
    if mode > NL:
        r.wanted[mode - 1] += 1
        crash_point()
        r.wanted_mask |= 1 << mode


cdef inline void uncount_wanted(rsb_t* r, int mode) noexcept nogil:
    if mode > NL:
        r.wanted[mode - 1] -= 1
        crash_point()
        if r.wanted[mode - 1] == 0:
            r.wanted_mask &= ~(1 << mode)


cdef inline bint breaks_order(lkb_t* k) noexcept nogil:
    """Return whether a queued lock may be served though it is not at the head, or be demoted."""
    return k.exflags & (
        LKF_NOORDER | LKF_HEADQUE | LKF_EXPEDITE | LKF_CONVDEADLK | LKF_NODLCKWT) != 0


cdef inline void link_head(arena_t* a, uint32_t* head, uint32_t* tail, lkb_t* k) noexcept nogil:
    cdef uint32_t i = lkb_index(a, k)
    k.prev = 0
    k.next = head[0]
    if head[0]:
        a.lkbs[head[0]].prev = i
    elif tail != NULL:
        tail[0] = i
    crash_point()
    head[0] = i
    crash_point()


cdef inline void link_tail(arena_t* a, uint32_t* head, uint32_t* tail, lkb_t* k) noexcept nogil:
    cdef uint32_t i = lkb_index(a, k)
    k.next = 0
    k.prev = tail[0]
    if tail[0]:
        a.lkbs[tail[0]].next = i
    else:
        head[0] = i
    crash_point()
    tail[0] = i
    crash_point()


cdef inline void unlink_lkb(arena_t* a, uint32_t* head, uint32_t* tail, lkb_t* k) noexcept nogil:
    if k.prev:
        a.lkbs[k.prev].next = k.next
    else:
        head[0] = k.next
    crash_point()
    if k.next:
        a.lkbs[k.next].prev = k.prev
    elif tail != NULL:
        tail[0] = k.prev


cdef inline void put_granted(arena_t* a, rsb_t* r, lkb_t* k) noexcept nogil:
    """Link a lock whose state says that it is granted."""
    # Newest first: that is the order in which holders get their notices (rule 17). But behind
    # those whose last conversion was refused in this mode or a higher one.
    cdef lkb_t* before = NULL
    cdef uint32_t at = r.granted
    while at and a.lkbs[at].rqmode >= k.grmode:
        before = &a.lkbs[at]
        at = before.next
    if before == NULL:
        link_head(a, &r.granted, NULL, k)
    else:
        k.prev = lkb_index(a, before)
        k.next = at
        before.next = lkb_index(a, k)
        crash_point()
        if at:
            a.lkbs[at].prev = lkb_index(a, k)
        r.basted = 0            # no longer by token: see notify_holders


cdef void put_queued(arena_t* a, rsb_t* r, lkb_t* k, int queue) noexcept nogil:
    cdef uint32_t* head = &r.converting if queue == Q_CONVERT else &r.waiting
    cdef uint32_t* tail = &r.converting_tail if queue == Q_CONVERT else &r.waiting_tail
    if k.exflags & LKF_HEADQUE:
        k.seq = a.lkbs[head[0]].seq - 1 if head[0] else SEQ_START
        set_state(k, queue, k.grmode, k.rqmode)
        link_head(a, head, tail, k)
    else:
        k.seq = a.lkbs[tail[0]].seq + 1 if tail[0] else SEQ_START
        set_state(k, queue, k.grmode, k.rqmode)
        link_tail(a, head, tail, k)
    crash_point()
    k.since = coarse_centiseconds()
    count_wanted(r, k.rqmode)
    crash_point()
    r.special += breaks_order(k)
    crash_point()


cdef void take_off_queue(arena_t* a, rsb_t* r, lkb_t* k) noexcept nogil:
    """Unlink a lock. Its state goes on to say where it was: what follows is to change that."""
    if k.queue == Q_GRANTED:
        unlink_lkb(a, &r.granted, NULL, k)
    elif k.queue == Q_CONVERT or k.queue == Q_WAITING:
        if k.queue == Q_CONVERT:
            unlink_lkb(a, &r.converting, &r.converting_tail, k)
        else:
            unlink_lkb(a, &r.waiting, &r.waiting_tail, k)
        uncount_wanted(r, k.rqmode)
        r.special -= breaks_order(k)
    crash_point()
