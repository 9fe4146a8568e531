"""libfuse3's low-level interface as cffi sees it: declarations of 3.2 and later, and the library.

Nothing is compiled, so `struct stat` is written out for each kind of machine.
"""

from __future__ import annotations

import platform
import struct
from collections import deque
from functools import cache
from importlib import import_module
from typing import Any, Final, NamedTuple

from pydlm.errors import Unsupported

__all__ = ["Abi", "load"]

_GENERIC_STAT: Final = """
struct stat {
    unsigned long st_dev, st_ino;
    unsigned int st_mode, st_nlink, st_uid, st_gid;
    unsigned long st_rdev, _pad1;
    long st_size;
    int st_blksize, _pad2;
    long st_blocks;
    struct timespec st_atim, st_mtim, st_ctim;
    unsigned int _unused[2];
};
"""

_STAT: Final = {
    "x86_64": """
struct stat {
    unsigned long st_dev, st_ino, st_nlink;
    unsigned int st_mode, st_uid, st_gid, _pad;
    unsigned long st_rdev;
    long st_size, st_blksize, st_blocks;
    struct timespec st_atim, st_mtim, st_ctim;
    long _unused[3];
};
""",
    "aarch64": _GENERIC_STAT,
    "riscv64": _GENERIC_STAT,
    "loongarch64": _GENERIC_STAT,
}

_DECLARATIONS: Final = """
struct timespec { long tv_sec, tv_nsec; };
%(stat)s
struct statvfs {
    unsigned long f_bsize, f_frsize;
    uint64_t f_blocks, f_bfree, f_bavail, f_files, f_ffree, f_favail;
    unsigned long f_fsid, f_flag, f_namemax;
    int _spare[6];
};

typedef struct fuse_req *fuse_req_t;
typedef uint64_t fuse_ino_t;
struct fuse_session;
struct fuse_pollhandle;

struct fuse_args { int argc; char **argv; int allocated; };
struct fuse_ctx { uint32_t uid, gid; int32_t pid; uint32_t umask; };
struct fuse_entry_param {
    fuse_ino_t ino;
    uint64_t generation;
    struct stat attr;
    double attr_timeout, entry_timeout;
};
struct fuse_file_info {
    int flags;
    unsigned int writepage : 1;
    unsigned int direct_io : 1;
    unsigned int keep_cache : 1;
    unsigned int flush : 1;
    unsigned int nonseekable : 1;
    unsigned int flock_release : 1;
    unsigned int cache_readdir : 1;
    unsigned int noflush : 1;
    unsigned int _bits : 24;
    unsigned int _padding;
    uint64_t fh, lock_owner;
    uint32_t poll_events;
};
struct fuse_conn_info {
    unsigned proto_major, proto_minor, max_write, max_read, max_readahead, capable, want;
    unsigned max_background, congestion_threshold, time_gran, _reserved[22];
};
struct fuse_buf {
    size_t size;
    int flags;
    void *mem;
    int fd;
    int64_t pos;
    char _room[64];  /* what later versions add */
};

struct fuse_lowlevel_ops {
    void (*init)(void *, struct fuse_conn_info *);
    void (*destroy)(void *);
    void (*lookup)(fuse_req_t, fuse_ino_t, const char *);
    void (*forget)(fuse_req_t, fuse_ino_t, uint64_t);
    void (*getattr)(fuse_req_t, fuse_ino_t, struct fuse_file_info *);
    void (*setattr)(fuse_req_t, fuse_ino_t, struct stat *, int, struct fuse_file_info *);
    void (*readlink)(fuse_req_t, fuse_ino_t);
    void (*mknod)(fuse_req_t, fuse_ino_t, const char *, uint32_t, uint64_t);
    void (*mkdir)(fuse_req_t, fuse_ino_t, const char *, uint32_t);
    void (*unlink)(fuse_req_t, fuse_ino_t, const char *);
    void (*rmdir)(fuse_req_t, fuse_ino_t, const char *);
    void (*symlink)(fuse_req_t, const char *, fuse_ino_t, const char *);
    void (*rename)(fuse_req_t, fuse_ino_t, const char *, fuse_ino_t, const char *, unsigned);
    void (*link)(fuse_req_t, fuse_ino_t, fuse_ino_t, const char *);
    void (*open)(fuse_req_t, fuse_ino_t, struct fuse_file_info *);
    void (*read)(fuse_req_t, fuse_ino_t, size_t, int64_t, struct fuse_file_info *);
    void (*write)(fuse_req_t, fuse_ino_t, const char *, size_t, int64_t,
                  struct fuse_file_info *);
    void (*flush)(fuse_req_t, fuse_ino_t, struct fuse_file_info *);
    void (*release)(fuse_req_t, fuse_ino_t, struct fuse_file_info *);
    void (*fsync)(fuse_req_t, fuse_ino_t, int, struct fuse_file_info *);
    void (*opendir)(fuse_req_t, fuse_ino_t, struct fuse_file_info *);
    void (*readdir)(fuse_req_t, fuse_ino_t, size_t, int64_t, struct fuse_file_info *);
    void (*releasedir)(fuse_req_t, fuse_ino_t, struct fuse_file_info *);
    void *fsyncdir;
    void (*statfs)(fuse_req_t, fuse_ino_t);
    void *setxattr, *getxattr, *listxattr, *removexattr, *access, *create, *getlk, *setlk;
    void *bmap, *ioctl;
    void (*poll)(fuse_req_t, fuse_ino_t, struct fuse_file_info *, struct fuse_pollhandle *);
    void *write_buf, *retrieve_reply, *forget_multi, *flock, *fallocate, *readdirplus;
    void *copy_file_range, *lseek;
};

int fuse_reply_err(fuse_req_t, int);
void fuse_reply_none(fuse_req_t);
int fuse_reply_entry(fuse_req_t, const struct fuse_entry_param *);
int fuse_reply_attr(fuse_req_t, const struct stat *, double);
int fuse_reply_open(fuse_req_t, const struct fuse_file_info *);
int fuse_reply_write(fuse_req_t, size_t);
int fuse_reply_buf(fuse_req_t, const char *, size_t);
int fuse_reply_statfs(fuse_req_t, const struct statvfs *);
int fuse_reply_poll(fuse_req_t, unsigned);
size_t fuse_add_direntry(fuse_req_t, char *, size_t, const char *, const struct stat *, int64_t);
int fuse_lowlevel_notify_poll(struct fuse_pollhandle *);
void fuse_pollhandle_destroy(struct fuse_pollhandle *);
const struct fuse_ctx *fuse_req_ctx(fuse_req_t);
void fuse_req_interrupt_func(fuse_req_t, void (*)(fuse_req_t, void *), void *);

struct fuse_session *fuse_session_new(struct fuse_args *, const struct fuse_lowlevel_ops *,
                                      size_t, void *);
int fuse_session_mount(struct fuse_session *, const char *);
void fuse_session_unmount(struct fuse_session *);
void fuse_session_destroy(struct fuse_session *);
int fuse_session_exited(struct fuse_session *);
void fuse_session_exit(struct fuse_session *);
int fuse_session_fd(struct fuse_session *);
int fuse_session_receive_buf(struct fuse_session *, struct fuse_buf *);
void fuse_session_process_buf(struct fuse_session *, const struct fuse_buf *);
const char *fuse_pkgversion(void);
void fuse_set_log_func(void (*)(int, const char *, void *));

int vsnprintf(char *, size_t, const char *, void *);
void free(void *);
"""

_INSTALL: Final = "install Debian's package fuse3, or another distribution's libfuse 3"


class Abi(NamedTuple):
    """cffi's view: how memory is made, libfuse, and libc."""

    ffi: Any
    lib: Any
    libc: Any
    heard: deque[str]  #: what libfuse has had to say
    listener: Any  #: C has a pointer to it


@cache
def load() -> Abi:
    """Return libfuse3. Raises Unsupported, with what to install."""
    machine = platform.machine()
    if machine not in _STAT or struct.calcsize("P") != 8 or not platform.libc_ver()[0]:
        raise Unsupported(f"a mount needs glibc on one of {', '.join(_STAT)}; this is {machine}")
    try:
        ffi = import_module("cffi").FFI()
    except ImportError:
        raise Unsupported("a mount needs cffi: pip install 'pydlm-locks[fuse]'") from None
    ffi.cdef(_DECLARATIONS % {"stat": _STAT[machine]})
    try:
        lib = ffi.dlopen("libfuse3.so.3")
    except OSError as error:
        raise Unsupported(f"a mount needs libfuse3.so.3; {_INSTALL} ({error})") from None
    libc = ffi.dlopen(None)
    heard: deque[str] = deque(maxlen=20)

    def listen(_level: int, text: Any, arguments: Any) -> None:
        line = ffi.new("char[]", 1024)
        libc.vsnprintf(line, 1024, text, arguments)
        heard.append(ffi.string(line).decode(errors="replace").strip().removeprefix("fuse: "))

    listener = ffi.callback("void(int, const char *, void *)", listen)
    lib.fuse_set_log_func(listener)  # for good: there is one for all sessions
    return Abi(ffi, lib, libc, heard, listener)
