"""pydlm: a distributed lock manager for Python services on Linux.

>>> import pydlm
>>> with pydlm.connect("orders") as ls:
...     with ls.lock("invoice:42") as lk:
...         lk.lvb = b"paid"
"""

from pydlm._clash import refuse_other_distribution

refuse_other_distribution()

# ruff: noqa: E402  # nothing of ours may be imported before we know that it is ours
from pydlm.cached import CachedLock
from pydlm.contract import Lock, Stack
from pydlm.errors import (
    BadArgument,
    Busy,
    Cancelled,
    Closed,
    DeadlockError,
    DlmError,
    Forked,
    LockLost,
    LockspaceFull,
    LockTimeout,
    LVBInvalid,
    NoSuchLock,
    NotHeld,
    StackUnavailable,
    Unsupported,
    WouldBlock,
)
from pydlm.lockspace import Lockspace, connect
from pydlm.types import Blocked, Completion, Event, LockFlag, Mode, NodeDown, StatusFlag

__all__ = [
    "BadArgument",
    "Blocked",
    "Busy",
    "CachedLock",
    "Cancelled",
    "Closed",
    "Completion",
    "DeadlockError",
    "DlmError",
    "Event",
    "Forked",
    "LVBInvalid",
    "Lock",
    "LockFlag",
    "LockLost",
    "LockTimeout",
    "Lockspace",
    "LockspaceFull",
    "Mode",
    "NoSuchLock",
    "NodeDown",
    "NotHeld",
    "Stack",
    "StackUnavailable",
    "StatusFlag",
    "Unsupported",
    "WouldBlock",
    "connect",
]
