# A build with PYDLM_CRASH=1 can be told at which crash point it is to die (sys.h); tests go
# through all of them.

cdef extern from *:
    """
    #if !DLM_CRASH_BUILD
    static uint64_t dlm_crash_at, dlm_crash_count;
    static int dlm_crash_armed, dlm_crash_here;
    #endif
    """
    const bint DLM_CRASH_BUILD
    uint64_t dlm_crash_at
    uint64_t dlm_crash_count
    int dlm_crash_armed
    int dlm_crash_here

CRASH_BUILD = bool(DLM_CRASH_BUILD)


def crash_at(uint64_t n, *, bint anywhere=False):
    """From now on, kill this process at its n-th crash point; 0: only count them.

    Those of the calling thread, or with `anywhere` those of all threads.
    """
    global dlm_crash_at, dlm_crash_count, dlm_crash_armed, dlm_crash_here
    dlm_crash_armed = 0
    dlm_crash_at = n
    dlm_crash_count = 0
    dlm_crash_here = 1
    dlm_crash_armed = 2 if anywhere else 1


def crash_points_passed():
    """Return how many crash points were passed since `crash_at`; 0 in other builds."""
    return dlm_crash_count


def helper_idle():
    """Return whether the helper thread of this process has nothing to do."""
    cdef uint32_t i
    cdef proc_t* p
    for i in range(helper.n):
        p = &helper.arenas[i].procs[helper.arenas[i].me]
        if load32(&p.in_flight) or load32(&p.doorbell) != ASLEEP:
            return False
    return True
