# How a thread waits for the answer of another that works for it.

from _thread import allocate_lock as _allocate_lock

# On virtual machines it may take about so long until a core that sleeps runs again.
cdef int64_t SPIN_NS = 1_000_000

# dlm_epoch: a thread of this process spins. One at a time, whatever many wait. Guarded by the GIL.
cdef uint32_t spinner = 0


@cython.final
cdef class Bell:
    """Rung once, and waited for by one thread, at first without going to sleep."""

    cdef uint32_t rung
    cdef object lock

    def __cinit__(self):
        self.lock = _allocate_lock()
        self.lock.acquire()

    def ring(self):
        """End the wait. Once only."""
        store32(&self.rung, 1)
        self.lock.release()

    def wait(self, double seconds=-1):
        """Return whether it was rung within so many seconds; -1: no limit."""
        global spinner
        if seconds != 0 and spinner != dlm_epoch:
            spinner = dlm_epoch
            seconds = spin(&self.rung, seconds)
            spinner = 0
            PyErr_CheckSignals()     # the lock would sleep first
        return self.lock.acquire(timeout=seconds)


cdef double spin(uint32_t* rung, double seconds) noexcept:
    """Return when it is rung, or has not been for a while; and what is left of `seconds`."""
    cdef int64_t begin = monotonic_ns(), now = begin
    cdef int64_t end = begin + (SPIN_NS if seconds < 0 else <int64_t>min(SPIN_NS, seconds * 1e9))
    with nogil:
        while not load32(rung) and now < end:
            sched_yield()
            now = monotonic_ns()
    return seconds if seconds < 0 else max(0.0, seconds - (now - begin) * 1e-9)
