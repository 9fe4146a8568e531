# What a handle asks of the lock manager, and the answer.


cdef int request(Lock self, int mode, bint blocking, int64_t deadline) except -1:
    """Convert to `mode`; return ST_OK or ST_EAGAIN. Raises what else can end a wait."""
    cdef op_t o
    cdef arena_t* a = self.client.a
    cdef lkb_t* k = self.k
    cdef rsb_t* r
    cdef uint32_t flags = 0 if blocking else LKF_NOQUEUE
    cdef bint queued
    cdef int status, before = k.grmode
    self.enter_open(&o)
    r = &a.rsbs[k.rsb]
    if k.grmode == NL:
        flags |= LKF_QUECVT     # or else readers would pass a waiting writer for ever
    else:
        flags |= LKF_HEADQUE    # holders go before those who have nothing yet
    if k.bits & B_DIRTY and dlm_lvb_action[k.grmode + 1][mode] == 0:
        publish_dirty(a, o.s, r, k)
    k.owner = 0 if self.passed_on else dlm_tid
    do_convert(&o, r, k, mode, flags)
    queued = k.queue == Q_CONVERT
    if queued:
        crash_point()
        store32(&k.futex, WAITED)
        crash_point()
    if k.bits & B_HAS_FD:
        push_fd_sync(&o, k)
    op_end(&o, k.rsb)
    if queued:
        try:
            if not sleep(self, &k.futex, WAITED, deadline, NULL):
                return ST_EAGAIN
        except BaseException:
            if ended(self):
                store32(&k.futex, 0)
                if k.status == ST_OK:
                    go_back(self, before)    # granted meanwhile, but nobody will use it
            raise
        if not ended(self):
            self.check_open()
        store32(&k.futex, 0)
    status = k.status
    if status == ST_EAGAIN:
        k.rqmode = IV
    if status == ST_ECANCEL:
        raise Cancelled("the request was cancelled")
    if status == ST_EDEADLK:
        raise deadlock_error(conversion_deadlock(self, mode))
    return status


cdef void go_back(Lock self, int mode) noexcept:
    """Give up what was granted to a request whose caller has gone.

    From CW to PR and back it may be that others came in between; then it stays as it is.
    """
    cdef op_t o
    cdef uint32_t rsb = self.k.rsb
    if mode == NL:
        self.back_to_null()
        return
    enter(&o, self.client.a, shard_of(self.client.a, self.k))
    if not self.is_open():
        shard_unlock(o.a, o.s)
        return
    do_convert(&o, &o.a.rsbs[rsb], self.k, mode, LKF_NOQUEUE)
    if self.k.bits & B_HAS_FD:
        push_fd_sync(&o, self.k)
    self.k.rqmode = IV
    op_end(&o, rsb)


cdef tuple conversion_deadlock(Lock self, int mode):
    """Name the two: this conversion, and the one that waits for this lock."""
    cdef op_t o
    cdef arena_t* a = self.client.a
    cdef uint32_t i, other = 0
    self.enter_open(&o)
    i = a.rsbs[self.k.rsb].converting
    while i and other == 0:
        if not modes_compatible(self.k.grmode, a.lkbs[i].rqmode):
            other = i
        i = a.lkbs[i].next
    shard_unlock(a, o.s)
    me = describe(a, self.index())._replace(wanted=MODES[mode])
    return (me, describe(a, other)) if other else (me,)


cdef int shut(Lock self) except -1:
    """Unlock and let go of the slot. Called once, with the connection alive."""
    cdef op_t o
    cdef arena_t* a = self.client.a
    cdef port_t* port = &a.ports[self.client.slot]
    cdef lkb_t* k = self.k
    cdef uint32_t rsb, i = self.index()
    cdef bint unread
    self.state = SHUT
    self.client.handles[i] = NULL
    enter(&o, a, shard_of(a, k))
    if self.client.live != dlm_epoch:
        shard_unlock(a, o.s)
        return 0            # the connection was closed meanwhile and takes the lock along
    rsb = k.rsb
    if k.bits & B_DIRTY:
        publish_dirty(a, o.s, &a.rsbs[rsb], k)
    k.bits &= ~B_HAS_FD
    k.fd = 0                # before it is closed: see direct.pxi
    if load32(&k.futex):
        store32(&k.futex, LEFT_TO_WAITER)
        futex_wake(&k.futex, 1, a.futex_flags)
    unread = k.bits & B_READY != 0
    do_unlock(&o, &a.rsbs[rsb], k)
    op_end(&o, rsb)
    if port.fds != NULL and port.fds[i]:
        pthread_mutex_lock(&port.mutex)
        close_descriptor(port.fds[i])
        port.fds[i] = 0
        pthread_mutex_unlock(&port.mutex)
    if unread:
        drain(self.client)     # nobody may ever ask for events, and the slot waits for that
    return 0


cdef inline void grant_native(arena_t* a, rsb_t* r, lkb_t* k) noexcept nogil:
    """What `grant` does, for a lock on the granted queue whose block is kept by its holder."""
    cdef int mode = k.rqmode
    r.token += 1
    crash_point()
    k.token = r.token
    if mode > NL:
        k.since = coarse_centiseconds()
    crash_point()
    uncount_held(r, k.grmode)
    count_held(r, mode)
    k.highbast = 0
    set_state(k, Q_GRANTED, mode, IV)
    if k.prev:
        unlink_lkb(a, &r.granted, NULL, k)
        put_granted(a, r, k)
    k.trybast = 0
