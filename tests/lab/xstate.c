/*
 * Preloaded into User-Mode Linux, whose kernel 6.1 sets the floating-point registers of its
 * processes through a buffer that is too small on processors with AMX: the host takes the whole
 * XSAVE area or nothing ("ptrace set fp regs failed, errno = 14"). So what is written is laid over
 * what is there, and what is read is cut.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static char area[1 << 16] __attribute__((aligned(64)));

long ptrace(enum __ptrace_request request, ...)
{
    va_list rest;
    va_start(rest, request);
    long pid = va_arg(rest, int);
    void *where = va_arg(rest, void *);
    void *data = va_arg(rest, void *);
    va_end(rest);

    int set = request == PTRACE_SETREGSET, get = request == PTRACE_GETREGSET;
    if ((set || get) && where == (void *)NT_X86_XSTATE) {
        struct iovec *part = data, whole = {area, sizeof area};
        long failed = syscall(SYS_ptrace, PTRACE_GETREGSET, pid, where, &whole);
        if (failed)
            return failed;
        if (part->iov_len > whole.iov_len)
            part->iov_len = whole.iov_len;
        if (set) {
            memcpy(area, part->iov_base, part->iov_len);
            return syscall(SYS_ptrace, request, pid, where, &whole);
        }
        memcpy(part->iov_base, area, part->iov_len);
        return 0;
    }
    if (request == PTRACE_PEEKTEXT || request == PTRACE_PEEKDATA || request == PTRACE_PEEKUSER) {
        /* The system call stores the word, where the library returns it. */
        long word = 0;
        long failed = syscall(SYS_ptrace, request, pid, where, &word);
        return failed ? failed : word;
    }
    return syscall(SYS_ptrace, request, pid, where, data);
}
