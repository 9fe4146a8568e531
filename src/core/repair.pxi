# A process died inside a shard's critical section (docs/design.md, "Killed inside").
#
# What each slot says about itself is the truth; queues, counters, chains and free lists are
# made anew from it. Every change of a slot's state is one store: it is in one state or another.


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


cdef void adopt_lkb(arena_t* a, shard_t* s, uint32_t i) noexcept nogil:
    """Give one lock of the shard its place again."""
    cdef lkb_t* k = &a.lkbs[i]
    cdef rsb_t* r = &a.rsbs[k.rsb]
    if k.bits & B_USED and k.queue == Q_NONE and not is_zombie(k):
        # Not made to the end, or being unmade: nobody counts on it.
        k.rsb = 0
        if not k.bits & (B_READY | B_FD_SYNC):
            k.gen += 1
            k.bits = 0
    if not k.bits & B_USED:
        if k.lvb:
            give_lvb(a, s, k.lvb)
            k.lvb = 0
        k.queue = Q_NONE
        k.next = s.free_lkb
        s.free_lkb = i
        return
    s.used_lkbs += 1
    if is_zombie(k) or k.queue == Q_HANDLE:
        return
    if k.lvb and k.lvb == r.lvb:
        k.lvb = 0               # it had been handed to the resource
        k.bits &= ~(B_DIRTY | B_OWN_LVB)
    put_in_order(a, r, k)
    r.n_locks += 1
    count_held(r, k.grmode)
    if k.queue != Q_GRANTED:
        k.has_cast = False      # was to be granted; it will be
        count_wanted(r, k.rqmode)
        r.special += breaks_order(k)
    elif load32(&k.futex) == WAITED:
        store32(&k.futex, ENDED)        # whoever clears up wakes it
    if r.token < k.token:
        r.token = k.token


cdef bint lvb_in_use(arena_t* a, shard_t* s, uint32_t slot) noexcept nogil:
    cdef uint32_t i, n = 0, shard = <uint32_t>(s - a.shards)
    for i in range(1, load32(&a.hdr.next_rsb)):
        if a.rsbs[i].flags & R_USED and a.rsbs[i].shard == shard and a.rsbs[i].lvb == slot:
            return True
    for i in range(1, load32(&a.hdr.next_lkb)):
        if a.lkbs[i].bits & B_USED and a.lkbs[i].shard == shard and a.lkbs[i].lvb == slot:
            return True
    i = s.free_lvb
    while i and n < a.hdr.n_lvbs:
        if i == slot:
            return True
        memcpy(&i, lvb_at(a, i), sizeof(uint32_t))
        n += 1
    return False


cdef void repair_shard(arena_t* a, shard_t* s) noexcept nogil:
    """Make a shard whole again. We have its mutex."""
    cdef uint32_t i, shard = <uint32_t>(s - a.shards), slot
    cdef rsb_t* r
    cdef lkb_t* k
    i = shard
    while i <= a.bucket_mask:
        a.buckets[i] = 0
        i += a.shard_mask + 1
    s.free_rsb = s.free_lkb = s.used_rsbs = s.used_lkbs = 0
    for i in range(1, load32(&a.hdr.next_rsb)):
        r = &a.rsbs[i]
        if r.shard != shard:
            continue
        if not r.flags & R_USED:
            r.chain = s.free_rsb
            s.free_rsb = i
            continue
        s.used_rsbs += 1
        r.chain = a.buckets[r.hash & a.bucket_mask]
        a.buckets[r.hash & a.bucket_mask] = i
        r.granted = r.converting = r.converting_tail = r.waiting = r.waiting_tail = 0
        r.n_locks = 0
        r.special = 0
        r.basted = 0
        r.held_mask = r.wanted_mask = 0
        memset(r.held, 0, sizeof(r.held))
        memset(r.wanted, 0, sizeof(r.wanted))
    for i in range(1, load32(&a.hdr.next_lkb)):
        if a.lkbs[i].shard == shard:
            adopt_lkb(a, s, i)
    for i in range(1, load32(&a.hdr.next_rsb)):
        r = &a.rsbs[i]
        if r.shard == shard and r.flags & R_USED and r.n_locks == 0:
            drop_rsb(a, s, r)
    slot = s.moving
    if slot and not lvb_in_use(a, s, slot):
        give_lvb(a, s, slot)
    s.moving = 0
    # A lock may have been on its way to its client's list. Have it looked for there.
    if s.pushing:
        k = &a.lkbs[s.pushing]
        if k.client != NOBODY:
            or32(&a.clients[k.client].rescan, RESCAN_FDS | RESCAN_EVENTS)
        s.pushing = 0
    for i in range(1, load32(&a.hdr.next_lkb)):
        k = &a.lkbs[i]
        if k.shard == shard and k.bits & B_USED and not k.bits & (B_READY | B_ORPHAN):
            if k.has_cast or k.bast_first or k.bast_then:
                or32(&a.clients[k.client].rescan, RESCAN_FDS | RESCAN_EVENTS)
