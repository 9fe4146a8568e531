/* Threads that sleep nearly always, and are waited for when they wake. */
#ifndef PYDLM_SLICE_H
#define PYDLM_SLICE_H

#include "sys.h"

/* Have this thread get the processor soon after it wakes, where others compute: from Linux 6.12 on,
   a thread that asks for short slices need not wait for the end of another's, some milliseconds. It
   gets no larger share. Where the kernel knows of no such thing, nothing changes. */
static inline void want_short_slices(void) {
    struct {
        uint32_t size, policy;
        uint64_t flags;
        int32_t nice;
        uint32_t priority;
        uint64_t runtime, deadline, period;
    } a;
    if (syscall(SYS_sched_getattr, 0, &a, sizeof a, 0) == 0 && a.policy == SCHED_OTHER) {
        a.runtime = 100000; /* nanoseconds, the least there is */
        syscall(SYS_sched_setattr, 0, &a, 0);
    }
}

#endif
