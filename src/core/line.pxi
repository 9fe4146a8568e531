# The line before a handle: threads of this process that wait for it to be given up. Under the GIL.

cdef enum:
    IN_LINE                  # waiter_t.word
    CALLED
    DISMISSED

# A thread in line for the handle. Not on that thread's stack, which may go under it: a daemon
# thread ends inside of its wait when the interpreter does.
cdef struct waiter_t:
    uint32_t word
    uint32_t edge            # its lock slot in the arena, once a search has to see it
    int mode
    waiter_t* next


cdef bint stand_in_line(Lock self, int mode, int64_t deadline) except -1:
    """Wait for our turn; True: the handle is ours to use. False: the deadline came first."""
    cdef waiter_t* w = <waiter_t*>malloc(sizeof(waiter_t))
    cdef waiter_t** end
    cdef uint32_t how
    if w == NULL:
        raise MemoryError
    w.word = IN_LINE
    w.next = NULL
    w.edge = 0
    w.mode = mode
    end = &self.first
    while end[0] != NULL:
        end = &end[0].next
    end[0] = w
    try:
        if not sleep(self, &w.word, IN_LINE, deadline, w):
            return False
    except BaseException:
        if w.word == CALLED:
            call_next(self)
        raise
    finally:
        how = w.word
        forget_edge(self, w)
        free(w)
    self.check_open()       # closed between the call and our coming
    if how == DISMISSED:
        raise Cancelled("the wait was cancelled")
    return True


cdef void leave_line(Lock self, waiter_t* w) noexcept:
    cdef waiter_t** at = &self.first
    while at[0] != w:
        at = &at[0].next
    at[0] = w.next
    w.word = DISMISSED


cdef void call_next(Lock self) noexcept:
    """Hand the idle handle to the first in line."""
    cdef waiter_t* w = self.first
    if self.state == SHUT:
        return
    if w == NULL:
        self.state = IDLE
        return
    self.first = w.next
    self.state = TURN
    store32(&w.word, CALLED)
    futex_wake(&w.word, 1, self.client.a.futex_flags)


cdef void dismiss(Lock self) noexcept:
    """Send everybody in line away."""
    cdef waiter_t* w
    while self.first != NULL:
        w = self.first
        self.first = w.next
        store32(&w.word, DISMISSED)
        futex_wake(&w.word, 1, self.client.a.futex_flags)
