# A process died inside a shard's critical section (docs/host.md, "Killed inside").
#
# What each slot says about itself is the truth; queues, counters, chains and free lists are
# made anew from it. Every change of a slot's state is one store: it is in one state or another.
# Who dies in here leaves the next one to begin again.


cdef void put_in_order(arena_t* a, rsb_t* r, lkb_t* k) noexcept nogil:
    """Link a lock where it belongs: granted by falling token, queued by rising seq."""
    cdef uint32_t* head = &r.granted
    cdef uint32_t* tail = NULL
    cdef uint32_t at, before = 0, me = lkb_index(a, k)
    if k.queue == Q_GRANTED:
        at = head[0]
        while at and a.lkbs[at].token > k.token:
            before = at
            at = a.lkbs[at].next
    else:
        head = &r.converting if k.queue == Q_CONVERT else &r.waiting
        tail = &r.converting_tail if k.queue == Q_CONVERT else &r.waiting_tail
        before = tail[0]        # slots tend to be in order, so from the end
        while before and a.lkbs[before].seq > k.seq:
            before = a.lkbs[before].prev
        at = a.lkbs[before].next if before else head[0]
    k.prev = before
    k.next = at
    if before:
        a.lkbs[before].next = me
    else:
        head[0] = me
    if at:
        a.lkbs[at].prev = me
    elif tail != NULL:
        tail[0] = me


cdef bint makes_sense(arena_t* a, unsigned char home, lkb_t* k) noexcept nogil:
    """Return whether a lock is on a resource of its shard, in a state that can be."""
    if not 0 < k.rsb < a.hdr.n_rsbs or a.homes[KIND_RSB][k.rsb] != home:
        return False
    if not a.rsbs[k.rsb].flags & R_USED:
        return False
    if not (IV <= k.grmode <= EX and IV <= k.rqmode <= EX):
        return False
    if k.queue == Q_GRANTED:
        return k.grmode != IV
    if k.queue == Q_WAITING or k.queue == Q_CONVERT:
        return k.rqmode != IV and (k.grmode == IV) == (k.queue == Q_WAITING)
    return k.queue == Q_HANDLE


cdef void adopt_lkb(arena_t* a, shard_t* s, uint32_t i) noexcept nogil:
    """Give one lock of the shard its place again."""
    cdef lkb_t* k = &a.lkbs[i]
    cdef rsb_t* r
    if k.bits & B_USED and not makes_sense(a, home_of(a, s), k):
        # Not made to the end, or being unmade: only who has to read its events counts on it.
        k.rsb = 0
        k.queue = Q_NONE
        if k.bits & B_ORPHAN or not k.bits & (B_READY | B_FD_SYNC):
            if load32(&k.futex) != LEFT_TO_WAITER:
                k.gen += 1
                crash_point()
                k.bits = 0
    if not k.bits & B_USED:
        k.lvb = 0
        k.queue = Q_NONE
        push_free(a, s, KIND_LKB, i)
        return
    s.used_lkbs += 1
    if is_zombie(k) or k.queue == Q_HANDLE:
        return
    r = &a.rsbs[k.rsb]
    if k.lvb and k.lvb == r.lvb:
        k.lvb = 0               # it had been handed to the resource
        k.bits &= ~(B_DIRTY | B_OWN_LVB)
    put_in_order(a, r, k)
    r.n_locks += 1
    count_held(r, k.grmode)
    if k.queue != Q_GRANTED:
        k.has_cast = False      # was to be granted; it will be
        k.sbflags &= ~SBF_VALNOTVALID
        count_wanted(r, k.rqmode)
        r.special += breaks_order(k)
    elif load32(&k.futex) == WAITED:
        store32(&k.futex, ENDED)        # whoever clears up wakes it
    if r.token < k.token:
        r.token = k.token


cdef inline void mark_used(arena_t* a, unsigned char home, int kind, uint32_t* slot) noexcept nogil:
    if slot[0] >= a.limits[kind] or a.homes[kind][slot[0]] & ~HOME_MARK != home:
        slot[0] = 0
    elif slot[0]:
        a.homes[kind][slot[0]] = home | HOME_MARK


cdef void repair_shard(arena_t* a, shard_t* s) noexcept nogil:
    """Make a shard whole again. We have its mutex."""
    cdef uint32_t i, shard = <uint32_t>(s - a.shards)
    cdef unsigned char home = home_of(a, s)
    cdef int kind
    cdef rsb_t* r
    cdef lkb_t* k
    s.repaired = 1
    crash_point()
    for kind in range(KIND_NAME + 1):
        s.free[kind] = 0
        i = load32(a.next_[kind])       # where whoever died may just have taken one
        if i < a.limits[kind] and a.homes[kind][i] != HOME_STOCK:
            cas32(a.next_[kind], i, i + 1)
        for i in range(1, load32(a.next_[kind])):
            if a.homes[kind][i] == home | HOME_MARK:
                a.homes[kind][i] = home
    s.used_rsbs = s.used_lkbs = 0
    i = shard
    while i <= a.bucket_mask:
        if have_bucket(a, i):
            a.buckets[i] = 0
        i += a.shard_mask + 1
    crash_point()
    for i in range(1, load32(&a.hdr.next_rsb)):
        if a.homes[KIND_RSB][i] != home:
            continue
        r = &a.rsbs[i]
        r.granted = r.converting = r.converting_tail = r.waiting = r.waiting_tail = 0
        r.n_locks = 0
        r.special = 0
        r.basted = 0
        r.held_mask = r.wanted_mask = 0
        memset(r.held, 0, sizeof(r.held))
        memset(r.wanted, 0, sizeof(r.wanted))
    crash_point()
    for i in range(1, load32(&a.hdr.next_lkb)):
        if a.homes[KIND_LKB][i] == home:
            adopt_lkb(a, s, i)
    crash_point()
    # Whatever nobody has is free.
    for i in range(1, load32(&a.hdr.next_lkb)):
        if a.homes[KIND_LKB][i] == home and a.lkbs[i].bits & B_USED:
            mark_used(a, home, KIND_LVB, &a.lkbs[i].lvb)
    for i in range(1, load32(&a.hdr.next_rsb)):
        if a.homes[KIND_RSB][i] != home:
            continue
        r = &a.rsbs[i]
        if r.flags & R_USED and r.n_locks == 0:
            if s.token < r.token:
                s.token = r.token
            crash_point()
            r.flags = 0
        if not r.flags & R_USED:
            push_free(a, s, KIND_RSB, i)
            continue
        mark_used(a, home, KIND_LVB, &r.lvb)
        mark_used(a, home, KIND_NAME, &r.name_slot)
        s.used_rsbs += 1
        r.shard = <uint8_t>shard
        r.chain = a.buckets[r.hash & a.bucket_mask]
        crash_point()
        a.buckets[r.hash & a.bucket_mask] = i
    crash_point()
    for kind in range(KIND_LVB, KIND_NAME + 1):
        for i in range(1, load32(a.next_[kind])):
            if a.homes[kind][i] == home:
                push_free(a, s, kind, i)
            elif a.homes[kind][i] == home | HOME_MARK:
                a.homes[kind][i] = home
                crash_point()
