# Bring the descriptors of a connection of this process up to date with the arena.
#
# A descriptor shows a level, not an edge: whoever changed what it shows comes here afterwards,
# and under the port's mutex the state of that moment is shown. So the last one to come is right.


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


cdef void show_level(port_t* p, uint32_t i, bint level) noexcept nogil:
    cdef int32_t entry = p.fds[i]
    if entry == 0 or (entry & 1) == level:
        return
    if level:
        eventfd_raise((entry >> 1) - 1)
    else:
        eventfd_clear((entry >> 1) - 1)
    p.fds[i] = entry ^ 1


cdef void sync_fd(arena_t* a, port_t* p, uint32_t i) noexcept nogil:
    """Show whether lock `i` blocks somebody. Called with the port's mutex."""
    cdef lkb_t* k = &a.lkbs[i]
    cdef bint level = False
    shard_lock(a, shard_of(a, k))
    k.bits &= ~B_FD_SYNC
    if is_zombie(k):
        if not k.bits & B_READY and load32(&k.futex) != LEFT_TO_WAITER:
            give_lkb(a, shard_of(a, k), k)
    else:
        level = wanted_by_others(&a.rsbs[k.rsb], k) > NL
    shard_unlock(a, shard_of(a, k))
    if p.fds != NULL:
        show_level(p, i, level)


cdef void pump(arena_t* a, uint16_t client) noexcept nogil:
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
        if p.events >= 0 and (load32(&c.ready) or c.deaths_read != a.hdr.n_deaths):
            eventfd_raise(p.events)
    pthread_mutex_unlock(&p.mutex)
