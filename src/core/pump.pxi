# Bring the descriptors of a connection of this process up to date with the arena.
#
# A descriptor shows a level, not an edge: whoever changed what it shows comes here afterwards,
# and under the port's mutex the state of that moment is shown. So the last one to come is right.


cdef void show_level(port_t* p, uint32_t i, bint level, bint surely) noexcept nogil:
    """Raise or lower a descriptor; `surely`: others may have raised it."""
    cdef int32_t entry = p.fds[i]
    if entry == 0:
        return
    if (entry & 1) == level:
        if surely and not level:
            eventfd_clear((entry >> 1) - 1)
        return
    if level:
        eventfd_raise((entry >> 1) - 1)
    else:
        eventfd_clear((entry >> 1) - 1)
    p.fds[i] = entry ^ 1


cdef void sync_fd(arena_t* a, port_t* p, uint32_t i) noexcept nogil:
    """Show whether lock `i` blocks somebody. Called with the port's mutex."""
    cdef lkb_t* k = &a.lkbs[i]
    cdef bint level = False, surely
    shard_lock(a, shard_of(a, k))
    k.bits &= ~B_FD_SYNC
    surely = k.duplicated != 0
    if is_zombie(k):
        give_if_done(a, shard_of(a, k), k)
    else:
        level = wanted_by_others(&a.rsbs[k.rsb], k) > NL
    shard_unlock(a, shard_of(a, k))
    if p.fds != NULL:
        show_level(p, i, level, surely)


cdef bint on_list(arena_t* a, uint32_t head, uint32_t wanted, bint fds) noexcept nogil:
    """Return whether a lock is on a list of its client, of which we are the only consumer."""
    while head and head != wanted:
        head = a.lkbs[head].fd_next if fds else a.lkbs[head].ready_next
    return head == wanted


cdef void rescan_fds(arena_t* a, port_t* p, uint16_t client) noexcept nogil:
    """Find locks that somebody who died was putting on the list, or did not come to."""
    cdef uint32_t i
    cdef lkb_t* k
    cdef bint lost
    for i in range(1, load32(&a.hdr.next_lkb)):
        k = &a.lkbs[i]
        if k.client != client or not k.bits & (B_HAS_FD | B_FD_SYNC):
            continue
        shard_lock(a, shard_of(a, k))
        lost = (
            k.client == client and k.bits & (B_HAS_FD | B_FD_SYNC) != 0
            and not (
                k.bits & B_FD_SYNC != 0
                and on_list(a, load32(&a.clients[client].fd_sync), i, True)
            )
        )
        shard_unlock(a, shard_of(a, k))
        if lost:
            sync_fd(a, p, i)


cdef inline bint a_stranger(arena_t* a, uint32_t client) noexcept nogil:
    """Return whether a client belongs to another process."""
    return a.clients[client].claim != a.me + 1


cdef inline uint32_t pid_of(arena_t* a, uint32_t client) noexcept nogil:
    if client == NOBODY or a.clients[client].claim == 0:
        return 0
    return a.procs[a.clients[client].claim - 1].pid


cdef void ring_process(arena_t* a, uint32_t proc) noexcept nogil:
    """Have the helper thread of another process look after its connections."""
    # RUNG already: whoever did that may have died, or be stopped, before the wake.
    if swap32(&a.procs[proc].doorbell, RUNG) != QUIET:
        crash_point()
        futex_wake(&a.procs[proc].doorbell, 1, a.futex_flags)


cdef void pump_all(arena_t* a) noexcept nogil:
    cdef uint32_t i
    for i in range(a.hdr.n_clients):
        if load32(&a.clients[i].node):
            pump(a, <uint16_t>i)


cdef void pump(arena_t* a, uint16_t client) noexcept nogil:
    cdef uint32_t claim = load32(&a.clients[client].claim)
    crash_point()
    if claim == a.me + 1:
        pump_mine(a, client)
    elif claim and not raise_events(a, client):
        ring_process(a, claim - 1)


cdef inline bint has_news(arena_t* a, port_t* p, client_t* c) noexcept nogil:
    return (
        p.backlog or load32(&c.ready) != 0 or load32(&c.rescan) != 0
        or c.deaths_read != a.hdr.n_deaths
    )


cdef void show_events(arena_t* a, port_t* p, client_t* c) noexcept nogil:
    """Show whether there are events for a connection. Called with the port's mutex."""
    if p.events < 0:
        return
    if not has_news(a, p, c):
        eventfd_clear(p.events)
    if has_news(a, p, c):       # others may have raised it before it was lowered
        eventfd_raise(p.events)


cdef void pump_mine(arena_t* a, uint16_t client) noexcept nogil:
    cdef port_t* p = &a.ports[client]
    cdef client_t* c = &a.clients[client]
    cdef uint32_t i, next_
    pthread_mutex_lock(&p.mutex)
    if p.open:
        i = swap32(&c.fd_sync, 0)
        while i:
            next_ = a.lkbs[i].fd_next
            sync_fd(a, p, i)
            i = next_
        if load32(&c.rescan) & RESCAN_FDS:
            and32(&c.rescan, ~<uint32_t>RESCAN_FDS)
            rescan_fds(a, p, client)
        show_events(a, p, c)
    pthread_mutex_unlock(&p.mutex)
