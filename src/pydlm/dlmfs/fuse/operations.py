"""What a file system on this binding does for each of the kernel's requests."""

from __future__ import annotations

import errno
from typing import Any, NamedTuple

from pydlm.dlmfs.fuse.request import Request

__all__ = ["Changes", "Operations", "PollHandle"]


class Changes(NamedTuple):
    """What `setattr` is to set; None: nothing. Times are nanoseconds; a size is left alone."""

    mode: int | None
    uid: int | None
    gid: int | None
    atime: int | None
    mtime: int | None


class PollHandle:
    """Somebody who sleeps in poll, select or epoll on an open file."""

    __slots__ = ("_abi", "_raw")

    def __init__(self, abi: Any, raw: Any) -> None:
        self._abi = abi
        self._raw = raw

    def notify(self) -> None:
        """Have them ask again."""
        if self._raw is not None:
            self._abi.lib.fuse_lowlevel_notify_poll(self._raw)

    def destroy(self) -> None:
        """Forget them. Idempotent."""
        raw, self._raw = self._raw, None
        if raw is not None:
            self._abi.lib.fuse_pollhandle_destroy(raw)

    __del__ = destroy


class Operations:
    """Derive from it. What is not overridden is refused as on a system that lacks it.

    Every method answers `request`, now or later. One that raises answers EIO. Inode 1 is the root.
    """

    def init(self) -> None:
        """The kernel is there: the first thing that happens on a mount."""

    def lookup(self, request: Request, parent: int, name: bytes) -> None:
        """Find a name in a directory; answer `entry`."""
        request.fail(errno.ENOENT)

    def forget(self, ino: int, count: int) -> None:
        """The kernel drops `count` of the entries it was given of an inode."""

    def getattr(self, request: Request, ino: int) -> None:
        """Answer `attributes`."""
        request.fail(errno.ENOENT)

    def setattr(self, request: Request, ino: int, changes: Changes) -> None:
        """Change attributes; answer `attributes`."""
        request.fail(errno.EPERM)

    def mknod(self, request: Request, parent: int, name: bytes, mode: int) -> None:
        """Make a file; answer `entry`. `open` with O_CREAT comes here first, then to `open`."""
        request.fail(errno.EPERM)

    def mkdir(self, request: Request, parent: int, name: bytes, mode: int) -> None:
        """Make a directory; answer `entry`."""
        request.fail(errno.EPERM)

    def unlink(self, request: Request, parent: int, name: bytes) -> None:
        """Remove a file; answer `done`."""
        request.fail(errno.EPERM)

    def rmdir(self, request: Request, parent: int, name: bytes) -> None:
        """Remove a directory; answer `done`."""
        request.fail(errno.EPERM)

    def open(self, request: Request, ino: int, flags: int) -> None:
        """Answer `opened`. As long as it is not answered, only the one who asked waits."""
        request.fail(errno.EACCES)

    def read(self, request: Request, handle: int, size: int, offset: int) -> None:
        """Answer `data`."""
        request.fail(errno.EINVAL)

    def write(self, request: Request, handle: int, data: bytes, offset: int, flags: int) -> None:
        """Answer `written`. `flags` are those that the file is open with now."""
        request.fail(errno.EINVAL)

    def release(self, handle: int) -> None:
        """The last descriptor of an open file is closed; close(2) does not wait for this."""

    def poll(self, request: Request, handle: int, sleeper: PollHandle | None) -> None:
        """Answer `events`; `sleeper` wants to be notified when that changes."""
        request.fail(errno.ENOSYS)

    def readdir(self, request: Request, ino: int, size: int, offset: int) -> None:
        """Answer `entries`, from `offset` on."""
        request.fail(errno.ENOTDIR)

    def statfs(self, request: Request) -> None:
        """Answer `file_system`."""
        request.file_system(4096, 255)
