# A connection: the asynchronous verbs, and the events that answer them.

from collections import deque as _deque

# A NamedTuple's own __new__ is Python, where a signal handler may strike: what was read would be
# lost. This is C.
cdef object new_tuple = tuple.__new__


cdef extern from *:
    Py_ssize_t Py_REFCNT(PyObject* o) nogil


cdef inline void close_descriptor(int32_t entry) noexcept nogil:
    """Close a lock's descriptor; lowered, for others may have duplicates of what epolls watch."""
    eventfd_clear((entry >> 1) - 1)
    close((entry >> 1) - 1)


cdef inline bint in_use(PyObject* handle):
    """Return whether there is a handle: one that is going runs Python too, for weak references."""
    return handle != NULL and Py_REFCNT(handle) > 0


@cython.no_gc_clear     # __dealloc__ needs the arena
cdef class Client:
    """One client of a lockspace. Several of one process stand for several nodes.

    The verbs are those of :class:`pydlm.contract.Stack`, which documents them.
    """

    cdef readonly Arena arena
    cdef arena_t* a
    cdef uint32_t live           # equals dlm_epoch while open and in the process that opened it
    cdef uint16_t slot
    cdef readonly uint32_t this_node
    cdef PyObject** handles      # by lock: the native handle, borrowed
    cdef object backlog          # events read from the arena, not dispatched yet
    cdef dict notices            # of native locks in the backlog: mode by lkid
    cdef object wait             # deadlock_wait
    cdef bint cut_off            # the interpreter ends while something is held
    cdef object __weakref__

    def __cinit__(self, Arena arena not None, *, deadlock_wait=1.0):
        cdef uint32_t i
        cdef client_t* c
        self.live = 0
        self.handles = NULL
        self.wait = checked_wait(deadlock_wait)
        if not dlm_thread_ready():
            raise DlmError("the kernel refuses get_robust_list, which the lock manager needs")
        self.arena = arena
        self.a = &arena.a
        self.backlog = _deque()
        self.notices = {}
        self.handles = <PyObject**>mmap(
            NULL, self.a.hdr.n_lkbs * sizeof(PyObject*), PROT_READ | PROT_WRITE,
            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0,
        )
        if self.handles == <PyObject**>MAP_FAILED:
            self.handles = NULL
            raise MemoryError
        node = add32(&self.a.hdr.next_node, 1) + 1
        for i in range(self.a.hdr.n_clients):
            c = &self.a.clients[i]
            if load32(&c.claim) == 0:
                if cas64(<uint64_t*>&c.claim, 0, claim_word(self.a.me + 1, node)):
                    break
        else:
            raise LockspaceFull(
                f"lockspace {arena.name!r} has {self.a.hdr.n_clients} connections already"
            )
        c.rescan = c.ready = c.fd_sync = c.listening = c.born = 0
        crash_point()
        c.deaths_read = load32(&self.a.hdr.n_deaths)
        self.slot = <uint16_t>i
        self.this_node = node
        port = &self.a.ports[i]
        pthread_mutex_lock(&port.mutex)
        port.open = True
        port.events = -1
        port.backlog = False
        port.fds = NULL
        pthread_mutex_unlock(&port.mutex)
        self.live = dlm_epoch

    def __dealloc__(self):
        if self.live == dlm_epoch:
            self.leave(self.cut_off)
        if self.handles != NULL:
            munmap(self.handles, self.a.limits[KIND_LKB] * sizeof(PyObject*))

    cdef int check_live(self) except -1:
        if self.live == dlm_epoch:
            return 0
        if self.live == 0:
            raise Closed(f"the connection to lockspace {self.arena.name!r} is closed")
        raise Forked(
            f"the connection to lockspace {self.arena.name!r} belongs to the parent process; "
            "connect again in the child"
        )

    cdef bint leave(self, bint died):
        """End the connection; all its locks go."""
        cdef port_t* port = &self.a.ports[self.slot]
        cdef client_t* c = &self.a.clients[self.slot]
        cdef uint32_t i
        cdef int32_t* fds
        cdef bint ok
        self.live = 0
        for i in range(load32(&self.a.hdr.next_lkb)):
            if in_use(self.handles[i]):
                dismiss(<Lock>self.handles[i])
        with nogil:
            pthread_mutex_lock(&port.mutex)
            port.open = False
            fds = port.fds
            port.fds = NULL
            if port.events >= 0:
                swap64(&c.events, 0)    # first: see direct.pxi
                eventfd_clear(port.events)
                close(port.events)
                port.events = -1
            pthread_mutex_unlock(&port.mutex)
            ok = purge_client(
                self.a, self.slot, claim_word(self.a.me + 1, self.this_node), died, NULL) == PURGED
            if fds != NULL:         # not before nobody believes in them any more: see direct.pxi
                for i in range(load32(&self.a.hdr.next_lkb)):
                    if fds[i]:
                        close_descriptor(fds[i])
                munmap(fds, self.a.hdr.n_lkbs * sizeof(int32_t))
            if died:
                pump_all(self.a)
            close_unused_duplicates(self.a)
        self.backlog.clear()
        self.notices.clear()
        return ok

    def disconnect(self):
        """Leave the lockspace as a client that closes; idempotent."""
        if self.live == dlm_epoch and not self.leave(False):
            raise MemoryError

    def abandon(self):
        """Leave as a client that died: what it held in PW or EX is no longer valid."""
        self.check_live()
        if not self.leave(True):
            raise MemoryError

    @property
    def lvb_len(self):
        return self.arena.lvb_len

    @property
    def deadlock_wait(self):
        return self.wait

    @deadlock_wait.setter
    def deadlock_wait(self, value):
        self.wait = checked_wait(value)

    @property
    def connected(self):
        return self.live == dlm_epoch

    cdef int enter_alive(self, op_t* o, shard_t* s) except -1:
        """Lock a shard. Others may have run meanwhile: raises, unlocked, if they closed us."""
        enter(o, self.a, s)
        if self.live != dlm_epoch:
            shard_unlock(self.a, s)
            self.check_live()
        return 0

    # The verbs.

    cdef lkb_t* find(self, uint64_t lkid) noexcept nogil:
        """Return the lock of this client with that id, or NULL (rule 29)."""
        cdef uint32_t i = <uint32_t>lkid
        cdef lkb_t* k
        if i == 0 or i >= load32(&self.a.hdr.next_lkb):
            return NULL
        k = &self.a.lkbs[i]
        if k.gen != lkid >> 32 or k.client != self.slot or k.bits & B_ORPHAN:
            return NULL
        return k if k.bits & B_USED and k.rsb else NULL

    cdef lkb_t* begin(self, op_t* o, uint64_t lkid, bint drained) noexcept:
        """Lock the shard of a lock and find it there; NULL: no such lock, nothing is locked.

        A lock has room for one completion that was not read; with `drained`, NULL
        and o.lacking = -1 ask the caller to read it first.
        """
        cdef uint32_t i = <uint32_t>lkid
        cdef lkb_t* k
        o.lacking = 0
        if i == 0 or i >= load32(&self.a.hdr.next_lkb):
            return NULL
        enter(o, self.a, &self.a.shards[self.a.lkbs[i].shard])
        k = self.find(lkid) if self.live == dlm_epoch else NULL
        if k != NULL and drained and (k.has_cast or k.bast_then):
            o.lacking = -1
            k = NULL
        if k == NULL:
            shard_unlock(self.a, o.s)
        return k

    def lock(self, name, mode, flags=0, *, lkid=0):
        cdef bytes raw
        cdef const unsigned char* text
        cdef op_t o
        cdef lkb_t* k = NULL
        cdef rsb_t* r
        cdef uint32_t hash_, n, bits
        cdef int error, m
        cdef uint64_t new = 0
        self.check_live()
        bits = raw_flags(flags)
        if bits & LKF_CONVERT:
            self.convert(lkid, mode, flags)
            return lkid
        raw = resource_name(name)
        m = raw_mode(mode)
        error = check_lock_flags(m, bits)
        if error:
            raise_errno(error, f"lock {raw!r}")
        listen(self)
        text = <const unsigned char*>PyBytes_AS_STRING(raw)
        n = <uint32_t>PyBytes_GET_SIZE(raw)
        hash_ = dlm_hash(text, n, self.a.hdr.seed)
        while True:
            self.enter_alive(&o, &self.a.shards[hash_ & self.a.shard_mask])
            if bits & LKF_ORPHAN:
                r = find_rsb(self.a, text, n, hash_)
                error = adopt_orphan(&o, r, self.slot, m, bits, &k) if r != NULL else ENOENT
            else:
                error = do_lock(&o, self.slot, text, n, hash_, m, bits, 0, 0, &k)
            if k != NULL:
                new = <uint64_t>k.gen << 32 | lkb_index(self.a, k)
            op_end(&o, k.rsb if k != NULL else 0)
            if error == ENOSPC and refill(self.a, o.s, o.lacking):
                continue
            break
        if error == ENOSPC:
            raise_full(self.a, o.lacking)
        if error:
            raise_errno(error, f"adopt an orphan of {raw!r}")
        return new

    def convert(self, lkid, mode, flags=0, *, lvb=None):
        cdef op_t o
        cdef lkb_t* k
        cdef uint32_t rsb
        cdef int error, m = EX + 1
        cdef uint64_t id_ = raw_lkid(lkid)
        cdef uint32_t bits = raw_flags(flags)
        cdef bytes value = None if lvb is None else block_value(lvb, self.a.lvb_len)
        self.check_live()
        if NL <= _operator.index(mode) <= EX:
            m = mode            # else it is refused below, after the lock was found
        while True:
            k = self.begin(&o, id_, True)
            if k != NULL:
                rsb = k.rsb
                error = EINVAL if k.bits & B_SYNC else self.prepare(&o, k, bits, value)
                if error == 0:
                    error = check_lock_flags(m, bits | LKF_CONVERT)
                if error == 0:
                    error = do_convert(&o, &self.a.rsbs[rsb], k, m, bits)
                op_end(&o, rsb)
            elif o.lacking:
                make_room(self, id_)
                continue
            else:
                error = ENOENT
            if error != ENOSPC:
                break
            if not refill(self.a, o.s, KIND_LVB):
                raise_full(self.a, KIND_LVB)
        if error:
            raise_errno(error, f"convert lock {lkid} to {mode!r}")

    cdef int prepare(self, op_t* o, lkb_t* k, uint32_t flags, bytes value) noexcept:
        """See that what VALBLK needs is there, and take the caller's value over."""
        cdef uint32_t fresh
        if not ensure_lvb(self.a, o.s):
            return ENOSPC
        if flags & LKF_VALBLK and k.lvb == 0:
            k.lvb = take_slot(self.a, o.s, KIND_LVB)
            crash_point()
            memset(lvb_at(self.a, k.lvb), 0, self.a.lvb_len)
            if not ensure_lvb(self.a, o.s):
                fresh = k.lvb
                k.lvb = 0
                crash_point()
                push_free(self.a, o.s, KIND_LVB, fresh)
                return ENOSPC
        if value is not None and k.lvb:
            memset(lvb_at(self.a, k.lvb), 0, self.a.lvb_len)
            crash_point()
            memcpy(lvb_at(self.a, k.lvb), PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value))
        return 0

    def unlock(self, lkid, flags=0, *, lvb=None):
        cdef op_t o
        cdef lkb_t* k
        cdef uint32_t rsb
        cdef int error
        cdef uint64_t id_ = raw_lkid(lkid)
        cdef uint32_t bits = raw_flags(flags)
        cdef bytes value = None if lvb is None else block_value(lvb, self.a.lvb_len)
        self.check_live()
        if id_ == 0:
            raise BadArgument("lkid 0 is no lock")
        while True:
            k = self.begin(&o, id_, True)
            if k != NULL:
                rsb = k.rsb
                error = EINVAL if k.bits & B_SYNC else self.give_up(&o, k, bits, value)
                op_end(&o, rsb)
            elif o.lacking:
                make_room(self, id_)
                continue
            else:
                error = ENOENT
            if error != ENOSPC:
                break
            if not refill(self.a, o.s, KIND_LVB):
                raise_full(self.a, KIND_LVB)
        if error:
            raise_errno(error, f"{'cancel' if bits & LKF_CANCEL else 'unlock'} lock {lkid}")

    cdef int give_up(self, op_t* o, lkb_t* k, uint32_t flags, bytes value) noexcept:
        """Rule 30: which unlocks and cancels are taken."""
        cdef int error
        if not flags & LKF_CANCEL:
            error = self.prepare(o, k, 0, value)
            if error:
                return error
        if flags & ~(LKF_CANCEL | LKF_VALBLK | LKF_IVVALBLK | LKF_FORCEUNLOCK):
            return EINVAL
        if flags & LKF_CANCEL and flags & LKF_FORCEUNLOCK:
            return EINVAL
        if flags & LKF_CANCEL and k.exflags & LKF_CANCEL:
            return EINVAL
        if flags & LKF_FORCEUNLOCK and k.exflags & LKF_FORCEUNLOCK:
            return EINVAL
        if flags & LKF_CANCEL and k.queue == Q_GRANTED:
            return 0
        k.exflags |= flags
        k.sbflags = 0
        if flags & LKF_CANCEL:
            return do_cancel(o, &self.a.rsbs[k.rsb], k, ST_ECANCEL)
        return do_unlock(o, &self.a.rsbs[k.rsb], k)

    def deadlock_cancel(self, lkid):
        """Take a waiting request back with EDEADLK, as dlm_ls_deadlock_cancel does."""
        cdef op_t o
        cdef lkb_t* k
        cdef uint32_t rsb
        self.check_live()
        if lkid == 0:
            raise BadArgument("lkid 0 is no lock")
        k = self.begin(&o, raw_lkid(lkid), False)
        if k == NULL:
            raise_errno(ENOENT, f"cancel lock {lkid}")
        rsb = k.rsb
        if k.bits & B_SYNC:
            shard_unlock(self.a, o.s)
            raise_errno(EINVAL, f"cancel lock {lkid}, which belongs to a handle")
        if k.queue != Q_GRANTED:
            k.sbflags = 0
            do_cancel(&o, &self.a.rsbs[rsb], k, ST_EDEADLK)
        op_end(&o, rsb)

    def purge(self, node):
        self.check_live()
        if not purge_orphans(self.a, <uint32_t>whole_number(node, "node", 0, 0xffffffff)):
            raise MemoryError

    def lock_status(self, lkid):
        cdef op_t o
        cdef lkb_t* k
        cdef lkb_t copy
        cdef bytes name
        cdef unsigned char text[NAME_MAX]
        cdef uint32_t n
        self.check_live()
        k = self.begin(&o, raw_lkid(lkid), False)
        if k == NULL:
            raise_errno(ENOENT, f"status of lock {lkid}")
        copy = k[0]
        n = self.a.rsbs[k.rsb].name_len
        memcpy(text, name_at(self.a, &self.a.rsbs[k.rsb]), n)
        shard_unlock(self.a, o.s)
        return self.status_of(&copy, lkid, text[:n])

    cdef object status_of(self, lkb_t* k, uint64_t lkid, bytes name):
        cdef uint32_t node = 0
        cdef uint64_t pid = 0
        if k.client != NOBODY:
            node = self.a.clients[k.client].node
            pid = pid_of(self.a, k.client)
        return LockStatus(
            lkid, name, node, QUEUES[k.queue], mode_or_none(k.grmode),
            mode_or_none(k.rqmode if k.queue != Q_GRANTED else IV),
            k.token, pid << 32 | k.owner, k.since / 100.0,
        )

    def lvb(self, lkid):
        cdef op_t o
        cdef lkb_t* k
        self.check_live()
        value = PyBytes_FromStringAndSize(NULL, self.a.lvb_len)
        k = self.begin(&o, raw_lkid(lkid), False)
        if k == NULL:
            raise_errno(ENOENT, f"lvb of lock {lkid}")
        if k.lvb:
            memcpy(PyBytes_AS_STRING(value), lvb_at(self.a, k.lvb), self.a.lvb_len)
        else:
            memset(PyBytes_AS_STRING(value), 0, self.a.lvb_len)
        shard_unlock(self.a, o.s)
        return value

    def lvb_valid(self, lkid):
        cdef op_t o
        cdef lkb_t* k
        self.check_live()
        k = self.begin(&o, raw_lkid(lkid), False)
        if k == NULL:
            raise_errno(ENOENT, f"lvb of lock {lkid}")
        valid = not k.sbflags & SBF_VALNOTVALID
        shard_unlock(self.a, o.s)
        return valid

    def dump(self, name=None):
        """List all locks of all clients, or those on one resource."""
        cdef uint32_t i, n
        cdef lkb_t* k
        cdef lkb_t copy
        cdef unsigned char text[NAME_MAX]
        cdef bytes wanted = None if name is None else resource_name(name)
        self.check_live()
        found = []
        for i in range(1, load32(&self.a.hdr.next_lkb)):
            k = &self.a.lkbs[i]
            if not k.bits & B_USED:
                continue
            s = shard_of(self.a, k)
            shard_lock(self.a, s)
            copy = k[0]
            n = 0
            if copy.bits & B_USED and copy.rsb and copy.queue != Q_HANDLE:
                n = self.a.rsbs[copy.rsb].name_len
                memcpy(text, name_at(self.a, &self.a.rsbs[copy.rsb]), n)
            else:
                copy.rsb = 0
            shard_unlock(self.a, s)
            if copy.rsb and (wanted is None or wanted == text[:n]):
                found.append(self.status_of(&copy, <uint64_t>copy.gen << 32 | i, text[:n]))
        return found

    # The events.

    def fileno(self):
        """Return an eventfd that is readable while events wait."""
        cdef port_t* port = &self.a.ports[self.slot]
        cdef int fd
        self.check_live()
        if port.events < 0:
            fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
            if fd < 0:
                raise OSError(errno, _os.strerror(errno))
            pthread_mutex_lock(&port.mutex)
            port.events = fd
            if port.backlog:
                eventfd_raise(fd)
            pthread_mutex_unlock(&port.mutex)
            swap64(&self.a.clients[self.slot].events, claim_word(fd + 1, self.this_node))
            listen(self)
            pump(self.a, self.slot)
        return port.events

    def dispatch(self, Py_ssize_t limit=0):
        cdef port_t* port = &self.a.ports[self.slot]
        cdef client_t* c = &self.a.clients[self.slot]
        self.check_live()
        listen(self)
        drain(self)
        events = []
        while self.backlog and (limit <= 0 or len(events) < limit):
            event = self.backlog.popleft()
            if type(event) is int:
                event = native_notice(self, event, self.notices.pop(event))
            if event is not None:
                events.append(event)
        if self.live == dlm_epoch and not self.backlog:
            pthread_mutex_lock(&port.mutex)
            port.backlog = False
            show_events(self.a, port, c)
            pthread_mutex_unlock(&port.mutex)
        return events

    def open(self, name):
        """Open a native lock on the resource `name`."""
        return Lock(self, name)
