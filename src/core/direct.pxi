# A notice straight to the descriptor of a lock of another process, or of its events.
#
# The helper thread of that process would raise it, but has to be woken for that first, which
# doubles the time until the holder knows. So we keep duplicates of the descriptors of locks we met,
# and write to them ourselves. The helper is rung all the same: only the owner knows the level, and
# lowers again what we raised too late. Where the kernel refuses duplicates, the helper does it all.
#
# With the events it is left asleep if they are still unread once we have raised the descriptor:
# then we were not too late.
#
# Nobody waits for the mutex over the duplicates: who has it may be waiting for a shard in which
# somebody is stopped, and the helper can do it too.

cdef extern from "direct.h":
    int duplicate_of(uint32_t pid, int fd) noexcept nogil

cdef enum:
    MAX_DUPLICATES = 64

cdef struct duplicate_t:
    uint32_t lkb             # 0: none
    uint32_t gen
    int fd

cdef struct duplicate_events_t:
    uint64_t claim           # of the connection; 0: none
    int fd

cdef struct duplicates_t:
    pthread_mutex_t mutex
    bint refused             # by the kernel: not tried again
    duplicate_t of[MAX_DUPLICATES]
    duplicate_events_t events[MAX_DUPLICATES]


cdef duplicates_t* make_duplicates() noexcept nogil:
    cdef duplicates_t* d = <duplicates_t*>calloc(1, sizeof(duplicates_t))
    if d != NULL:
        pthread_mutex_init(&d.mutex, NULL)
    return d


cdef void free_duplicates(duplicates_t* d, bint ours) noexcept nogil:
    """Forget them; in a forked child, the numbers may be others' by now."""
    if ours and d != NULL:
        close_duplicates(d)
    free(d)


cdef void close_duplicates(duplicates_t* d) noexcept nogil:
    cdef uint32_t i
    if pthread_mutex_trylock(&d.mutex):
        return
    for i in range(<uint32_t>MAX_DUPLICATES):
        if d.of[i].lkb:
            close(d.of[i].fd)
        if d.events[i].claim:
            close(d.events[i].fd)
        d.of[i].lkb = 0
        d.events[i].claim = 0
    pthread_mutex_unlock(&d.mutex)


cdef void close_unused_duplicates(arena_t* a) noexcept nogil:
    """Close them if no connection of this process is left."""
    cdef uint32_t i
    if a.duplicates == NULL:
        return
    for i in range(a.hdr.n_clients):
        if load32(&a.clients[i].claim) == a.me + 1:
            return
    close_duplicates(<duplicates_t*>a.duplicates)


cdef bint is_still(arena_t* a, lkb_t* k, uint32_t gen, int fd, uint64_t claim) noexcept nogil:
    """Return whether a lock, its owner and its descriptor are what they were. Needs the mutex."""
    return (
        k.gen == gen and k.bits & B_USED != 0 and k.fd == fd and k.client != NOBODY
        and load64(<uint64_t*>&a.clients[k.client].claim) == claim
        and not is_dead(&a.procs[claim_of(claim) - 1])
    )


cdef int find_duplicate(op_t* o, duplicates_t* d, uint32_t i) noexcept nogil:
    """Return a duplicate of the descriptor of lock `i`, or -1."""
    cdef arena_t* a = o.a
    cdef lkb_t* k = &a.lkbs[i]
    cdef duplicate_t* found = &d.of[i % MAX_DUPLICATES]
    cdef uint64_t claim = 0
    cdef uint32_t gen
    cdef proc_t* p
    cdef int number, fd
    shard_lock(a, o.s)
    gen = k.gen
    number = k.fd if shard_of(a, k) == o.s and k.bits & B_USED else 0
    if number and k.client != NOBODY:
        claim = load64(<uint64_t*>&a.clients[k.client].claim)
        k.duplicated = True
    shard_unlock(a, o.s)
    if number == 0 or claim_of(claim) == 0:
        return -1
    if found.lkb == i and found.gen == gen:
        return found.fd
    p = &a.procs[claim_of(claim) - 1]
    fd = duplicate_of(p.pid, number - 1)
    if fd < 0:
        d.refused = fd == -EPERM or fd == -ENOSYS
        return -1
    # It may have been closed meanwhile, and the number be another's. An owner first says so.
    shard_lock(a, o.s)
    if not is_still(a, k, gen, number, claim):
        claim = 0
    shard_unlock(a, o.s)
    if claim == 0:
        close(fd)
        return -1
    if found.lkb:
        close(found.fd)
    found.lkb = i
    found.gen = gen
    found.fd = fd
    return fd


cdef void raise_direct(op_t* o, uint32_t i) noexcept nogil:
    """Raise the descriptor of a lock of another process. Called without the mutex."""
    cdef duplicates_t* d = <duplicates_t*>o.a.duplicates
    cdef lkb_t* k = &o.a.lkbs[i]
    cdef int fd
    if d == NULL or d.refused or pthread_mutex_trylock(&d.mutex):
        return
    fd = find_duplicate(o, d, i)
    crash_point()
    if fd >= 0:
        eventfd_raise(fd)
        crash_point()
        # Perhaps nobody waits any more, and the owner has seen to that before we came.
        shard_lock(o.a, o.s)
        if k.gen != d.of[i % MAX_DUPLICATES].gen or k.fd == 0:
            eventfd_clear(fd)   # closed meanwhile; but somebody's epoll may still watch it
        elif shard_of(o.a, k) == o.s and k.bits & B_USED and not is_zombie(k):
            push_fd_sync(o, k)
        shard_unlock(o.a, o.s)
    pthread_mutex_unlock(&d.mutex)


cdef inline bint has_events(client_t* c, uint64_t claim, uint64_t events) noexcept nogil:
    """Return whether a connection and the descriptor of its events are what they were."""
    return load64(<uint64_t*>&c.claim) == claim and load64(&c.events) == events


cdef int find_events(
    arena_t* a, duplicates_t* d, client_t* c, uint64_t claim, uint64_t events
) noexcept nogil:
    """Return a duplicate of the descriptor of a connection's events, or -1."""
    cdef duplicate_events_t* found = &d.events[(c - a.clients) % MAX_DUPLICATES]
    cdef proc_t* p = &a.procs[claim_of(claim) - 1]
    cdef int fd
    if found.claim == claim:
        return found.fd
    fd = duplicate_of(p.pid, <int>claim_of(events) - 1)
    if fd < 0:
        d.refused = fd == -EPERM or fd == -ENOSYS
        return -1
    # It may have been closed meanwhile, and the number be another's. An owner first says so.
    if not has_events(c, claim, events) or is_dead(p):
        close(fd)
        return -1
    if found.claim:
        close(found.fd)
    found.claim = claim
    found.fd = fd
    return fd


cdef bint raise_events(arena_t* a, uint16_t client) noexcept nogil:
    """Tell another process's connection of its events; return whether all is done with that."""
    cdef duplicates_t* d = <duplicates_t*>a.duplicates
    cdef client_t* c = &a.clients[client]
    cdef uint64_t claim = load64(<uint64_t*>&c.claim), events = load64(&c.events)
    cdef bint done = False
    cdef int fd
    if d == NULL or d.refused or claim_of(claim) == 0 or load32(&c.ready) == 0:
        return False
    if node_of(events) != node_of(claim):      # it does not listen, or is on its way out
        return False
    if pthread_mutex_trylock(&d.mutex):
        return False
    fd = find_events(a, d, c, claim, events)
    crash_point()
    if fd >= 0:
        eventfd_raise(fd)
        crash_point()
        if has_events(c, claim, events):
            done = load32(&c.ready) != 0 and load32(&c.fd_sync) == 0 and load32(&c.rescan) == 0
        else:
            eventfd_clear(fd)   # closed meanwhile; but somebody's epoll may still watch it
    pthread_mutex_unlock(&d.mutex)
    return done
