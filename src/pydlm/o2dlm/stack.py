"""Locks on a stack without a mount between: the context is a node of its own.

They are cached locks, so that they behave as files on a mount do: kept by the node after they are
unlocked, with the lock value block, until another node asks or they are dropped.
"""

from __future__ import annotations

import errno
import os
from contextlib import AbstractContextManager

from pydlm.cached import CachedLock
from pydlm.errors import DlmError, LVBInvalid, StackUnavailable, Unsupported, WouldBlock
from pydlm.lockspace import connect
from pydlm.o2dlm.codes import ErrorCode, Level, O2dlmError

__all__ = ["StackDomain", "StackLock"]


class StackLock:
    """A use of a cached lock."""

    def __init__(
        self,
        lock: CachedLock,
        level: Level,
        use: AbstractContextManager[CachedLock],
        lvb_len: int,
    ) -> None:
        self._lock = lock
        self._level = level
        self._use = use
        self._lvb_len = lvb_len

    def fileno(self) -> int:
        """Return the cached lock's eventfd."""
        try:
            return self._lock.fileno()
        except (OSError, DlmError) as error:
            raise O2dlmError(
                ErrorCode.INTERNAL_FAILURE, "the lock has no descriptor to poll", cause=error
            ) from error

    def read(self, length: int) -> bytes:
        """Return the block's beginning."""
        try:
            return self._lock.lvb[:length]
        except LVBInvalid:
            return b""
        except DlmError as error:
            raise O2dlmError(
                ErrorCode.LVB_READ, "cannot read the lock value block", cause=error
            ) from error

    def write(self, data: bytes) -> int:
        """Change the block's beginning; an invalid one begins anew, with zeros behind."""
        try:
            if self._level is not Level.EXMODE:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            rest = self._lock.lvb if self._lock.lvb_valid else b""
            self._lock.lvb = (data + rest[len(data) :])[: self._lvb_len]
        except (OSError, DlmError) as error:
            raise O2dlmError(
                ErrorCode.LVB_WRITE, "cannot write the lock value block", cause=error
            ) from error
        return min(len(data), self._lvb_len)

    def unlock(self) -> None:
        """End the use; others get the lock when they ask for it."""
        try:
            self._use.__exit__(None, None, None)
        except DlmError as error:
            raise O2dlmError(
                ErrorCode.FAILED_UNLOCKS, "cannot give the lock up", cause=error
            ) from error


class StackDomain:
    """A connection to a lockspace of the domain's name."""

    def __init__(self, stack: str, name: str) -> None:
        try:
            self._lockspace = connect(name, stack)
        except StackUnavailable as error:
            raise O2dlmError(
                ErrorCode.SERVICE_UNAVAILABLE, f"cannot use the stack {stack!r}", cause=error
            ) from error
        except (OSError, DlmError) as error:
            raise O2dlmError(
                ErrorCode.DOMAIN_CREATE, f"cannot join {name!r} on {stack!r}", cause=error
            ) from error
        self.capabilities = self._lockspace.capabilities & {"bast", "stackglue"}
        self._kept: dict[bytes, CachedLock] = {}

    def lock(self, name: bytes, level: Level, *, trying: bool) -> StackLock:
        """Begin a use of the cached lock."""
        try:
            # Names that are none on a dlmfs are none here, so that a program may move there.
            if not name or name.startswith(b"$"):
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            if b"/" in name:
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))
            lock = self._kept[name] = self._lockspace.cached(name)
            use = (lock.exclusive if level is Level.EXMODE else lock.shared)(not trying)
            use.__enter__()
        except WouldBlock as error:
            raise O2dlmError(
                ErrorCode.TRYLOCK_FAILED, f"the lock {name!r} cannot be had at once"
            ) from error
        except Unsupported as error:
            raise O2dlmError(
                ErrorCode.SERVICE_UNAVAILABLE, f"cannot take the lock {name!r}", cause=error
            ) from error
        except (OSError, DlmError) as error:
            raise O2dlmError(
                ErrorCode.LOCKING, f"cannot take the lock {name!r}", cause=error
            ) from error
        return StackLock(lock, level, use, self._lockspace.lvb_len)

    def drop(self, name: bytes) -> None:
        """Close the cached lock."""
        lock = self._kept.pop(name, None)
        if lock is None:
            raise O2dlmError(ErrorCode.UNLINK, f"this context has not taken the lock {name!r}")
        try:
            lock.close()
        except DlmError as error:
            raise O2dlmError(
                ErrorCode.UNLINK, f"cannot drop the lock {name!r}", cause=error
            ) from error

    def leave(self) -> None:
        """Close the connection, which lets all go that it has kept."""
        self._kept.clear()
        try:
            self._lockspace.close()
        except (OSError, DlmError) as error:
            raise O2dlmError(
                ErrorCode.DOMAIN_DESTROY, "cannot leave the lockspace", cause=error
            ) from error
