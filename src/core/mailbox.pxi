# Messages to the one thread that keeps the cached locks of a connection.

cdef extern from "<poll.h>" nogil:
    enum: POLLIN
    ctypedef struct pollfd "struct pollfd":
        int fd
        short events
    int poll(pollfd* fds, unsigned long n, int ms)

cdef enum:
    R_ASLEEP = 0                 # the reader is in `wait`
    R_KNOCKS = 1                 # it has woken up, or will at once, and wants the GIL
    R_AWAKE = 2                  # it has it, or there is no reader yet

cdef int64_t WAY_NS = 200_000    # nobody gives way for longer


@cython.final
cdef class Mailbox:
    """Messages to one thread, which sleeps on `fileno()`.

    A message is left and announced in one step that no signal handler can come between.
    """

    cdef list messages
    cdef int fd
    cdef uint32_t live           # dlm_epoch of the process it was made in
    cdef uint32_t reader         # R_ASLEEP, R_KNOCKS, R_AWAKE
    cdef bint begun              # it has been in `wait`

    def __cinit__(self):
        self.messages = []
        self.reader = R_AWAKE
        self.live = dlm_epoch
        self.fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if self.fd < 0:
            raise OSError(errno, _os.strerror(errno))

    def __dealloc__(self):
        if self.fd >= 0:
            close(self.fd)

    def fileno(self):
        """Return a descriptor that is readable while there are messages; -1 once closed."""
        return self.fd

    cpdef bint post(self, message) except -1:
        """Leave a message; return False, and forget it, if nobody will read it any more."""
        if self.fd < 0 or self.live != dlm_epoch:
            return False         # a child's message would wake the parent
        self.messages.append(message)
        if len(self.messages) == 1:
            eventfd_raise(self.fd)
        return True

    def take(self):
        """Return the messages, oldest first, and leave none."""
        if not self.messages:
            return []           # not our own, to which messages may come while it is read
        taken = self.messages
        self.messages = []
        eventfd_clear(self.fd)
        return taken

    def wait(self, int other):
        """Sleep until there are messages or the descriptor `other` is readable.

        Whoever wakes up needs the GIL, and a thread that computes gives it up after 5 ms only. So
        it knocks, and those who pass a gate give way to it.
        """
        cdef pollfd[2] fds
        cdef int failed = EINTR
        fds[0].fd, fds[1].fd = self.fd, other
        fds[0].events = fds[1].events = POLLIN
        if not self.begun:
            self.begun = True
            want_short_slices()
        store32(&self.reader, R_ASLEEP)
        with nogil:
            while failed == EINTR:
                failed = 0 if poll(fds, 2, -1) >= 0 else errno
            cas32(&self.reader, R_ASLEEP, R_KNOCKS)
        store32(&self.reader, R_AWAKE)
        if failed:
            raise OSError(failed, _os.strerror(failed))

    def close(self):
        """Refuse messages from now on; return those that nobody has taken."""
        taken = self.messages
        self.messages = []
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1
        return taken


cdef int give_way(Mailbox mail) noexcept:
    """Give the GIL to the reader, who knocks, until it sleeps again.

    It spins: whoever sleeps here may find its core taken when it is woken, for milliseconds.
    """
    cdef int64_t end
    with nogil:
        end = monotonic_ns() + WAY_NS
        while load32(&mail.reader) != R_ASLEEP:
            if monotonic_ns() > end:
                # It did not come, as at the interpreter's end: the next one does not wait too.
                cas32(&mail.reader, R_KNOCKS, R_ASLEEP)
                break
            sched_yield()
    return 0
