# Cycles over several resources (docs/design.md, rule 34).
#
# Who waits for whom is asked of the arena, a shard at a time. So a cycle may be made of edges that
# never were there together; but a deadlock stays, so each edge is looked at twice: if all were
# there in the first round and are, unchanged, in the second, all were there in between.
# One search at a time in a lockspace: of those who are in a cycle, one finds it.

cdef struct edge_t:
    uint32_t lkb             # who is in the way
    uint32_t gen
    uint32_t owner
    uint16_t process         # proc + 1 of that thread
    uint64_t token


cdef uint32_t list_blockers(arena_t* a, lkb_t* k, edge_t* out, uint32_t room) noexcept nogil:
    """List the locks that keep `k` waiting; more than `room` are counted only. Needs the mutex."""
    cdef rsb_t* r = &a.rsbs[k.rsb]
    cdef uint32_t heads[3]
    cdef uint32_t i, n = 0
    cdef int q
    cdef bint behind
    cdef lkb_t* other
    if k.queue == Q_HANDLE:
        other = &a.lkbs[k.ready_next]
        # Whoever uses the handle: has the lock through it, or waits for it in the lock manager.
        if other.bits & B_USED and room and (other.grmode > NL or other.queue == Q_CONVERT):
            put_edge(a, out, other)
            n = 1
        return n
    heads[0] = r.granted
    heads[1] = r.converting
    heads[2] = r.waiting if k.queue == Q_WAITING else 0
    for q in range(3):
        i = heads[q]
        behind = False          # those on the same queue block while they are ahead
        while i:
            other = &a.lkbs[i]
            i = other.next
            if other == k:
                behind = True
                continue
            if modes_compatible(other.grmode, k.rqmode) and (q == 0 or behind):
                continue
            if n < room:
                put_edge(a, &out[n], other)
            n += 1
    return n


cdef inline uint16_t process_of(arena_t* a, lkb_t* k) noexcept nogil:
    """Return proc + 1 of whoever has the lock; 0: nobody, or its owner has just gone."""
    cdef uint16_t client = k.client
    return 0 if client == NOBODY else <uint16_t>load32(&a.clients[client].claim)


cdef inline void put_edge(arena_t* a, edge_t* e, lkb_t* k) noexcept nogil:
    e.lkb = lkb_index(a, k)
    e.gen = k.gen
    e.owner = k.owner
    e.process = process_of(a, k)
    e.token = k.token


cdef inline bint waits(lkb_t* k) noexcept nogil:
    """Return whether a thread that named itself waits here."""
    return k.bits & B_USED and k.owner != 0 and (
        k.queue == Q_HANDLE or (k.queue == Q_CONVERT and k.futex == WAITED)
    )


cdef set blockers(arena_t* a, uint32_t i):
    """Return the (lkb, gen, process, owner, token) that lock `i` waits for."""
    cdef lkb_t* k = &a.lkbs[i]
    cdef uint32_t n = 0, room = 64, e
    cdef edge_t* edges
    cdef shard_t* s = shard_of(a, k)
    while True:
        edges = <edge_t*>malloc(room * sizeof(edge_t))
        if edges == NULL:
            raise MemoryError
        with nogil:
            shard_lock(a, s)
            n = list_blockers(a, k, edges, room) if waits(k) and k.rsb else 0
            shard_unlock(a, s)
        if n <= room:
            break
        free(edges)
        room = n + 64
    found = {
        (edges[e].lkb, edges[e].gen, edges[e].process, edges[e].owner, edges[e].token)
        for e in range(n)
    }
    free(edges)
    return found


cdef list find_cycle(arena_t* a, uint32_t start):
    """Return the waiting locks of a cycle through `start`, that one first; empty: none."""
    cdef uint32_t i
    if a.lkbs[start].owner == 0:
        return []               # nobody in particular: nobody can be said to wait for it
    waiting = {}
    for i in range(1, load32(&a.hdr.next_lkb)):
        if waits(&a.lkbs[i]):
            waiting[process_of(a, &a.lkbs[i]), a.lkbs[i].owner] = i
    me = (process_of(a, &a.lkbs[start]), a.lkbs[start].owner)
    seen = {start}
    path = [(start, None, iter(blockers(a, start)))]
    while path:
        for edge in path[len(path) - 1][2]:
            owner = edge[2], edge[3]
            if owner == me:
                if len(path) == 1:
                    continue        # for itself, as it thinks: see rule 34
                steps = [(lock, via) for lock, via, _ in path] + [(start, edge)]
                if all(
                    steps[j + 1][1] in blockers(a, steps[j][0]) for j in range(len(steps) - 1)
                ):
                    return [lock for lock, _ in steps[:len(path)]]
                continue
            following = waiting.get(owner)
            if edge[3] and following is not None and following not in seen:
                seen.add(following)
                path.append((following, edge, iter(blockers(a, following))))
                break
        else:
            path.pop()
    return []


cdef tuple describe_cycle(arena_t* a, list cycle):
    """Name the members of a cycle for the one who has to break it."""
    members = []
    for index in cycle:
        members.append(describe(a, index))
    return tuple(members)


cdef object describe(arena_t* a, uint32_t i):
    cdef lkb_t copy
    cdef unsigned char text[NAME_MAX]
    cdef uint32_t n = 0
    cdef shard_t* s = shard_of(a, &a.lkbs[i])
    cdef uint32_t pid
    shard_lock(a, s)
    copy = a.lkbs[i]
    if copy.queue == Q_HANDLE:
        copy.grmode = IV        # it holds nothing: what it wants is held through the same handle
    if copy.rsb:
        n = a.rsbs[copy.rsb].name_len
        memcpy(text, name_at(a, &a.rsbs[copy.rsb]), n)
    shard_unlock(a, s)
    pid = pid_of(a, copy.client)
    return DeadlockMember(
        text[:n], mode_or_none(copy.rqmode), mode_or_none(copy.grmode),
        f"process {pid} " + (f"thread {copy.owner}" if copy.owner else "(thread unknown)"),
        <uint64_t>copy.gen << 32 | i,
    )


cdef object deadlock_error(tuple cycle):
    steps = "; ".join(
        f"{m.owner} waits for {m.wanted.name if m.wanted is not None else 'it'} on {m.resource!r}"
        for m in cycle
    )
    return DeadlockError(f"deadlock: {steps}; this request was given up", cycle=cycle)


cdef enum:
    SEARCH_TIME = 500000000      # ns; who takes longer is stopped, and somebody else goes on


cdef void search_begin(arena_t* a, uint32_t node) noexcept nogil:
    """Become the one who searches."""
    cdef uint32_t other, last = 0
    cdef int64_t give_up = NEVER
    while not cas32(&a.hdr.searching, 0, node):
        other = load32(&a.hdr.searching)
        if other != last:
            last = other
            give_up = monotonic_ns() + SEARCH_TIME
        elif other and monotonic_ns() >= give_up and cas32(&a.hdr.searching, other, node):
            return
        if other:
            futex_wait(&a.hdr.searching, other, give_up, a.futex_flags)


cdef void search_end(arena_t* a, uint32_t node) noexcept nogil:
    if cas32(&a.hdr.searching, node, 0):
        futex_wake(&a.hdr.searching, 0x7fffffff, a.futex_flags)
