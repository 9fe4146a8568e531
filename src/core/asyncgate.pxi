# The gate of a cached lock for the tasks of a loop: `async with`, without a coroutine as long as
# the gate is open.

cdef extern from "ready.h":
    object dlm_ready(object value)

cdef object left_already = dlm_ready(None)


cdef class AsyncGate(Gate):
    """A `Gate` whose uses are awaited. Derive from it: `_begin_async` takes what `_begin` does."""

    cdef object passed           # what entering gives where nothing has to be awaited
    cdef AsyncUse task_reading   # made once, given out by each call without arguments
    cdef AsyncUse task_writing

    def __init__(self, bint exclusion, left):
        Gate.__init__(self, exclusion, left)
        self.passed = dlm_ready(self)
        self.task_reading = AsyncUse(self, False)
        self.task_writing = AsyncUse(self, True)

    def shared(self, blocking=True, timeout=-1):
        """Return an asynchronous context manager that uses the lock beside other readers.

        It may be kept and entered again and again, by several tasks at once. Entering it waits,
        at most `timeout` seconds (-1: no limit), until the lock is had and no exclusive use is
        under way; raises WouldBlock or LockTimeout where it could not be had in time, Closed,
        Forked. Not `blocking`, it asks nobody to let go who merely keeps the lock.
        """
        if blocking is True and type(timeout) is int and timeout == -1:
            return self.task_reading
        return async_use_with_limit(self, False, blocking, timeout)

    def exclusive(self, blocking=True, timeout=-1):
        """Return an asynchronous context manager that uses the lock alone; else as `shared`."""
        if blocking is True and type(timeout) is int and timeout == -1:
            return self.task_writing
        return async_use_with_limit(self, True, blocking, timeout)

    def _begin_async(self, exclusive, blocking, timeout):
        """Return an awaitable: take a use that the gate is not open to; its result is the gate."""
        raise NotImplementedError


cdef AsyncUse async_use_with_limit(AsyncGate gate, bint exclusive, blocking, timeout):
    cdef AsyncUse use = AsyncUse(gate, exclusive)
    check_limit(blocking, timeout)
    use.blocking = blocking
    use.timeout = timeout
    return use


@cython.final
cdef class AsyncUse:
    """The context manager of `AsyncGate.shared` and `.exclusive`. Has no state of its own."""

    cdef AsyncGate gate
    cdef bint exclusive
    cdef bint blocking
    cdef double timeout

    def __cinit__(self, AsyncGate gate not None, bint exclusive):
        self.gate = gate
        self.exclusive = exclusive
        self.blocking = True
        self.timeout = -1

    def __aenter__(self):
        if pass_gate(self.gate, self.exclusive):
            return self.gate.passed
        return self.gate._begin_async(self.exclusive, self.blocking, self.timeout)

    def __aexit__(self, exc_type, exc, tb):
        leave_gate(self.gate, self.exclusive)
        return left_already
