# The gate of a cached lock: uses that begin and end while nobody need be asked.
#
# Counters and a mask, guarded by the GIL. Whoever keeps the lock (pydlm.cached) opens and shuts
# the gate; users pass it here, without a line of Python, as long as it is open to them.


cdef class Gate:
    """Who uses a cached lock now, and who may begin to without asking.

    With `exclusion`, an exclusive use and others exclude each other. When, on a gate that is
    `watched`, the last use of a kind has ended, `left` is called with the gate; or, if it is
    a `Mailbox`, the gate is posted to it. Derive from it: `_begin` takes a use that the gate is not
    open to.
    """

    cdef readonly Py_ssize_t shared_uses
    cdef readonly Py_ssize_t exclusive_uses
    cdef readonly bint exclusion
    cdef bint to_shared          # open to shared uses
    cdef bint to_exclusive
    cdef bint watched
    cdef uint32_t live           # dlm_epoch of the process it was made in
    cdef object left
    cdef Mailbox mail            # `left`, if it is one
    cdef Use reading             # made once, given out by each call without arguments
    cdef Use writing

    def __cinit__(self, *args, **kwargs):
        self.live = dlm_epoch

    def __init__(self, bint exclusion, left):
        self.exclusion = exclusion
        self.left = left
        self.mail = left if isinstance(left, Mailbox) else None
        self.reading = Use(self, False)
        self.writing = Use(self, True)

    def shared(self, blocking=True, timeout=-1):
        """Return a context manager that uses the lock beside other readers.

        It may be kept and entered again and again, by several threads at once. Entering it waits,
        at most `timeout` seconds (-1: no limit), until the lock is had and no exclusive use is
        under way; raises WouldBlock or LockTimeout where it could not be had in time, Closed,
        Forked. Not `blocking`, it asks nobody to let go who merely keeps the lock.
        """
        if blocking is True and type(timeout) is int and timeout == -1:
            return self.reading
        return use_with_limit(self, False, blocking, timeout)

    def exclusive(self, blocking=True, timeout=-1):
        """Return a context manager that uses the lock alone; else as `shared`."""
        if blocking is True and type(timeout) is int and timeout == -1:
            return self.writing
        return use_with_limit(self, True, blocking, timeout)

    def allow(self, bint shared, bint exclusive, bint watched):
        """Say who may pass without asking, and whether to call `left`."""
        self.to_shared = shared
        self.to_exclusive = exclusive
        self.watched = watched

    def admit(self, bint exclusive):
        """Count a use, as one that has passed."""
        if exclusive:
            self.exclusive_uses += 1
        else:
            self.shared_uses += 1

    def dismiss(self, bint exclusive):
        """Count a use off without calling `left`."""
        if exclusive:
            self.exclusive_uses -= 1
        else:
            self.shared_uses -= 1

    @property
    def forked(self):
        """Whether this is a child of the process that it was made in."""
        return self.live != dlm_epoch

    def _begin(self, exclusive, blocking, timeout):
        """Take a use that the gate is not open to; return once it is counted, or raise."""
        raise NotImplementedError


cdef int check_limit(blocking, timeout) except -1:
    """Raise what is wrong with the arguments of a use."""
    if isinstance(blocking, Mode) or isinstance(timeout, Mode):
        raise TypeError("shared() and exclusive() take blocking and timeout, no mode")
    deadline_of(blocking, timeout)
    return 0


cdef Use use_with_limit(Gate gate, bint exclusive, blocking, timeout):
    cdef Use use = Use(gate, exclusive)
    check_limit(blocking, timeout)
    use.blocking = blocking
    use.timeout = timeout
    return use


@cython.final
cdef class Use:
    """The context manager of `Gate.shared` and `Gate.exclusive`. Has no state of its own."""

    cdef Gate gate
    cdef bint exclusive
    cdef bint blocking
    cdef double timeout

    def __cinit__(self, Gate gate not None, bint exclusive):
        self.gate = gate
        self.exclusive = exclusive
        self.blocking = True
        self.timeout = -1

    def __enter__(self):
        cdef Gate gate = self.gate
        if gate.mail is not None and gate.mail.reader == R_KNOCKS:
            give_way(gate.mail)
        if not pass_gate(gate, self.exclusive):
            gate._begin(self.exclusive, self.blocking, self.timeout)
        return gate

    def __exit__(self, exc_type, exc, tb):
        leave_gate(self.gate, self.exclusive)


cdef inline bint pass_gate(Gate gate, bint exclusive) noexcept:
    """Begin a use, if the gate is open to it."""
    if gate.live != dlm_epoch:
        return False
    if exclusive:
        if gate.to_exclusive and not (
            gate.exclusion and (gate.exclusive_uses or gate.shared_uses)
        ):
            gate.exclusive_uses += 1
            return True
    elif gate.to_shared and not (gate.exclusion and gate.exclusive_uses):
        gate.shared_uses += 1
        return True
    return False


cdef inline int leave_gate(Gate gate, bint exclusive) except -1:
    """End a use."""
    cdef Py_ssize_t uses
    if gate.live != dlm_epoch:
        raise Forked("the cached lock belongs to the parent process; connect again in the child")
    uses = (gate.exclusive_uses if exclusive else gate.shared_uses) - 1
    if uses < 0:
        raise NotHeld("no such use of the cached lock is under way")
    if exclusive:
        gate.exclusive_uses = uses
    else:
        gate.shared_uses = uses
    if gate.mail is None:
        if gate.watched and uses == 0:
            gate.left(gate)
        return 0
    if gate.watched and uses == 0:
        gate.mail.post(gate)
        # Somebody waits for what it will do now.
        cas32(&gate.mail.reader, R_ASLEEP, R_KNOCKS)
    if gate.mail.reader == R_KNOCKS:
        give_way(gate.mail)
    return 0
