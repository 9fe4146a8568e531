/* See sys.pxd. */
#ifndef PYDLM_SYS_H
#define PYDLM_SYS_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <errno.h>
#include <linux/futex.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define prefetch(p)       __builtin_prefetch((p), 1)
#define load32(p)         __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define load64(p)         __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define store32(p, v)     __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define swap32(p, v)      __atomic_exchange_n((p), (v), __ATOMIC_ACQ_REL)
#define swap64(p, v)      __atomic_exchange_n((p), (v), __ATOMIC_ACQ_REL)
#define add32(p, v)       __atomic_fetch_add((p), (v), __ATOMIC_ACQ_REL)
#define and32(p, v)        __atomic_fetch_and((p), (v), __ATOMIC_ACQ_REL)
#define or32(p, v)        __atomic_fetch_or((p), (v), __ATOMIC_ACQ_REL)

static inline int cas64(uint64_t *p, uint64_t old, uint64_t new_) {
    return __atomic_compare_exchange_n(p, &old, new_, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static inline int cas8(unsigned char *p, unsigned char old, unsigned char new_) {
    return __atomic_compare_exchange_n(p, &old, new_, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

static inline int cas32(uint32_t *p, uint32_t old, uint32_t new_) {
    return __atomic_compare_exchange_n(p, &old, new_, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE);
}

/* Sleep while *word == value, `flags` being 0 or FUTEX_PRIVATE_FLAG. `until` is an absolute
   time of the monotonic clock in nanoseconds, negative for ever. Returns 0 or an errno. */
static inline int futex_wait(uint32_t *word, uint32_t value, int64_t until, int flags) {
    struct timespec ts = { until / 1000000000, until % 1000000000 };
    long rc = syscall(SYS_futex, word, FUTEX_WAIT_BITSET | flags, value,
                      until < 0 ? NULL : &ts, NULL, FUTEX_BITSET_MATCH_ANY);
    return rc == 0 ? 0 : errno;
}

static inline void futex_wake(uint32_t *word, int count, int flags) {
    syscall(SYS_futex, word, FUTEX_WAKE | flags, count, NULL, NULL, 0);
}

static inline int64_t monotonic_ns(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return ts.tv_sec * 1000000000LL + ts.tv_nsec;
}

/* For ages only: a few milliseconds coarse, but a fifth of the price. */
static inline uint32_t coarse_centiseconds(void) {
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return (uint32_t)(ts.tv_sec * 100 + ts.tv_nsec / 10000000);
}

/* The counter is kept at 0 or 1, so neither call can block or overflow. */
static inline void eventfd_raise(int fd) {
    uint64_t one = 1;
    while (write(fd, &one, sizeof one) < 0 && errno == EINTR) {}
}

static inline void eventfd_clear(int fd) {
    uint64_t count;
    while (read(fd, &count, sizeof count) < 0 && errno == EINTR) {}
}

/* Have the memory of a shared file: 0, or ENOSPC where touching it would have meant SIGBUS. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
static inline int populate(void *start, size_t size) {
    uintptr_t first = (uintptr_t)start & ~(uintptr_t)4095;
    uintptr_t end = ((uintptr_t)start + size + 4095) & ~(uintptr_t)4095;
    int rc;
    do {
        rc = madvise((void *)first, end - first, MADV_POPULATE_WRITE) == 0 ? 0 : errno;
    } while (rc == EINTR || rc == EAGAIN);
    return rc == EFAULT || rc == ENOMEM ? ENOSPC : rc;
}

/* The four bytes of a lock's state, in one store. */
static inline void store_state(int8_t *state, int grmode, int rqmode, int queue, int highbast) {
    int8_t bytes[4] = { (int8_t)grmode, (int8_t)rqmode, (int8_t)queue, (int8_t)highbast };
    uint32_t word;
    memcpy(&word, bytes, sizeof word);
    __atomic_store_n((uint32_t *)(void *)state, word, __ATOMIC_RELEASE);
}

/* A test build dies at the crash point it is told to. Elsewhere it only keeps the order of
   stores: a process that is killed has done all of them up to some point, and none after. */
#ifdef PYDLM_CRASH
#include <signal.h>
#define DLM_CRASH_BUILD 1
static uint64_t dlm_crash_at, dlm_crash_count;      /* 0: only count */
static int dlm_crash_armed;                         /* 1: this thread, 2: all threads */
static __thread int dlm_crash_here;
static __attribute__((noinline)) void crash_point(void) {
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    if (dlm_crash_armed && (dlm_crash_armed == 2 || dlm_crash_here)
        && __atomic_add_fetch(&dlm_crash_count, 1, __ATOMIC_SEQ_CST) == dlm_crash_at)
        kill(getpid(), SIGKILL);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}
#else
#define DLM_CRASH_BUILD 0
#define crash_point() __atomic_signal_fence(__ATOMIC_SEQ_CST)
#endif

#endif
