"""Everything pydlm raises. The class says whose fault it is, `errno` what the kernel would say."""

from __future__ import annotations

import errno as _errno
from typing import ClassVar, NamedTuple

from pydlm.types import Mode

__all__ = [
    "ArenaDamaged",
    "BadArgument",
    "Busy",
    "Cancelled",
    "Closed",
    "DeadlockError",
    "DeadlockMember",
    "DlmError",
    "Forked",
    "LVBInvalid",
    "LockLost",
    "LockTimeout",
    "LockspaceFull",
    "MountFailed",
    "NoSuchLock",
    "NotHeld",
    "StackUnavailable",
    "Unsupported",
    "WouldBlock",
]


class DlmError(Exception):
    """Base of all errors of pydlm. `errno` is the kernel's number for it."""

    default_errno: ClassVar[int] = _errno.EINVAL

    def __init__(self, message: str, *, errno: int | None = None) -> None:
        super().__init__(message)
        # Set after super(): those that are OSErrors too would reset it to None.
        self.errno: int | None = self.default_errno if errno is None else errno


class BadArgument(DlmError, ValueError):
    """A name, size, mode, flag or combination of flags that cannot be."""


class Closed(DlmError, ValueError):
    """The lock or the lockspace has been closed."""

    default_errno = _errno.EBADF


class Forked(DlmError, RuntimeError):
    """The handle belongs to the parent process; connect again in the child."""

    default_errno = _errno.EBADF


class NotHeld(DlmError, RuntimeError):
    """The lock is not held, or not in a mode that allows this."""

    default_errno = _errno.EPERM


class NoSuchLock(DlmError, LookupError):
    """No lock of this connection has that lkid."""

    default_errno = _errno.ENOENT


class Busy(DlmError):
    """A request on this lock is under way already."""

    default_errno = _errno.EBUSY


class WouldBlock(DlmError, BlockingIOError):
    """The lock could not be had at once."""

    default_errno = _errno.EAGAIN


class LockTimeout(DlmError, TimeoutError):
    """The lock could not be had in time."""

    default_errno = _errno.ETIMEDOUT


class Cancelled(DlmError):
    """`cancel` ended the wait."""

    default_errno = _errno.ECANCELED


class DeadlockMember(NamedTuple):
    """One step of a deadlock: `owner` waits for `wanted`, which the next step's owner blocks."""

    resource: bytes
    wanted: Mode
    held: Mode | None  #: what the waiter itself holds there
    owner: str
    lkid: int


class DeadlockError(DlmError):
    """Waiting would never have ended. `cycle` names who waits for whom, this waiter first."""

    default_errno = _errno.EDEADLK

    def __init__(self, message: str, *, cycle: tuple[DeadlockMember, ...] = ()) -> None:
        super().__init__(message)
        self.cycle = cycle


class LVBInvalid(DlmError):
    """Whoever was changing the lock value block died. Rebuild what it stands for, then write it."""

    default_errno = _errno.ENODATA


class LockspaceFull(DlmError, MemoryError):
    """The lockspace has no room for another lock, resource or connection."""

    default_errno = _errno.ENOSPC


class ArenaDamaged(DlmError):
    """The file of a shared lockspace is not what it should be; it has not been touched."""

    default_errno = _errno.EUCLEAN


class LockLost(DlmError):
    """The stack below has lost this lock; nothing it protected may be touched any more."""

    default_errno = _errno.EOWNERDEAD


class MountFailed(DlmError, OSError):
    """A file system could not be mounted there."""

    default_errno = _errno.EPERM


class Unsupported(DlmError, NotImplementedError):
    """This stack lacks the capability."""

    default_errno = _errno.EOPNOTSUPP


class StackUnavailable(DlmError, LookupError):
    """No stack of that name, or it does not work here."""

    default_errno = _errno.ENODEV
