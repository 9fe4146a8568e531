# The helper thread: one for a process, however many shared arenas it has mapped.
#
# It sleeps on the doorbells of its arenas and on the lives of the processes that follow it in
# each, in a ring; so each death is noticed as long as one process is left, and whoever
# notices looks at all. It never runs Python.

cdef extern from "helper.h":
    enum: LIFE_WORD
    enum: WAITV_MAX
    ctypedef struct waitv_t:
        unsigned int n
    void waitv_add(waitv_t* w, uint32_t* word, uint32_t value, bint private) noexcept nogil
    int waitv_sleep(waitv_t* w, int64_t until) noexcept nogil
    int waitv_probe() noexcept nogil
    int life_begin(pthread_mutex_t* life) noexcept nogil
    int start_thread(void* (*run)(void*) noexcept nogil) noexcept nogil

cdef extern from "slice.h":
    void want_short_slices() noexcept nogil

cdef enum:
    MAX_ARENAS = 60          # of one process: two words to wait for each

# What the helper is asked to do; the asking thread waits for `asked` to become 0.
cdef enum:
    ASK_JOIN = 1
    ASK_LEAVE = 2

cdef struct helper_t:
    pthread_mutex_t guard    # over who asks
    uint32_t epoch           # of the process it runs in
    uint32_t forked          # of the process that `guard` is for
    uint32_t control         # raised when there is something to do
    uint32_t asked
    arena_t* about
    int answer
    bint later               # somebody else is burying; look again
    arena_t* arenas[MAX_ARENAS]
    uint32_t n

cdef helper_t helper


cdef void helper_join(arena_t* a) noexcept nogil:
    cdef proc_t* p = &a.procs[a.me]
    cdef uint32_t i
    if helper.n == MAX_ARENAS:
        helper.answer = ENOSPC
        return
    for i in range(<uint32_t>LIVES):
        helper.answer = life_begin(&p.life[i])
        if helper.answer:
            return
        crash_point()
    a.alive = p.pid << P_BITS | P_ALIVE
    a.state = &p.state
    a.joined = True
    swap32(&p.state, a.alive)   # a full barrier: of two who join at once, one sees the other below
    crash_point()
    helper.arenas[helper.n] = a
    helper.n += 1
    ring_others(a)              # somebody has to watch us
    store32(&p.doorbell, RUNG)  # and we look at once who died before


cdef void helper_leave(arena_t* a) noexcept nogil:
    cdef uint32_t i
    cdef proc_t* p = &a.procs[a.me]
    for i in range(helper.n):
        if helper.arenas[i] == a:
            helper.n -= 1
            helper.arenas[i] = helper.arenas[helper.n]
            break
    # Nobody who dies from here on is missed: there are no connections any more.
    store32(&p.state, p.pid << P_BITS | P_BETWEEN)
    crash_point()
    for i in range(<uint32_t>LIVES):
        pthread_mutex_unlock(&p.life[i])
        crash_point()
    a.state = &a.outside
    a.alive = a.outside
    store32(&p.state, P_FREE)
    crash_point()
    ring_others(a)


cdef void watch(arena_t* a, waitv_t* w, uint32_t most) noexcept nogil:
    """Add a life of each process that follows this one, up to the next of the same kind.

    The kernel wakes one sleeper for each life, and that one may be stopped. So processes are of
    LIVES kinds, by their number; each kind sleeps on a life of its own, and only the nearest one
    before does.
    """
    cdef uint32_t i, seen, at = a.me, kind = a.me % LIVES
    cdef uint32_t* life
    for i in range(a.hdr.n_procs - 1):
        at = at + 1 if at + 1 < a.hdr.n_procs else 0
        if is_dead(&a.procs[at]):
            if somebody_buries(a, at):
                helper.later = True
            else:
                store32(&a.procs[a.me].doorbell, RUNG)
            continue
        if load32(&a.procs[at].state) & P_MASK != P_ALIVE:
            continue
        life = life_word(&a.procs[at], kind)
        if a.joined:            # whoever slept there, and may have been stopped since, need not
            futex_wake(life, 0x7fffffff, a.futex_flags)
        while True:
            seen = load32(life)
            if seen & FUTEX_SLEEPERS or seen & FUTEX_TID == 0 or seen & FUTEX_DIED:
                break
            if cas32(life, seen, seen | FUTEX_SLEEPERS):    # the kernel wakes only if asked to
                seen |= FUTEX_SLEEPERS
                break
        if seen & FUTEX_DIED:
            store32(&a.procs[a.me].doorbell, RUNG)      # the kernel is about to mark the others
            continue
        if seen & FUTEX_TID == 0:
            continue            # about to leave; it will ring
        waitv_add(w, life, seen, False)
        most -= 1
        if most == 0 or at % LIVES == kind:
            break
    a.joined = False


cdef void* helper_run(void* unused) noexcept nogil:
    cdef waitv_t w
    cdef uint32_t i, each
    cdef arena_t* a
    dlm_thread_ready()
    want_short_slices()
    while True:
        # An exchange: a plain store may come after the load below, over a request made in between.
        swap32(&helper.control, 0)
        if load32(&helper.asked):
            if helper.asked == ASK_JOIN:
                helper_join(helper.about)
            else:
                helper_leave(helper.about)
            store32(&helper.asked, 0)
            futex_wake(&helper.asked, 1, FUTEX_PRIVATE_FLAG)
        w.n = 0
        waitv_add(&w, &helper.control, 0, True)
        each = (WAITV_MAX - 1) / helper.n - 1 if helper.n else 1
        for i in range(helper.n):
            a = helper.arenas[i]
            if swap32(&a.procs[a.me].doorbell, QUIET) == RUNG:
                bury_all(a)
                look_after(a)
            watch(a, &w, each)
            cas32(&a.procs[a.me].doorbell, QUIET, ASLEEP)
            waitv_add(&w, &a.procs[a.me].doorbell, ASLEEP, False)
        waitv_sleep(&w, monotonic_ns() + BURIAL_TIME * 10000000 if helper.later else NEVER)
        helper.later = False
        for i in range(helper.n):
            # Woken by a life or by nothing we know: look whether somebody died.
            a = helper.arenas[i]
            if load32(&a.procs[a.me].doorbell) != RUNG:
                bury_all(a)
    return NULL


cdef int helper_ask(arena_t* a, uint32_t what) noexcept nogil:
    """Have the helper join or leave an arena; return 0 or an errno. Starts it if need be."""
    cdef int rc = 0
    if helper.epoch != dlm_epoch and helper.forked != dlm_epoch:
        pthread_mutex_init(&helper.guard, NULL)     # may have been held at the fork
        helper.forked = dlm_epoch
    pthread_mutex_lock(&helper.guard)
    if helper.epoch != dlm_epoch:       # none yet in this process
        helper.n = 0
        helper.asked = 0
        rc = start_thread(helper_run)
        if rc == 0:
            helper.epoch = dlm_epoch
    if rc == 0:
        helper.about = a
        helper.answer = 0
        store32(&helper.asked, what)
        store32(&helper.control, 1)
        futex_wake(&helper.control, 1, FUTEX_PRIVATE_FLAG)
        while load32(&helper.asked):
            futex_wait(&helper.asked, what, -1, FUTEX_PRIVATE_FLAG)
        rc = helper.answer
    pthread_mutex_unlock(&helper.guard)
    return rc
