# Slots of the arena: taken from the free list of a shard, given back to it. All under its mutex.


cdef inline uint32_t take_fresh(uint32_t* counter, uint32_t limit) noexcept nogil:
    """Take a slot that was never used, or 0.

    They come one by one in the order of their making, whatever the shard. So those that were made
    one after the other lie so in memory, and a program that walks them is met half-way by the CPU.
    """
    cdef uint32_t slot
    while True:
        slot = load32(counter)
        if slot >= limit:
            return 0
        if cas32(counter, slot, slot + 1):
            return slot


cdef uint32_t take_lkb(arena_t* a, shard_t* s) noexcept nogil:
    cdef uint32_t i = s.free_lkb
    if i:
        s.free_lkb = a.lkbs[i].next
    else:
        i = take_fresh(&a.hdr.next_lkb, a.hdr.n_lkbs)
        if i == 0:
            return 0
    a.lkbs[i].shard = <uint8_t>(s - a.shards)
    s.used_lkbs += 1
    return i


cdef uint32_t take_rsb(arena_t* a, shard_t* s) noexcept nogil:
    cdef uint32_t i = s.free_rsb
    if i:
        s.free_rsb = a.rsbs[i].chain
    else:
        i = take_fresh(&a.hdr.next_rsb, a.hdr.n_rsbs)
        if i == 0:
            return 0
    a.rsbs[i].shard = <uint8_t>(s - a.shards)
    s.used_rsbs += 1
    return i


# A free lvb or name slot keeps the number of the next one in its first bytes.
cdef inline uint32_t take_name(arena_t* a, shard_t* s) noexcept nogil:
    cdef uint32_t i = s.free_name
    if i == 0:
        return take_fresh(&a.hdr.next_name, a.hdr.n_names)
    memcpy(&s.free_name, a.names + <size_t>i * NAME_MAX, sizeof(uint32_t))
    return i


cdef inline uint32_t take_lvb(arena_t* a, shard_t* s) noexcept nogil:
    """Take a slot; s.moving names it until the caller has given it its place and cleared that."""
    cdef uint32_t slot
    if s.free_lvb == 0:
        slot = take_fresh(&a.hdr.next_lvb, a.hdr.n_lvbs)
        if slot == 0:
            return 0
        give_lvb(a, s, slot)
    slot = s.free_lvb
    s.moving = slot
    crash_point()
    memcpy(&s.free_lvb, lvb_at(a, slot), sizeof(uint32_t))
    crash_point()
    return slot


cdef inline void give_lvb(arena_t* a, shard_t* s, uint32_t slot) noexcept nogil:
    memcpy(lvb_at(a, slot), &s.free_lvb, sizeof(uint32_t))
    crash_point()
    s.free_lvb = slot


cdef void give_lkb(arena_t* a, shard_t* s, lkb_t* k) noexcept nogil:
    cdef uint32_t slot = k.lvb
    if slot:
        s.moving = slot
        crash_point()
        k.lvb = 0
        crash_point()
        give_lvb(a, s, slot)
        crash_point()
        s.moving = 0
    k.gen += 1
    crash_point()
    k.bits = 0
    k.queue = Q_NONE
    crash_point()
    k.next = s.free_lkb
    s.free_lkb = lkb_index(a, k)
    s.used_lkbs -= 1


# Some slots may lie free in other shards when the common stock is used up.
cdef enum:
    KIND_LKB
    KIND_RSB
    KIND_LVB
    KIND_NAME


cdef uint32_t pop_free(arena_t* a, shard_t* s, int kind) noexcept nogil:
    cdef uint32_t i = 0
    if kind == KIND_LKB:
        i = s.free_lkb
        if i:
            s.free_lkb = a.lkbs[i].next
    elif kind == KIND_RSB:
        i = s.free_rsb
        if i:
            s.free_rsb = a.rsbs[i].chain
    elif kind == KIND_LVB:
        i = s.free_lvb
        if i:
            memcpy(&s.free_lvb, lvb_at(a, i), sizeof(uint32_t))
    elif kind == KIND_NAME:
        i = s.free_name
        if i:
            memcpy(&s.free_name, a.names + <size_t>i * NAME_MAX, sizeof(uint32_t))
    return i


cdef void push_free(arena_t* a, shard_t* s, int kind, uint32_t i) noexcept nogil:
    if kind == KIND_LKB:
        a.lkbs[i].shard = <uint8_t>(s - a.shards)
        a.lkbs[i].next = s.free_lkb
        s.free_lkb = i
    elif kind == KIND_RSB:
        a.rsbs[i].shard = <uint8_t>(s - a.shards)
        a.rsbs[i].chain = s.free_rsb
        s.free_rsb = i
    elif kind == KIND_LVB:
        give_lvb(a, s, i)
    elif kind == KIND_NAME:
        memcpy(a.names + <size_t>i * NAME_MAX, &s.free_name, sizeof(uint32_t))
        s.free_name = i


cdef bint refill(arena_t* a, shard_t* mine, int kind) noexcept nogil:
    """Move a slot from another shard to this one. Called without any mutex."""
    cdef uint32_t s, slot = 0
    for s in range(a.shard_mask + 1):
        if &a.shards[s] == mine:
            continue
        shard_lock(a, &a.shards[s])
        slot = pop_free(a, &a.shards[s], kind)
        shard_unlock(a, &a.shards[s])
        if slot:
            break
    if slot == 0:
        return False
    shard_lock(a, mine)
    push_free(a, mine, kind, slot)
    shard_unlock(a, mine)
    return True


cdef bint ensure_lvb(arena_t* a, shard_t* s) noexcept nogil:
    """Make sure that the next write of a lock value block finds a slot."""
    cdef uint32_t slot
    if s.free_lvb:
        return True
    slot = take_lvb(a, s)
    if slot == 0:
        return False
    give_lvb(a, s, slot)
    s.moving = 0
    return True
