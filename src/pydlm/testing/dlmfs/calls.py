"""The system calls that recordings of ocfs2_dlmfs are made of, and a process that makes them."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import mmap
import os
import select
import signal
from pathlib import Path
from typing import IO, Any

__all__ = ["CALLS", "serve"]

_Answer = dict[str, Any]

_POLL = {name: getattr(select, name) for name in ("POLLIN", "POLLOUT", "POLLPRI", "POLLRDNORM")}
_POLL_FOUND = _POLL | {name: getattr(select, name) for name in ("POLLERR", "POLLHUP", "POLLNVAL")}
_EPOLL_FOUND = {name: getattr(select, name) for name in ("EPOLLIN", "EPOLLERR", "EPOLLHUP")}

# Python's own `os.open` goes on after a signal, and its `os.statvfs` does not tell the type.
_libc = ctypes.CDLL(None, use_errno=True)


class _Statfs(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_long) for name in ("type", "bsize")),
        *((name, ctypes.c_ulong) for name in ("blocks", "bfree", "bavail", "files", "ffree")),
        ("fsid", ctypes.c_int * 2),
        ("namelen", ctypes.c_long),
        ("rest", ctypes.c_long * 16),
    )


def serve(told: IO[bytes], tells: IO[bytes]) -> None:
    """Make the calls that are told, and tell what came of them, until there are no more."""
    os.umask(0o022)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    signal.siginterrupt(signal.SIGUSR1, True)
    process = _Process()
    while line := told.readline():
        name, args, file = json.loads(line)
        try:
            answer = {"ret": 0} | (getattr(process, name)(*args) or {})
        except OSError as error:
            code = error.errno or 0
            # EOPNOTSUPP has the same number, and the recordings call it this.
            word = "ENOTSUP" if code == errno.ENOTSUP else errno.errorcode.get(code, str(code))
            answer = {"ret": -1, "errno_name": word}
        if file is not None:
            process.files[file] = answer["ret"]
            answer["ret"] = min(answer["ret"], 0)
        tells.write(json.dumps(answer).encode() + b"\n")
        tells.flush()


def _call(name: str, *args: Any) -> int:
    ret: int = getattr(_libc, name)(*args)
    if ret < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return ret


def _bits(words: dict[str, int], value: int) -> list[str]:
    return [word for word, bit in words.items() if value & bit]


def _found(epoll: select.epoll, seconds: float) -> _Answer:
    found = epoll.poll(seconds)
    return {"ret": len(found), "revents": _bits(_EPOLL_FOUND, found[0][1]) if found else []}


def _status(found: os.stat_result) -> _Answer:
    words = ("size", "nlink", "uid", "gid", "blksize", "blocks")
    status = {word: getattr(found, f"st_{word}") for word in words}
    return {"st": {"mode": oct(found.st_mode), **status}}


class _Process:
    """Its methods are the calls, with the arguments of the recordings; they return what is told.

    Descriptors go by the names that a recording has for them.
    """

    def __init__(self) -> None:
        self.files: dict[str, int] = {}
        self._edges: dict[str, select.epoll] = {}  #: sets of one descriptor, kept over calls

    def _fd(self, name: str) -> int:
        fd = self.files.get(name, -1)
        if fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return fd

    # Calls with a path.

    def access(self, path: str, mode: int) -> None:
        _call("access", os.fsencode(path), mode)

    def cat(self, path: str) -> _Answer:
        return {"text": Path(path).read_text().strip()}

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(path, mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        os.chown(path, uid, gid)

    def link(self, path: str, new: str) -> None:
        os.link(path, new)

    def listdir(self, path: str) -> _Answer:
        return {"names": sorted(os.listdir(path))}

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(path, mode)

    def mknod(self, path: str, mode: int) -> None:
        os.mknod(path, mode)

    def open(self, path: str, words: str, mode: int = 0o666) -> _Answer:
        flags = 0
        for word in words.split("|"):
            flags |= getattr(os, f"O_{word}")
        return {"ret": _call("open", os.fsencode(path), flags, ctypes.c_uint(mode))}

    def rename(self, path: str, new: str) -> None:
        os.rename(path, new)

    def rmdir(self, path: str) -> None:
        os.rmdir(path)

    def setxattr(self, path: str) -> None:
        os.setxattr(path, "user.x", b"x")

    def stat(self, path: str) -> _Answer:
        return _status(os.stat(path))

    def statfs(self, path: str) -> _Answer:
        found = _Statfs()
        _call("statfs", os.fsencode(path), ctypes.byref(found))
        numbers = {word: getattr(found, word) for word in ("bsize", "blocks", "files", "namelen")}
        return {"fs": {"type": hex(found.type), **numbers}}

    def symlink(self, target: str, path: str) -> None:
        os.symlink(target, path)

    def truncate(self, path: str, size: int) -> None:
        os.truncate(path, size)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def utime(self, path: str) -> None:
        os.utime(path)

    # Calls with a descriptor.

    def close(self, name: str) -> None:
        os.close(self._fd(name))
        del self.files[name]

    def dup(self, name: str) -> _Answer:
        return {"ret": os.dup(self._fd(name))}

    def epoll(self, name: str, seconds: float) -> _Answer:
        with select.epoll() as epoll:
            epoll.register(self._fd(name), select.EPOLLIN)
            return _found(epoll, seconds)

    def epoll_et(self, name: str, seconds: float) -> _Answer:
        epoll = self._edges.get(name)
        if epoll is None:
            epoll = self._edges[name] = select.epoll()
            epoll.register(self._fd(name), select.EPOLLIN | select.EPOLLET)
        return _found(epoll, seconds)

    def fallocate(self, name: str, size: int) -> None:
        # Not posix_fallocate, which writes where the file system cannot.
        _call("fallocate", self._fd(name), 0, ctypes.c_long(0), ctypes.c_long(size))

    def fdatasync(self, name: str) -> None:
        os.fdatasync(self._fd(name))

    def flock(self, name: str, how: int) -> None:
        fcntl.flock(self._fd(name), how)

    def fstat(self, name: str) -> _Answer:
        return _status(os.fstat(self._fd(name)))

    def fsync(self, name: str) -> None:
        os.fsync(self._fd(name))

    def ftruncate(self, name: str, size: int) -> None:
        os.ftruncate(self._fd(name), size)

    def ioctl(self, name: str, request: int) -> None:
        fcntl.ioctl(self._fd(name), request, bytes(64))

    def lseek(self, name: str, to: int, whence: int) -> _Answer:
        return {"ret": os.lseek(self._fd(name), to, whence)}

    def mmap(self, name: str) -> None:
        mmap.mmap(self._fd(name), 64, mmap.MAP_SHARED, mmap.PROT_READ).close()

    def poll(self, name: str, events: str, milliseconds: int) -> _Answer:
        poll = select.poll()
        poll.register(self._fd(name), sum(_POLL[word] for word in events.split("|")))
        found = poll.poll(milliseconds)
        return {"ret": len(found), "revents": _bits(_POLL_FOUND, found[0][1]) if found else []}

    def pread(self, name: str, count: int, at: int) -> _Answer:
        data = os.pread(self._fd(name), count, at)
        return {"ret": len(data), "data": data.hex()}

    def pwrite(self, name: str, data: str, at: int) -> _Answer:
        return {"ret": os.pwrite(self._fd(name), bytes.fromhex(data), at)}

    def read(self, name: str, count: int) -> _Answer:
        data = os.read(self._fd(name), count)
        return {"ret": len(data), "data": data.hex()}

    def select(self, name: str, seconds: float) -> _Answer:
        fd = self._fd(name)
        lists = select.select([fd], [], [fd], seconds)
        words = zip(("read", "write", "except"), lists, strict=True)
        ready = [word for word, found in words if found]
        return {"ret": len(ready), "ready": ready}

    def write(self, name: str, data: str) -> _Answer:
        return {"ret": os.write(self._fd(name), bytes.fromhex(data))}


CALLS = frozenset(name for name in vars(_Process) if not name.startswith("_"))
