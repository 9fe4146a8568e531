# What `Lock.held` returns.


@cython.final
cdef class Held:
    """The context manager of `Lock.held`."""

    cdef Lock lock
    cdef int mode
    cdef bint blocking
    cdef object timeout

    def __cinit__(self, Lock lock not None, int mode, bint blocking, timeout):
        self.lock = lock
        self.mode = mode
        self.blocking = blocking
        self.timeout = timeout

    def __enter__(self):
        if (
            self.timeout is NO_TIMEOUT and self.blocking
            and self.lock.state == IDLE and self.lock.take_at_once(self.mode)
        ):
            return self.lock
        if not self.lock.take(self.mode, self.blocking, deadline_of(self.blocking, self.timeout)):
            raise_not_in_time(self.lock.name, MODES[self.mode], self.blocking, self.timeout)
        return self.lock

    def __exit__(self, exc_type, exc, tb):
        if exc_type is None or not self.lock.gone():
            self.lock.give_back()


cdef int raise_not_in_time(bytes name, mode, bint blocking, timeout) except -1:
    if blocking:
        raise LockTimeout(f"{name!r} could not be had in {mode.name} within {timeout} seconds")
    raise WouldBlock(f"{name!r} cannot be had in {mode.name} at once")
