/* See direct.pxi. */
#ifndef PYDLM_DIRECT_H
#define PYDLM_DIRECT_H

#include "sys.h"

#ifndef SYS_pidfd_open
#define SYS_pidfd_open 434
#endif
#ifndef SYS_pidfd_getfd
#define SYS_pidfd_getfd 438
#endif

/* Returns a duplicate of another process's descriptor, close-on-exec, or a negative errno. */
static inline int duplicate_of(uint32_t pid, int fd) {
    int process = (int)syscall(SYS_pidfd_open, (pid_t)pid, 0), copy;
    if (process < 0)
        return -errno;
    copy = (int)syscall(SYS_pidfd_getfd, process, fd, 0);
    if (copy < 0)
        copy = -errno;
    close(process);
    return copy;
}

#endif
