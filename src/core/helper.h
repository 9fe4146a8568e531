/* See helper.pxi. */
#ifndef PYDLM_HELPER_H
#define PYDLM_HELPER_H

#include <pthread.h>
#include <signal.h>
#include "mutex.h"

/* Where in a pthread_mutex_t the futex is that the kernel marks. */
#ifdef __GLIBC__
#define LIFE_WORD 0
#else
#define LIFE_WORD 4     /* musl */
#endif

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449
struct futex_waitv { uint64_t val, uaddr; uint32_t flags, reserved_; };
#endif
#define WAITV_MAX 128

typedef struct {
    struct futex_waitv v[WAITV_MAX];
    unsigned n;
} waitv_t;

static inline void waitv_add(waitv_t *w, uint32_t *word, uint32_t value, int private_) {
    struct futex_waitv one = { value, (uintptr_t)word, 2 /* 32 bits */ | (private_ ? 128 : 0), 0 };
    w->v[w->n++] = one;
}

/* Returns when one of the words is not what it was said to be, or is woken; or at `until`,
   nanoseconds of the monotonic clock, negative for never. */
static inline int waitv_sleep(waitv_t *w, int64_t until) {
    struct timespec ts = { until / 1000000000, until % 1000000000 };
    long rc = syscall(SYS_futex_waitv, w->v, w->n, 0, until < 0 ? NULL : &ts, CLOCK_MONOTONIC);
    return rc < 0 ? errno : 0;
}

/* 0 if this kernel has it. */
static inline int waitv_probe(void) {
    return syscall(SYS_futex_waitv, NULL, 0, 0, NULL, 0) < 0 && errno == ENOSYS ? ENOSYS : 0;
}

static inline int life_begin(pthread_mutex_t *life) {
    pthread_mutexattr_t attr;
    int rc;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setrobust(&attr, PTHREAD_MUTEX_ROBUST);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    rc = pthread_mutex_init(life, &attr);
    pthread_mutexattr_destroy(&attr);
    return rc ? rc : pthread_mutex_lock(life);
}

/* A thread of our own, that takes none of the process's signals. */
static inline int start_thread(void *(*run)(void *)) {
    sigset_t all, before;
    pthread_t thread;
    pthread_attr_t attr;
    int rc;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attr, 256 * 1024);
    rc = pthread_create(&thread, &attr, run, NULL);
    if (rc == 0)
        pthread_setname_np(thread, "pydlm-helper");
    pthread_attr_destroy(&attr);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return rc;
}

#endif
