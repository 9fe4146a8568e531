"""The shard mutex: process-shared and robust, at the price of a plain one.

The kernel keeps a list of robust futexes for each thread, and one more pointer,
`list_op_pending`, for the futex a thread is just taking or giving up. When the thread
dies, it looks at both: a futex word that still bears the thread's id gets
FUTEX_OWNER_DIED, and one waiter is woken. A thread holds at most one shard mutex at a
time and takes no other robust mutex meanwhile, so the one pointer is all we need: two
plain stores make a futex robust, where a list entry would cost a dozen.

The list head belongs to the C library; we ask the kernel where it is.
"""

from libc.stdint cimport int64_t, uint32_t

cdef extern from "mutex.h":
    uint32_t dlm_tid
    uint32_t dlm_epoch
    int dlm_watch_fork() noexcept nogil
    bint dlm_thread_ready() noexcept nogil
    bint mutex_trylock(uint32_t* word) noexcept nogil
    int mutex_lock_slow(uint32_t* word, int64_t until, int flags) noexcept nogil
    void wait_for_death() noexcept nogil
    void mutex_unlock(uint32_t* word, int flags) noexcept nogil


cdef inline int mutex_lock(uint32_t* word, int64_t until, int flags) noexcept nogil:
    """Take it, sleeping if need be: 0, 1 if the last owner died inside, -1 if not in time."""
    if mutex_trylock(word):
        return 0
    return mutex_lock_slow(word, until, flags)
