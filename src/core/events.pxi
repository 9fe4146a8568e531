# The events of a connection, from the arena to the program (rules 23 to 26).


cdef int listen(Client self) except -1:
    """Have notices recorded from now on, and those of locks that block somebody already."""
    cdef op_t o
    cdef uint32_t i, rsb
    cdef lkb_t* k
    if self.a.clients[self.slot].listening:
        return 0
    store32(&self.a.clients[self.slot].listening, 1)
    with nogil:
        for i in range(1, load32(&self.a.hdr.next_lkb)):
            k = &self.a.lkbs[i]
            if k.client != self.slot or not k.bits & B_USED:
                continue
            op_begin(&o, self.a, shard_of(self.a, k))
            rsb = k.rsb
            if k.client == self.slot and k.bits & B_USED and rsb and k.highbast:
                notify(&o, k, k.highbast)
            op_end(&o, rsb)
    return 0


cdef int drain(Client self) except -1:
    """Move the events from the arena to the backlog."""
    cdef client_t* c = &self.a.clients[self.slot]
    cdef port_t* port = &self.a.ports[self.slot]
    cdef uint32_t i, back = 0, next_, n, deaths
    if self.live != dlm_epoch:
        return 0            # closed meanwhile: the slot may be another connection's
    pthread_mutex_lock(&port.mutex)
    i = swap32(&c.ready, 0)
    deaths = c.deaths_read
    n = load32(&self.a.hdr.n_deaths)
    c.deaths_read = n
    pthread_mutex_unlock(&port.mutex)
    while i:                # newest first; turn it round
        next_ = self.a.lkbs[i].ready_next
        self.a.lkbs[i].ready_next = back
        back = i
        i = next_
    while back and self.live == dlm_epoch:
        next_ = self.a.lkbs[back].ready_next
        read_events(self, &self.a.lkbs[back], False)
        back = next_
    if load32(&c.rescan) & RESCAN_EVENTS:
        and32(&c.rescan, ~<uint32_t>RESCAN_EVENTS)
        rescan_events(self)
    if n - deaths >= MAX_DEATHS:
        deaths = n - MAX_DEATHS + 1     # the oldest may be being overwritten
    while deaths != n:
        self.backlog.append(new_tuple(NodeDown, (self.a.hdr.deaths[deaths % MAX_DEATHS],)))
        deaths += 1
    if self.backlog and self.live == dlm_epoch:
        pthread_mutex_lock(&port.mutex)
        port.backlog = True
        if port.events >= 0:
            eventfd_raise(port.events)  # also where a verb had us make room
        pthread_mutex_unlock(&port.mutex)
    return 0


cdef int make_room(Client self, uint64_t lkid) except -1:
    """Read the events of one lock, which has no room for more."""
    drain(self)
    # Whoever else is in the midst of a drain has it on a list of its own, where it stays.
    read_events(self, &self.a.lkbs[<uint32_t>lkid], True)
    return 0


cdef int rescan_events(Client self) except -1:
    """Read locks that somebody who died was putting on the list, or did not come to."""
    cdef uint32_t i
    cdef lkb_t* k
    cdef bint lost
    for i in range(1, load32(&self.a.hdr.next_lkb)):
        k = &self.a.lkbs[i]
        if k.client != self.slot or not k.bits & B_USED:
            continue
        shard_lock(self.a, shard_of(self.a, k))
        lost = k.client == self.slot and k.bits & B_USED != 0 and (
            (k.has_cast or k.bast_first or k.bast_then or k.bits & B_READY != 0)
            and not on_list(self.a, load32(&self.a.clients[self.slot].ready), i, False)
        )
        shard_unlock(self.a, shard_of(self.a, k))
        if lost:
            read_events(self, k, False)
    return 0


cdef int read_events(Client self, lkb_t* k, bint listed) except -1:
    """Read what one lock has to tell: a notice, a completion, a notice (rules 24 to 26).

    `listed`: it may still be on a list of those that have events.
    """
    cdef lkb_t copy
    cdef uint32_t i = lkb_index(self.a, k)
    cdef uint64_t lkid
    cdef bint with_lvb
    cdef int before
    value = PyBytes_FromStringAndSize(NULL, self.a.lvb_len)
    shard_lock(self.a, shard_of(self.a, k))
    if self.live != dlm_epoch or k.client != self.slot or not k.bits & B_USED:
        shard_unlock(self.a, shard_of(self.a, k))
        return 0            # the connection was closed under our feet
    copy = k[0]
    before = copy.granted_before
    with_lvb = (
        copy.has_cast and copy.status == ST_OK and copy.lvb != 0
        and dlm_lvb_action[before + 1][copy.cast_mode] != 0
    )
    if with_lvb:
        memcpy(PyBytes_AS_STRING(value), lvb_at(self.a, k.lvb), self.a.lvb_len)
    crash_point()
    k.has_cast = k.bast_first = k.bast_then = 0
    if copy.has_cast:
        k.granted_before = copy.cast_mode
    crash_point()
    if not listed:
        k.bits &= ~B_READY
    crash_point()
    give_if_done(self.a, shard_of(self.a, k), k)
    shard_unlock(self.a, shard_of(self.a, k))

    lkid = <uint64_t>copy.gen << 32 | i
    if copy.bits & B_SYNC:
        # The handle is looked up when the event is given out: none keeps one alive.
        if copy.rsb and copy.bast_first and not modes_compatible(copy.grmode, copy.bast_first):
            if lkid not in self.notices:
                self.backlog.append(lkid)
            self.notices[lkid] = max(self.notices.get(lkid, 0), copy.bast_first)
        return 0
    if copy.bast_first and not modes_compatible(before, copy.bast_first):
        self.backlog.append(new_tuple(Blocked, (lkid, MODES[copy.bast_first], None)))
    if copy.has_cast:
        before = copy.cast_mode
        self.backlog.append(new_tuple(Completion, (
            lkid, copy.status, SB_FLAGS[copy.cast_sb], mode_or_none(copy.cast_mode),
            value if with_lvb else None, copy.token, None,
        )))
    if copy.bast_then and not modes_compatible(before, copy.bast_then):
        self.backlog.append(new_tuple(Blocked, (lkid, MODES[copy.bast_then], None)))
    return 0


cdef object native_notice(Client self, uint64_t lkid, int mode):
    """Return the event of a native lock's notice; None if it is in nobody's way any more."""
    cdef uint32_t i = <uint32_t>lkid
    if not in_use(self.handles[i]) or self.a.lkbs[i].gen != lkid >> 32:
        return None
    if modes_compatible(self.a.lkbs[i].grmode, mode):
        return None
    return new_tuple(Blocked, (lkid, MODES[mode], <object>self.handles[i]))
