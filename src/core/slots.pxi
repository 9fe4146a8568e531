# Slots of the arena: taken from the free list of a shard, given back to it. All under its mutex.
#
# homes[kind][slot] says which shard a slot belongs to, and changes in one store. Whether it is in
# use, those say that use it; so free lists can be made anew (repair.pxi), and no slot is lost.

cdef enum:                   # kinds of slots
    KIND_LKB
    KIND_RSB
    KIND_LVB
    KIND_NAME


cdef inline uint32_t* next_free(arena_t* a, int kind, uint32_t i) noexcept nogil:
    """Return where a free slot keeps the number of the next one."""
    if kind == KIND_LKB:
        return &a.lkbs[i].next
    if kind == KIND_RSB:
        return &a.rsbs[i].chain
    if kind == KIND_LVB:
        return <uint32_t*>lvb_at(a, i)
    return <uint32_t*>(a.names + <size_t>i * NAME_MAX)


cdef inline size_t slot_size(arena_t* a, int kind) noexcept nogil:
    if kind == KIND_LKB:
        return sizeof(lkb_t)
    if kind == KIND_RSB:
        return sizeof(rsb_t)
    return a.lvb_len if kind == KIND_LVB else NAME_MAX


cdef inline unsigned char home_of(arena_t* a, shard_t* s) noexcept nogil:
    return <unsigned char>(s - a.shards + 1)


cdef bint have_memory(arena_t* a, int kind, uint32_t slot) noexcept nogil:
    """See that a fresh slot has memory; touching it where the tmpfs is full means SIGBUS."""
    cdef size_t size = slot_size(a, kind), start = slot * size
    cdef char* base
    if a.futex_flags == FUTEX_PRIVATE_FLAG or (
        # On pages that the slot before it has as well, or is on too.
        slot > 1 and (start - 1) // PAGE == (start + size - 1) // PAGE and slot % PAGE != 0
    ):
        return True
    if kind == KIND_LKB:
        base = <char*>a.lkbs
    elif kind == KIND_RSB:
        base = <char*>a.rsbs
    else:
        base = <char*>(a.lvbs if kind == KIND_LVB else a.names)
    if populate(base if slot == 1 else base + start, size if slot > 1 else 2 * size) == 0:
        if populate(&a.homes[kind][slot], 1) == 0:
            return True
    a.full = True
    return False


cdef uint32_t take_fresh(arena_t* a, shard_t* s, int kind) noexcept nogil:
    """Take a slot that was never used, or 0.

    They come one by one in the order of their making, whatever the shard. So those that were made
    one after the other lie so in memory, and a program that walks them is met half-way by the CPU.
    """
    cdef uint32_t slot
    cdef bint mine
    while True:
        slot = load32(a.next_[kind])
        if slot >= a.limits[kind] or not have_memory(a, kind, slot):
            return 0
        mine = cas8(&a.homes[kind][slot], HOME_STOCK, home_of(a, s))
        crash_point()
        cas32(a.next_[kind], slot, slot + 1)    # for whoever took it
        crash_point()
        if mine:
            return slot


cdef inline uint32_t pop_free(arena_t* a, shard_t* s, int kind) noexcept nogil:
    cdef uint32_t i = s.free[kind]
    if i:
        s.free[kind] = next_free(a, kind, i)[0]
        crash_point()
    return i


cdef inline void push_free(arena_t* a, shard_t* s, int kind, uint32_t i) noexcept nogil:
    next_free(a, kind, i)[0] = s.free[kind]
    crash_point()
    s.free[kind] = i
    crash_point()


cdef inline uint32_t take_slot(arena_t* a, shard_t* s, int kind) noexcept nogil:
    cdef uint32_t i = pop_free(a, s, kind)
    return i if i else take_fresh(a, s, kind)


cdef uint32_t take_lkb(arena_t* a, shard_t* s) noexcept nogil:
    """Take a lock's slot; all of it but `gen` and `shard` is 0."""
    cdef uint32_t i = take_slot(a, s, KIND_LKB)
    cdef lkb_t* k = &a.lkbs[i]
    if i == 0:
        return 0
    k.next = k.prev = k.rsb = 0
    k.shard = <uint8_t>(s - a.shards)
    memset(&k.grmode, 0, <char*>&k.gen - <char*>&k.grmode)
    memset(&k.futex, 0, sizeof(lkb_t) - (<char*>&k.futex - <char*>k))
    s.used_lkbs += 1
    return i


cdef inline void give_lkb(arena_t* a, shard_t* s, lkb_t* k) noexcept nogil:
    cdef uint32_t slot = k.lvb
    k.gen += 1
    crash_point()
    k.bits = 0
    k.queue = Q_NONE
    crash_point()
    if slot:
        k.lvb = 0
        crash_point()
        push_free(a, s, KIND_LVB, slot)
    push_free(a, s, KIND_LKB, lkb_index(a, k))
    s.used_lkbs -= 1


cdef inline void give_if_done(arena_t* a, shard_t* s, lkb_t* k) noexcept nogil:
    """Free the slot of a lock that is gone, unless a list or a waiting thread refers to it."""
    if is_zombie(k) and not k.bits & (B_READY | B_FD_SYNC) and load32(&k.futex) != LEFT_TO_WAITER:
        give_lkb(a, s, k)


cdef inline bint ensure_lvb(arena_t* a, shard_t* s) noexcept nogil:
    """Make sure that the next write of a lock value block finds a slot."""
    cdef uint32_t slot
    if s.free[KIND_LVB] == 0:
        slot = take_fresh(a, s, KIND_LVB)
        if slot == 0:
            return False
        push_free(a, s, KIND_LVB, slot)
    return True


cdef bint refill(arena_t* a, shard_t* mine, int kind) noexcept nogil:
    """Move a free slot from another shard to this one. Called with the GIL and without any mutex.

    Whoever dies over it has said in its proc_t which one it is (`rescue_slot`).
    """
    cdef uint32_t i, slot = 0
    cdef shard_t* s
    cdef proc_t* p = &a.procs[a.me]
    for i in range(a.shard_mask + 1):
        s = &a.shards[i]
        if s == mine:
            continue
        shard_lock(a, s)
        slot = s.free[kind]
        if slot:
            p.moving_kind = kind
            p.moving = slot
            crash_point()
            a.homes[kind][slot] = HOME_MOVING
            crash_point()
            pop_free(a, s, kind)
        shard_unlock(a, s)
        if slot:
            break
    if slot == 0:
        return False
    crash_point()
    shard_lock(a, mine)
    settle_slot(a, mine, kind, slot)
    p.moving = 0
    shard_unlock(a, mine)
    return True


cdef void settle_slot(arena_t* a, shard_t* s, int kind, uint32_t slot) noexcept nogil:
    """Give a slot on its way to a shard, unless somebody else has done so."""
    if cas8(&a.homes[kind][slot], HOME_MOVING, home_of(a, s)):
        crash_point()
        push_free(a, s, kind, slot)
        crash_point()


cdef void rescue_slot(arena_t* a, proc_t* p) noexcept nogil:
    """Take care of the slot that a dead process was moving."""
    cdef uint32_t slot = p.moving, kind = p.moving_kind
    if slot == 0 or kind > KIND_NAME or slot >= a.limits[kind]:
        return
    shard_lock(a, a.shards)
    settle_slot(a, a.shards, kind, slot)
    shard_unlock(a, a.shards)
