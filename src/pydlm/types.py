"""The words of the lock manager: modes, flags, statuses and events.

Names and numbers are those of Linux' ``dlmconstants.h``, so that a trace, a
dump and a program all speak of the same thing.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from pydlm.contract import Lock

__all__ = [
    "ECANCEL",
    "EUNLOCK",
    "RESNAME_MAX",
    "Blocked",
    "Completion",
    "Event",
    "LockFlag",
    "LockStatus",
    "Mode",
    "NodeDown",
    "Queue",
    "StatusFlag",
]

#: Longest resource name, in bytes (``DLM_RESNAME_MAXLEN``).
RESNAME_MAX: Final = 64

#: Completion status of a cancelled request (``ECANCEL`` of libdlm).
ECANCEL: Final = 0x10001
#: Completion status of an unlock (``EUNLOCK`` of libdlm).
EUNLOCK: Final = 0x10002


class Mode(IntEnum):
    """A lock mode, in rising order of what it excludes."""

    NL = 0  #: null: holds the resource, excludes nobody
    CR = 1  #: concurrent read
    CW = 2  #: concurrent write
    PR = 3  #: protected read, "shared"
    PW = 4  #: protected write, "update"
    EX = 5  #: exclusive

    def __str__(self) -> str:
        """Return its name: what people say, and the same on every Python."""
        return self.name

    def compatible(self, other: Mode) -> bool:
        """Return whether two owners may hold `self` and `other` at once."""
        return bool(_COMPATIBLE[self] >> other & 1)


# One row a mode, one bit a mode, EX on the left:  EX PW PR CW CR NL
_COMPATIBLE: Final = {
    Mode.NL: 0b111111,
    Mode.CR: 0b011111,
    Mode.CW: 0b000111,
    Mode.PR: 0b001011,
    Mode.PW: 0b000011,
    Mode.EX: 0b000001,
}


class LockFlag(IntFlag):
    """Request flags (``DLM_LKF_*``)."""

    NOQUEUE = 0x00000001  #: fail with EAGAIN instead of waiting
    CANCEL = 0x00000002  #: unlock only: end a waiting request or conversion
    CONVERT = 0x00000004  #: change the mode of a granted lock
    VALBLK = 0x00000008  #: read or write the lock value block
    QUECVT = 0x00000010  #: queue the conversion behind those that wait
    IVVALBLK = 0x00000020  #: invalidate the lock value block
    CONVDEADLK = 0x00000040  #: demote to NL instead of a conversion deadlock
    PERSISTENT = 0x00000080  #: the lock outlives its client, as an orphan
    NODLCKWT = 0x00000100  #: never the victim of a conversion deadlock
    NODLCKBLK = 0x00000200  #: accepted, no effect (as in the kernel)
    EXPEDITE = 0x00000400  #: grant an NL request past every waiter
    NOQUEUEBAST = 0x00000800  #: whether a failing NOQUEUE sends blocking notices
    HEADQUE = 0x00001000  #: wait at the head of the queue
    NOORDER = 0x00002000  #: may be granted past those that wait before it
    ORPHAN = 0x00004000  #: adopt the orphan of a dead client
    ALTPR = 0x00008000  #: take PR if the mode asked for cannot be had
    ALTCW = 0x00010000  #: take CW if the mode asked for cannot be had
    FORCEUNLOCK = 0x00020000  #: unlock also while a request is under way
    TIMEOUT = 0x00040000  #: accepted, no effect (as in the kernel)


class StatusFlag(IntFlag):
    """Flags of a completion's status block (``DLM_SBF_*``)."""

    DEMOTED = 0x01  #: CONVDEADLK dropped the granted mode to NL meanwhile
    VALNOTVALID = 0x02  #: the lock value block is invalid
    ALTMODE = 0x04  #: granted in the alternative mode


class Queue(IntEnum):
    """Which queue of its resource a lock is on (``DLM_LKSTS_*``)."""

    NONE = 0
    WAITING = 1
    GRANTED = 2
    CONVERT = 3


class LockStatus(NamedTuple):
    """What the lock manager knows of one lock."""

    lkid: int  #: lock id, unique in the lockspace
    name: bytes  #: the resource
    client: int  #: connection that owns it; 0 for an orphan
    queue: Queue
    granted: Mode | None
    requested: Mode | None
    token: int  #: fencing token of the last grant
    owner: int  #: pid << 32 | thread id of who asked last
    since: float  #: when it was granted or queued, seconds of the monotonic clock


class Completion(NamedTuple):
    """An AST: a request of this connection has ended."""

    lkid: int
    status: int  #: 0, EAGAIN, EDEADLK, ECANCEL or EUNLOCK
    flags: StatusFlag
    granted: Mode | None  #: mode now held; None if the lock is gone
    lvb: bytes | None  #: the lock value block, where one came with it
    token: int = 0  #: fencing token, where the request was granted
    lock: Lock | None = None


class Blocked(NamedTuple):
    """A BAST: a lock of this connection keeps somebody from getting `mode`."""

    lkid: int
    mode: Mode
    lock: Lock | None = None


class NodeDown(NamedTuple):
    """A connection to this lockspace is gone without having said good-bye."""

    node: int


Event = Completion | Blocked | NodeDown
