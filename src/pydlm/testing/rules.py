"""What fs/dlm's rules say, as tables and predicates; `pydlm.testing.resource` applies them.

Written for reading: every rule stands alone, none is derived from another for speed.
"""

from __future__ import annotations

from enum import Enum

from pydlm.errors import BadArgument
from pydlm.types import RESNAME_MAX, LockFlag, Mode

__all__ = [
    "LvbMove",
    "check_convert_flags",
    "check_mode",
    "check_name",
    "check_request_flags",
    "check_unlock_flags",
    "lvb_move",
    "quecvt_allowed",
]

#: Conversions for which QUECVT may be given: strictly "upward", plus PR to CW.
_QUECVT_TARGETS = {
    Mode.NL: {Mode.CR, Mode.CW, Mode.PR, Mode.PW, Mode.EX},
    Mode.CR: {Mode.CW, Mode.PR, Mode.PW, Mode.EX},
    Mode.CW: {Mode.PR, Mode.PW, Mode.EX},
    Mode.PR: {Mode.CW, Mode.PW, Mode.EX},
    Mode.PW: {Mode.EX},
    Mode.EX: set(),
}

#: The only flags an unlock may carry.
_UNLOCK_FLAGS = LockFlag.CANCEL | LockFlag.VALBLK | LockFlag.IVVALBLK | LockFlag.FORCEUNLOCK

_ALL_FLAGS = sum(int(flag) for flag in LockFlag)


class LvbMove(Enum):
    """What a grant does with the lock value block."""

    READ = "read"  #: from the resource to the lock
    WRITE = "write"  #: from the lock to the resource
    NONE = "none"


def lvb_move(old: Mode | None, new: Mode | None) -> LvbMove:
    """Return which way the lock value block goes when a lock in `old` gets `new`.

    None is "no lock": what a new lock has before, and an unlocked one after.
    """
    if new is None:
        return LvbMove.NONE
    if old is None:
        return LvbMove.READ
    if old is Mode.EX or (old is Mode.PW and new is not Mode.EX):
        return LvbMove.WRITE
    return LvbMove.READ if new >= old else LvbMove.NONE


def quecvt_allowed(old: Mode | None, new: Mode) -> bool:
    """Return whether a conversion from `old` to `new` may carry QUECVT."""
    return old is not None and new in _QUECVT_TARGETS[old]


def check_mode(mode: int) -> Mode:
    """Return `mode` as a Mode; raise BadArgument outside NL..EX."""
    if not Mode.NL <= mode <= Mode.EX:
        raise BadArgument(f"no such mode: {mode}")
    return Mode(mode)


def check_name(name: bytes) -> None:
    """Raise BadArgument for a resource name that is too long. An empty one is a name."""
    if len(name) > RESNAME_MAX:
        raise BadArgument(f"resource name of {len(name)} bytes, {RESNAME_MAX} at most")


def check_request_flags(mode: Mode, flags: LockFlag) -> None:
    """Raise BadArgument for flags that a new lock cannot have."""
    _check_common_flags(flags)
    if flags & LockFlag.QUECVT:
        raise BadArgument("QUECVT is for conversions")
    if flags & LockFlag.CONVDEADLK:
        raise BadArgument("CONVDEADLK is for conversions")
    if flags & LockFlag.EXPEDITE and flags & LockFlag.NOQUEUE:
        raise BadArgument("EXPEDITE excludes NOQUEUE")
    if flags & LockFlag.EXPEDITE and mode is not Mode.NL:
        raise BadArgument("EXPEDITE is for NL")


def check_convert_flags(flags: LockFlag) -> None:
    """Raise BadArgument for flags that no conversion can have."""
    _check_common_flags(flags)
    if flags & LockFlag.CONVDEADLK and flags & LockFlag.NOQUEUE:
        raise BadArgument("CONVDEADLK excludes NOQUEUE")
    if flags & LockFlag.EXPEDITE:
        raise BadArgument("EXPEDITE is for new locks")


def _check_common_flags(flags: LockFlag) -> None:
    if int(flags) & ~_ALL_FLAGS:
        raise BadArgument(f"no such flags: {int(flags) & ~_ALL_FLAGS:#x}")
    if flags & LockFlag.CANCEL:
        raise BadArgument("CANCEL is for unlock")


def check_unlock_flags(flags: LockFlag) -> None:
    """Raise BadArgument for flags that an unlock cannot have."""
    if flags & ~_UNLOCK_FLAGS:
        raise BadArgument(f"not for unlock: {flags & ~_UNLOCK_FLAGS!r}")
    if flags & LockFlag.CANCEL and flags & LockFlag.FORCEUNLOCK:
        raise BadArgument("CANCEL excludes FORCEUNLOCK")
