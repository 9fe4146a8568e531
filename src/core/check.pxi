# What is always true of a shard (docs/design.md, "Invariants"). A debug build checks it whenever
# a shard mutex is given up, and ends the process at the first breach.

cdef extern from *:
    """
    #include <stdio.h>
    #include <stdlib.h>
    #ifndef PYDLM_DEBUG
    #define PYDLM_DEBUG 0
    #endif
    static int dlm_breach(const char *what, uint32_t rsb, uint32_t lkb) {
        fprintf(stderr, "pydlm: broken invariant: %s (resource %u, lock %u)\\n", what, rsb, lkb);
        return 0;
    }
    """
    const bint PYDLM_DEBUG
    bint dlm_breach(const char* what, uint32_t rsb, uint32_t lkb) noexcept nogil
    void abort() noexcept nogil


cdef bint check_queue(
    arena_t* a, rsb_t* r, uint32_t head, uint32_t tail, int queue,
    uint32_t* held, uint32_t* wanted, uint32_t* n, uint32_t* special
) noexcept nogil:
    cdef uint32_t i = head, prev = 0, me = rsb_index(a, r), seq = 0
    cdef lkb_t* k
    while i:
        if i >= a.hdr.n_lkbs or n[0] > a.hdr.n_lkbs:
            return dlm_breach("queue leads nowhere", me, i)
        k = &a.lkbs[i]
        if k.prev != prev:
            return dlm_breach("queue links disagree", me, i)
        if k.queue != queue or k.rsb != me or not k.bits & B_USED:
            return dlm_breach("lock on a queue it does not name", me, i)
        if not (IV <= k.grmode <= EX and IV <= k.rqmode <= EX) or k.lvb >= a.hdr.n_lvbs:
            return dlm_breach("lock with an impossible mode or block", me, i)
        if k.grmode > NL:
            held[k.grmode - 1] += 1
        if queue == Q_GRANTED:
            if k.grmode == IV:
                return dlm_breach("granted lock without a mode", me, i)
        else:
            if k.rqmode == IV or (k.grmode == IV) != (queue == Q_WAITING):
                return dlm_breach("queued lock with the wrong modes", me, i)
            if prev and k.seq <= seq:
                return dlm_breach("queue out of order", me, i)
            if k.rqmode > NL:
                wanted[k.rqmode - 1] += 1
            special[0] += breaks_order(k)
            seq = k.seq
        n[0] += 1
        prev = i
        i = k.next
    if queue != Q_GRANTED and tail != prev:
        return dlm_breach("wrong tail", me, prev)
    return True


cdef bint check_rsb(arena_t* a, rsb_t* r) noexcept nogil:
    cdef uint32_t held[5]
    cdef uint32_t wanted[5]
    cdef uint32_t n = 0, special = 0, me = rsb_index(a, r)
    cdef int m, x
    if r.name_len > NAME_MAX or r.lvb >= a.hdr.n_lvbs or r.name_slot >= a.hdr.n_names:
        return dlm_breach("resource with an impossible name or block", me, 0)
    memset(held, 0, sizeof(held))
    memset(wanted, 0, sizeof(wanted))
    if not (
        check_queue(a, r, r.granted, 0, Q_GRANTED, held, wanted, &n, &special)
        and check_queue(
            a, r, r.converting, r.converting_tail, Q_CONVERT, held, wanted, &n, &special)
        and check_queue(a, r, r.waiting, r.waiting_tail, Q_WAITING, held, wanted, &n, &special)
    ):
        return False
    if n != r.n_locks or n == 0 or special != r.special:
        return dlm_breach("wrong number of locks", me, n)
    for m in range(5):
        if held[m] != r.held[m] or wanted[m] != r.wanted[m]:
            return dlm_breach("counters disagree with the queues", me, m)
        if (held[m] > 0) != (r.held_mask >> (m + 1) & 1):
            return dlm_breach("held_mask", me, m)
        if (wanted[m] > 0) != (r.wanted_mask >> (m + 1) & 1):
            return dlm_breach("wanted_mask", me, m)
    for m in range(CR, EX + 1):
        for x in range(m, EX + 1):
            if held[m - 1] and held[x - 1] and not modes_compatible(m, x):
                if m != x or held[m - 1] > 1:
                    return dlm_breach("incompatible modes granted", me, m * 10 + x)
    return True


cdef bint is_chained(arena_t* a, uint32_t wanted) noexcept nogil:
    cdef uint32_t i = a.buckets[a.rsbs[wanted].hash & a.bucket_mask], n = 0
    while i and i != wanted:
        n += 1
        if i >= a.hdr.n_rsbs or n > a.hdr.n_rsbs:
            return dlm_breach("chain leads nowhere", i, 0)
        i = a.rsbs[i].chain
    return i == wanted


cdef bint shard_is_sound(arena_t* a, shard_t* s) noexcept nogil:
    cdef uint32_t i, n = 0, me = <uint32_t>(s - a.shards)
    for i in range(1, min(load32(&a.hdr.next_rsb), a.hdr.n_rsbs)):
        if not a.rsbs[i].flags & R_USED or a.rsbs[i].shard != me:
            continue
        if (a.rsbs[i].hash & a.shard_mask) != me or not is_chained(a, i):
            return dlm_breach("resource in the wrong bucket", i, 0)
        if not check_rsb(a, &a.rsbs[i]):
            return False
        n += 1
    if n != s.used_rsbs:
        return dlm_breach("resources lost or counted twice", n, s.used_rsbs)
    return True


cdef bint links_make_sense(arena_t* a, lkb_t* k, unsigned char home) noexcept nogil:
    """Return whether all that a lock in use refers to can be."""
    if k.client != NOBODY and k.client >= a.hdr.n_clients:
        return False
    if k.rsb >= a.hdr.n_rsbs or (k.rsb and a.homes[KIND_RSB][k.rsb] != home):
        return False
    if k.queue > Q_HANDLE or (k.queue == Q_HANDLE and k.ready_next >= a.hdr.n_lkbs):
        return False
    return not k.lvb or (k.lvb < a.hdr.n_lvbs and a.homes[KIND_LVB][k.lvb] == home)


cdef bint slots_are_sound(arena_t* a, shard_t* s) noexcept nogil:
    """Return whether each slot of the shard is either free or in use, and none is lost."""
    cdef unsigned char home = home_of(a, s)
    cdef uint32_t own[4]
    cdef uint32_t used[4]
    cdef uint32_t i, n, last
    cdef int kind
    memset(own, 0, sizeof(own))
    memset(used, 0, sizeof(used))
    for kind in range(KIND_NAME + 1):
        last = load32(a.next_[kind])
        if last > a.limits[kind]:
            return dlm_breach("more slots handed out than there are", kind, last)
        for i in range(1, last):
            own[kind] += a.homes[kind][i] == home
    for i in range(1, load32(a.next_[KIND_LKB])):
        if a.homes[KIND_LKB][i] == home and a.lkbs[i].bits & B_USED:
            if not links_make_sense(a, &a.lkbs[i], home):
                return dlm_breach("lock that refers to what cannot be", 0, i)
            used[KIND_LKB] += 1
            used[KIND_LVB] += a.lkbs[i].lvb != 0
    for i in range(1, load32(a.next_[KIND_RSB])):
        if a.homes[KIND_RSB][i] == home and a.rsbs[i].flags & R_USED:
            used[KIND_RSB] += 1
            used[KIND_LVB] += a.rsbs[i].lvb != 0
            used[KIND_NAME] += a.rsbs[i].name_slot != 0
    for kind in range(KIND_NAME + 1):
        n = 0
        i = s.free[kind]
        while i:
            if i >= a.limits[kind] or a.homes[kind][i] != home or n > own[kind]:
                return dlm_breach("free list leads nowhere", kind, i)
            n += 1
            i = next_free(a, kind, i)[0]
        if n + used[kind] != own[kind]:
            return dlm_breach("slots lost or counted twice", kind, own[kind])
    if used[KIND_LKB] != s.used_lkbs or used[KIND_RSB] != s.used_rsbs:
        return dlm_breach("wrong number of slots in use", used[KIND_RSB], used[KIND_LKB])
    return True


cdef void check_shard(arena_t* a, shard_t* s) noexcept nogil:
    if not shard_is_sound(a, s):
        abort()
