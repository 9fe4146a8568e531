# The native lock: blocking, through one handle, at the speed of the arena.
#
# A handle is one lkb that never leaves its resource: NL while nobody holds the lock through it.
# The GIL guards the handle's own state; the shard mutex guards the lkb.

cdef object EX_MODE = Mode.EX
cdef object PR_MODE = Mode.PR
cdef object NO_TIMEOUT = -1

cdef enum:
    SHUT                     # closed, or not open yet
    IDLE                     # nobody holds it through this handle
    BUSY                     # a thread is converting it
    HELD
    TURN                     # given up to the first in line, who has not come yet

cdef double TIMEOUT_MAX = 9223372036.0       # as threading.TIMEOUT_MAX
cdef int64_t NEVER = -1
cdef int64_t WATCH_EACH = 1000000000         # ns: see wake_for_the_dead


cdef inline int64_t sooner(int64_t a, int64_t b) noexcept nogil:
    """Return the earlier of two times, each of which may be NEVER."""
    return b if a == NEVER or (b != NEVER and b < a) else a


cdef int64_t deadline_of(blocking, limit) except -2:
    """Check the arguments as threading.Lock does; return an absolute time in ns, or NEVER."""
    cdef double timeout
    if isinstance(blocking, Mode) or isinstance(limit, Mode):
        raise TypeError("mode is a keyword: acquire(mode=Mode.PR)")
    timeout = limit
    if timeout == -1:
        return NEVER
    if not blocking:
        raise BadArgument("can't specify a timeout for a non-blocking call")
    if not timeout >= 0:
        raise BadArgument("timeout value must be a non-negative number of seconds")
    if timeout > TIMEOUT_MAX:
        raise OverflowError("timeout value is too large")
    if timeout > 4e9:
        return NEVER            # more than a century; the sum below would overflow
    return monotonic_ns() + <int64_t>(timeout * 1e9)


@cython.final
@cython.no_gc
cdef class Lock:
    """A lock on one resource, as :class:`pydlm.contract.Lock` documents it.

    It belongs to the handle: whoever has the handle may release it, in whatever thread.
    Acquiring it again through the same handle waits, first come, first served.
    """

    cdef readonly Client client
    cdef lkb_t* k
    cdef waiter_t* first         # in line for the handle
    cdef uint32_t rsb            # k.rsb, to have it fetched before k is there
    cdef uint8_t state
    cdef bint passed_on          # was released by another thread than took it: no known owner
    cdef object __weakref__

    def __cinit__(self, Client client not None, name):
        cdef bytes raw = resource_name(name)
        cdef const unsigned char* text = <const unsigned char*>PyBytes_AS_STRING(raw)
        cdef uint32_t n = <uint32_t>PyBytes_GET_SIZE(raw)
        cdef op_t o
        cdef arena_t* a = client.a
        cdef uint32_t hash_
        cdef int error
        self.client = client
        client.check_live()
        if n == 0:
            raise BadArgument("a resource name has at least 1 byte")
        hash_ = dlm_hash(text, n, a.hdr.seed)
        while True:
            client.enter_alive(&o, &a.shards[hash_ & a.shard_mask])
            # NL is compatible with all, and EXPEDITE passes whoever waits: granted at once.
            error = do_lock(&o, client.slot, text, n, hash_, NL, LKF_EXPEDITE, B_SYNC, 0, &self.k)
            shard_unlock(a, o.s)
            if error == 0:
                break
            if not refill(a, o.s, o.lacking):
                raise_full(a, o.lacking)
        self.rsb = self.k.rsb
        client.handles[lkb_index(a, self.k)] = <PyObject*>self
        self.state = IDLE

    def __dealloc__(self):
        if self.state == SHUT:
            return
        # Before anything else: no event may hand out a handle that is going.
        self.client.handles[self.index()] = NULL
        if self.client.live == dlm_epoch:
            if self.k.grmode > NL and is_finalizing():
                # The process ends with the lock in hand: as if it were killed, whatever goes first.
                self.client.cut_off = True
            elif self.k.grmode > NL:
                warning = f"{self!r} was held when its last reference went; it has been released"
                shut(self)
                _warnings.warn(warning, ResourceWarning)
            else:
                shut(self)

    # Taking and giving up.

    def acquire(self, blocking=True, timeout=NO_TIMEOUT, *, mode=EX_MODE):
        """Take the lock; return whether it could be had in `timeout` seconds (-1: no limit).

        Waits until the lock manager grants it, first come, first served. The wait ends early by
        `cancel` (Cancelled), `close` (Closed), a signal handler that raises, or because it would
        never end (DeadlockError). Arguments and their errors are those of threading.Lock.
        """
        cdef int m = EX if mode is EX_MODE else PR if mode is PR_MODE else held_mode(mode)
        if self.state == IDLE and timeout is NO_TIMEOUT and blocking is True:
            if self.take_at_once(m):
                return True
            return self.take(m, True, NEVER)
        return self.take(m, blocking, deadline_of(blocking, timeout))

    def __enter__(self):
        if not (self.state == IDLE and self.take_at_once(EX)):
            self.take(EX, True, NEVER)
        return self

    def __exit__(self, exc_type, exc, tb):
        if exc_type is None or not self.gone():
            self.give_back()

    def release(self):
        """Give the lock up, back to NL, and publish what was written to its lock value block.

        Any thread may. Raises NotHeld if nobody holds it, Busy while it is being converted.
        """
        self.give_back()

    cdef inline bint take_at_once(self, int mode) noexcept:
        """Take an idle lock that nobody is in the way of. False: nothing has changed."""
        cdef arena_t* a = self.client.a
        cdef lkb_t* k = self.k
        cdef rsb_t* r = &a.rsbs[self.rsb]
        cdef shard_t* s
        prefetch(r)
        prefetch(&k.sbflags)
        if self.client.live != dlm_epoch:
            return False            # in a forked child, the arena is not even mapped
        s = shard_of(a, k)
        if not dlm_thread_ready() or not mutex_trylock(&s.mutex):
            return False
        if (
            r.converting or r.waiting or r.held_mask & dlm_conflicts[mode]
            or load32(a.state) != a.alive
        ):
            shard_unlock(a, s)
            return False
        k.exflags = 0
        k.sbflags = 0
        k.owner = 0 if self.passed_on else dlm_tid
        crash_point()
        k.rqmode = <int8_t>mode
        grant_native(a, r, k)
        shard_unlock(a, s)
        self.state = HELD
        return True

    cdef bint take(self, int mode, bint blocking, int64_t deadline) except -1:
        cdef int status
        self.check_open()
        if self.state != IDLE:
            if not blocking or not stand_in_line(self, mode, deadline):
                return False
        self.state = BUSY
        try:
            status = request(self, mode, blocking, deadline)
        except BaseException:
            if self.state == BUSY:
                call_next(self)
            raise
        if status == ST_OK:
            self.state = HELD
            return True
        call_next(self)
        return False

    cdef int give_back(self) except -1:
        cdef lkb_t* k = self.k
        if self.state != HELD or self.client.live != dlm_epoch:
            self.check_open()
            if self.state == BUSY and k.grmode > NL:
                raise Busy("release of a lock that is being converted; cancel() that first")
            raise NotHeld("release unlocked lock")
        if k.owner != dlm_tid:
            self.passed_on = True
        self.state = BUSY       # we may have to wait for the shard, and others come in
        self.back_to_null()
        call_next(self)
        return 0

    cdef inline void back_to_null(self) noexcept:
        cdef op_t o
        cdef arena_t* a = self.client.a
        cdef lkb_t* k = self.k
        cdef rsb_t* r
        enter(&o, a, shard_of(a, k))
        if not self.is_open():
            shard_unlock(a, o.s)
            return
        r = &a.rsbs[k.rsb]
        if k.bits & B_DIRTY:
            publish_dirty(a, o.s, r, k)
        k.exflags = 0
        k.sbflags = 0
        k.rqmode = NL
        grant_native(a, r, k)
        if k.bits & B_HAS_FD:
            push_fd_sync(&o, k)
        if r.converting or r.waiting:
            grant_pending(&o, r)
        op_end(&o, k.rsb)

    def convert(self, mode, blocking=True, timeout=NO_TIMEOUT):
        """Change the mode in place, without letting go; return whether it could be had in time.

        Up: waits as `acquire` does; if two would wait for each other's mode, the second gets
        DeadlockError at once. Down: never waits, and publishes the lock value block when it
        leaves PW or EX. Whatever ends the wait, the old mode is kept. Raises NotHeld, Busy.
        """
        cdef int m = held_mode(mode)
        cdef int64_t deadline = deadline_of(blocking, timeout)
        cdef int status
        self.check_open()
        if self.state == BUSY:
            raise Busy("a conversion of this lock is under way")
        if self.state != HELD:
            raise NotHeld("convert of a lock that is not held; acquire it in that mode")
        self.state = BUSY
        try:
            status = request(self, m, blocking, deadline)
        finally:
            if self.state == BUSY:
                self.state = HELD
        return status == ST_OK

    def cancel(self):
        """End all waits through this handle, from another thread; return whether there were any.

        The waiting calls raise Cancelled. A lock that is held stays held.
        """
        cdef op_t o
        cdef bint found = self.first != NULL
        self.check_open()
        dismiss(self)
        self.enter_open(&o)
        if self.k.queue == Q_CONVERT:
            found = True
            do_cancel(&o, &o.a.rsbs[self.k.rsb], self.k, ST_ECANCEL)
        op_end(&o, self.k.rsb)
        return found

    def held(self, mode=EX_MODE, blocking=True, timeout=NO_TIMEOUT):
        """Return a context manager that holds the lock in `mode`.

        Entering it raises WouldBlock or LockTimeout where `acquire` would return False.
        """
        deadline_of(blocking, timeout)
        return Held(self, held_mode(mode), blocking, timeout)

    def close(self):
        """Unlock, and end all waits through this handle with Closed. Idempotent."""
        if self.state == SHUT:
            return
        if self.client.live == dlm_epoch:
            dismiss(self)
            shut(self)
        self.state = SHUT

    # What it is like now.

    @property
    def name(self):
        """The resource's name, bytes."""
        cdef rsb_t* r
        self.check_open()
        r = &self.client.a.rsbs[self.k.rsb]
        return name_at(self.client.a, r)[:r.name_len]

    @property
    def lkid(self):
        """The lock's id in its lockspace."""
        self.check_open()
        return <uint64_t>self.k.gen << 32 | self.index()

    @property
    def granted(self):
        """The mode that is held now; NL if the lock is not."""
        self.check_open()
        return MODES[self.k.grmode]

    @property
    def requested(self):
        """The mode that is waited for, or None."""
        self.check_open()
        return mode_or_none(self.k.rqmode if self.k.queue == Q_CONVERT else IV)

    @property
    def token(self):
        """The fencing token: higher with each grant of this resource, also after a restart."""
        self.check_open()
        return self.k.token

    @property
    def blocked(self):
        """The strictest mode that somebody waits for because of this lock, or None."""
        cdef op_t o
        cdef int mode
        self.check_open()
        self.enter_open(&o)
        mode = wanted_by_others(&o.a.rsbs[self.k.rsb], self.k)
        shard_unlock(o.a, o.s)
        return MODES[mode] if mode else None

    def locked(self):
        """Return whether the lock is held through this handle."""
        return self.state != SHUT and self.client.live == dlm_epoch and self.k.grmode > NL

    def __repr__(self):
        cdef rsb_t* r
        if self.state == SHUT or self.client.live != dlm_epoch:
            return f"<closed pydlm.Lock object at {<uintptr_t><void*>self:#x}>"
        r = &self.client.a.rsbs[self.k.rsb]
        return (
            f"<{'locked' if self.k.grmode > NL else 'unlocked'} pydlm.Lock object "
            f"{name_at(self.client.a, r)[:r.name_len]!r} {MODES[self.k.grmode].name} "
            f"at {<uintptr_t><void*>self:#x}>"
        )

    def fileno(self):
        """Return an eventfd that is readable as long as this lock blocks somebody else's.

        Poll it, never read it: the lock manager clears it. A thread that waits for this same
        handle does not count.

        Made on first use, owned by the lock, gone with it. Raises OSError where the process may
        have no more descriptors; the lock is unharmed.
        """
        cdef Client client = self.client
        cdef port_t* port = &client.a.ports[client.slot]
        cdef int fd
        cdef bint first = False
        self.check_open()
        if port.fds != NULL and port.fds[self.index()]:
            return (port.fds[self.index()] >> 1) - 1
        fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if fd < 0:
            raise OSError(errno, _os.strerror(errno))
        pthread_mutex_lock(&port.mutex)
        if port.fds == NULL:
            port.fds = <int32_t*>mmap(
                NULL, client.a.hdr.n_lkbs * sizeof(int32_t), PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0,
            )
            if port.fds == <int32_t*>MAP_FAILED:
                port.fds = NULL
        if port.fds != NULL:
            port.fds[self.index()] = (fd + 1) << 1
            shard_lock(client.a, shard_of(client.a, self.k))
            self.k.bits |= B_HAS_FD
            self.k.fd = fd + 1
            client.a.rsbs[self.k.rsb].flags |= R_POLLED
            shard_unlock(client.a, shard_of(client.a, self.k))
            sync_fd(client.a, port, self.index())
        pthread_mutex_unlock(&port.mutex)
        if port.fds == NULL:
            close(fd)
            raise MemoryError
        return fd

    # The lock value block.

    @property
    def lvb(self):
        """The lock value block, bytes of constant length.

        Read while the lock is held; raises LVBInvalid if whoever was changing it died. Written
        while held in PW or EX; shorter values are padded with zeros. Others see it once the lock
        is released or converted down. A holder that does not write leaves it as it is, also if
        it is invalid.
        """
        cdef op_t o
        cdef arena_t* a = self.client.a
        cdef uint32_t slot
        cdef bint valid
        self.check_held(CR)
        value = PyBytes_FromStringAndSize(NULL, a.lvb_len)
        self.enter_open(&o)
        slot = self.k.lvb if self.k.bits & B_DIRTY else a.rsbs[self.k.rsb].lvb
        valid = self.block_is_valid()
        if slot:
            memcpy(PyBytes_AS_STRING(value), lvb_at(a, slot), a.lvb_len)
        else:
            memset(PyBytes_AS_STRING(value), 0, a.lvb_len)
        shard_unlock(a, o.s)
        if not valid:
            raise LVBInvalid(
                f"the lock value block of {self.name!r} is invalid: whoever was changing it died; "
                "rebuild what it stands for and write it in EX"
            )
        return value

    @lvb.setter
    def lvb(self, value):
        cdef op_t o
        cdef arena_t* a = self.client.a
        cdef bytes raw = block_value(value, a.lvb_len)
        cdef lkb_t* k = self.k
        self.check_held(PW)
        while True:
            self.enter_open(&o)
            if k.grmode < PW:
                shard_unlock(a, o.s)
                self.check_held(PW)
            if k.lvb == 0:
                k.lvb = take_slot(a, o.s, KIND_LVB)
                crash_point()
            if k.lvb:
                memset(lvb_at(a, k.lvb), 0, a.lvb_len)
                crash_point()
                memcpy(lvb_at(a, k.lvb), PyBytes_AS_STRING(raw), PyBytes_GET_SIZE(raw))
                crash_point()
                k.bits |= B_DIRTY
                crash_point()
            shard_unlock(a, o.s)
            if k.lvb:
                return
            if not refill(a, o.s, KIND_LVB):
                raise_full(a, KIND_LVB)

    @property
    def lvb_valid(self):
        """Whether the lock value block may be believed. Raises NotHeld if the lock is not held."""
        cdef op_t o
        cdef bint valid
        self.check_held(CR)
        self.enter_open(&o)
        valid = self.block_is_valid()
        shard_unlock(o.a, o.s)
        return valid

    cdef inline bint block_is_valid(self) noexcept nogil:
        cdef rsb_t* r = &self.client.a.rsbs[self.k.rsb]
        # Rule 21 is for the raw verbs: somebody may have been about to write it first.
        return self.k.bits & B_DIRTY or not r.flags & R_INVALID

    # How it works inside.

    cdef inline uint32_t index(self) noexcept nogil:
        return lkb_index(self.client.a, self.k)

    cdef inline bint is_open(self) noexcept nogil:
        return self.state != SHUT and self.client.live == dlm_epoch

    cdef int enter_open(self, op_t* o) except -1:
        """Lock our shard. Others may have run meanwhile: raises, unlocked, if they closed us."""
        enter(o, self.client.a, shard_of(self.client.a, self.k))
        if not self.is_open():
            shard_unlock(o.a, o.s)
            self.check_open()
        return 0

    cdef bint gone(self) noexcept:
        """Return whether a body that ends by an error finds its lock released or closed already.

        That is no news beside what went wrong in the body, and would hide it.
        """
        return not self.is_open() or self.state == IDLE or self.state == TURN

    cdef int check_open(self) except -1:
        if self.state == SHUT:
            raise Closed("the lock is closed")
        return self.client.check_live()

    cdef int check_held(self, int mode) except -1:
        self.check_open()
        if self.k.grmode < mode:
            raise NotHeld(
                f"the lock value block can be {'written in PW or EX' if mode == PW else 'read'} "
                f"only while the lock is held, not in {MODES[self.k.grmode].name}"
            )
        return 0
