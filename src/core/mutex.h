/* See mutex.pxd. */
#ifndef PYDLM_MUTEX_H
#define PYDLM_MUTEX_H

#include "sys.h"

#include <pthread.h>

#if defined(__x86_64__) || defined(__i386__)
#define dlm_relax() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define dlm_relax() __asm__ volatile("yield")
#else
#define dlm_relax() ((void)0)
#endif

#define DLM_TLS static __thread __attribute__((tls_model("initial-exec")))

DLM_TLS struct robust_list_head *dlm_robust;
DLM_TLS uint32_t dlm_tid;

/* Forked: the thread has another id, and the handles are the parent's. 0 is never live. */
static uint32_t dlm_epoch = 1;

static void dlm_after_fork(void) {
    dlm_robust = NULL;
    dlm_epoch++;
}

static int dlm_watch_fork(void) {
    return pthread_atfork(NULL, NULL, dlm_after_fork);
}

static __attribute__((noinline)) int dlm_thread_enter(void) {
    size_t size;
    pthread_mutexattr_t attr;
    pthread_mutex_t first;
    /* Some C libraries register the list only with the first robust mutex. */
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&first, &attr);
    pthread_mutex_lock(&first);
    pthread_mutex_unlock(&first);
    pthread_mutex_destroy(&first);
    pthread_mutexattr_destroy(&attr);
    if (syscall(SYS_get_robust_list, 0, &dlm_robust, &size) != 0)
        dlm_robust = NULL;
    dlm_tid = (uint32_t)syscall(SYS_gettid);
    return dlm_robust != NULL;
}

static inline void dlm_pending(uint32_t *word) {
    *(void *volatile *)&dlm_robust->list_op_pending =
        word ? (char *)word - dlm_robust->futex_offset : NULL;
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* Only after dlm_thread_ready(). */
static inline int mutex_trylock(uint32_t *word) {
    dlm_pending(word);
    crash_point();
    if (__builtin_expect(cas32(word, 0, dlm_tid), 1)) {
        crash_point();
        return 1;
    }
    dlm_pending(NULL);
    return 0;
}

static inline int dlm_thread_ready(void) {
    return __builtin_expect(dlm_robust != NULL, 1) || dlm_thread_enter();
}

/* Returns 1 if the last owner died inside: what the mutex guards has to be repaired; -1 if it was
   not to be had until then, nanoseconds of the monotonic clock, negative for never. */
static __attribute__((noinline)) int mutex_lock_slow(uint32_t *word, int64_t until, int flags) {
    uint32_t mine = dlm_tid, seen;
    int64_t now;
    int spins = 100;
    dlm_pending(word);
    for (;;) {
        seen = load32(word);
        if (seen == 0) {
            if (cas32(word, 0, mine))
                return 0;
        } else if (seen & FUTEX_OWNER_DIED) {
            if (cas32(word, seen, mine | (seen & FUTEX_WAITERS)))
                return 1;
        } else if (spins > 0) {
            spins--;
            dlm_relax();
        } else if ((seen & FUTEX_WAITERS) || cas32(word, seen, seen | FUTEX_WAITERS)) {
            now = monotonic_ns();
            if (until >= 0 && now >= until) {
                dlm_pending(NULL);
                return -1;
            }
            /* Not for ever: who is woken may be stopped, and keep it from the others. */
            now += 20000000;
            futex_wait(word, seen | FUTEX_WAITERS, until >= 0 && until < now ? until : now, flags);
            mine |= FUTEX_WAITERS;   /* others may sleep too; the unlock has to look */
        }
    }
}

/* The others have found this process dead: its helper has gone already, this thread is about to. */
static __attribute__((noreturn, noinline, cold)) void wait_for_death(void) {
    for (;;)
        pause();
}

static inline void mutex_unlock(uint32_t *word, int flags) {
    uint32_t seen;
    crash_point();
    seen = swap32(word, 0);
    crash_point();
    if (__builtin_expect(seen & FUTEX_WAITERS, 0))
        futex_wake(word, 1, flags);
    crash_point();
    dlm_pending(NULL);
    crash_point();
}

#endif
