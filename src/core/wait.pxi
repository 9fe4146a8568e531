# A thread that waits: how it sleeps, what ends it, and what is left of it then.


cdef bint sleep(
    Lock self, uint32_t* word, uint32_t value, int64_t deadline, waiter_t* in_line
) except -1:
    """Wait until *word is no longer `value`; False: the deadline came first.

    If it returns False or raises, nothing of the wait is left.
    """
    cdef arena_t* a = self.client.a
    cdef int64_t look_at = NEVER, watch_at = NEVER, until
    cdef int rc
    wait = self.client.wait
    if wait is not None and wait < 1e9:
        look_at = monotonic_ns() + <int64_t>(<double>wait * 1e9)
    if self.client.arena.shared:
        watch_at = monotonic_ns() + WATCH_EACH
    try:
        while load32(word) == value:
            until = sooner(sooner(deadline, look_at), watch_at)
            with nogil:
                rc = futex_wait(word, value, until, a.futex_flags)
            if rc == EINTR:
                PyErr_CheckSignals()
            elif rc == ETIMEDOUT:
                if until == deadline:
                    return not take_back(self, in_line)
                if until == watch_at:
                    with nogil:
                        wake_for_the_dead(a)
                    watch_at += WATCH_EACH
                    continue
                # Again only if there was no slot to be seen by.
                look_at = NEVER if break_deadlock(self, in_line) else look_at + 1000000000
    except BaseException:
        take_back(self, in_line)
        raise
    return True


cdef bint take_back(Lock self, waiter_t* in_line) noexcept:
    """End this thread's wait; False: it had ended already."""
    cdef op_t o
    if in_line != NULL:
        if in_line.word != IN_LINE:
            return False
        leave_line(self, in_line)
        return True
    if load32(&self.k.futex) != WAITED:
        return False
    enter(&o, self.client.a, shard_of(self.client.a, self.k))
    if load32(&self.k.futex) != WAITED:
        shard_unlock(o.a, o.s)
        return False
    store32(&self.k.futex, 0)
    do_cancel(&o, &o.a.rsbs[self.k.rsb], self.k, ST_ECANCEL)
    op_end(&o, self.k.rsb)
    return True


cdef bint ended(Lock self) noexcept:
    """Return whether the wait ended in the lock manager, and not by the lock being closed."""
    if self.state != SHUT and self.client.live == dlm_epoch:
        return True
    reap(self)
    return False


cdef void reap(Lock self) noexcept:
    """Free the slot that whoever closed the lock had to leave to the thread waiting in it."""
    cdef op_t o
    enter(&o, self.client.a, shard_of(self.client.a, self.k))
    if load32(&self.k.futex) != LEFT_TO_WAITER:
        store32(&self.k.futex, 0)       # so that who closes it need not leave it to us
    else:
        store32(&self.k.futex, 0)
        give_if_done(o.a, o.s, self.k)
    shard_unlock(o.a, o.s)


cdef bint break_deadlock(Lock self, waiter_t* in_line) except -1:
    """Raise DeadlockError if this thread waits in a cycle; False: could not look."""
    cdef arena_t* a = self.client.a
    cdef uint32_t node = self.client.this_node
    cdef uint32_t index = self.index()
    if not self.is_open():
        return True         # closed under us; the caller will see
    if in_line != NULL:
        index = show_edge(self, in_line)
        if index == 0:
            return False
    with nogil:
        search_begin(a, node)
    try:
        cycle = find_cycle(a, index)
        if cycle:
            members = describe_cycle(a, cycle)
            # One whose wait has ended while we looked breaks the cycle.
            if None not in [m.wanted for m in members] and take_back(self, in_line):
                raise deadlock_error(members)
    finally:
        search_end(a, node)
    return True


cdef uint32_t show_edge(Lock self, waiter_t* w) noexcept:
    """Make a wait in line visible to searches, as a lock slot that is on no queue."""
    cdef op_t o
    cdef arena_t* a = self.client.a
    cdef lkb_t* k
    cdef uint32_t i
    if w.edge:
        return w.edge
    while True:
        enter(&o, a, shard_of(a, self.k))
        i = take_lkb(a, o.s) if self.is_open() else 0
        if i or not self.is_open():
            break
        shard_unlock(a, o.s)
        if not refill(a, o.s, KIND_LKB):
            return 0
    if i:
        k = &a.lkbs[i]
        k.rsb = self.k.rsb
        k.client = self.client.slot
        k.grmode = IV
        k.rqmode = <int8_t>w.mode
        k.owner = dlm_tid
        k.ready_next = self.index()
        k.queue = Q_HANDLE
        crash_point()
        k.bits = B_USED
        w.edge = i
    shard_unlock(a, o.s)
    return i


cdef void forget_edge(Lock self, waiter_t* w) noexcept:
    cdef op_t o
    cdef arena_t* a = self.client.a
    if w.edge == 0 or self.client.live != dlm_epoch:
        return              # a closed connection takes it along
    enter(&o, a, shard_of(a, &a.lkbs[w.edge]))
    if self.client.live == dlm_epoch:
        give_lkb(a, o.s, &a.lkbs[w.edge])
    shard_unlock(a, o.s)
