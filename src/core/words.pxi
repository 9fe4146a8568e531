# The Python words the core hands out and raises, and what it makes of its arguments.

import operator as _operator
import os as _os
import secrets as _secrets
import sys as _sys
import time as _time
import warnings as _warnings

from pydlm.errors import (
    ArenaDamaged,
    BadArgument,
    Busy,
    Cancelled,
    Closed,
    DeadlockError,
    DeadlockMember,
    DlmError,
    Forked,
    LockspaceFull,
    LockTimeout,
    LVBInvalid,
    NoSuchLock,
    NotHeld,
    StackUnavailable,
    Unsupported,
    WouldBlock,
)
from pydlm.types import Blocked, Completion, LockFlag, LockStatus, Mode, NodeDown, Queue, StatusFlag

cdef object is_finalizing = _sys.is_finalizing
cdef tuple MODES = tuple(Mode(m) for m in range(6))
cdef tuple SB_FLAGS = tuple(StatusFlag(f) for f in range(8))
cdef tuple QUEUES = tuple(Queue(q) for q in range(4))


cdef inline object mode_or_none(int mode):
    return MODES[mode] if mode >= 0 else None


cdef int raise_errno(int error, str what) except -1:
    """Turn the errno of a request into the exception for it."""
    if error == EINVAL:
        raise BadArgument(f"{what}: the lock manager does not allow these arguments together")
    if error == ENOENT:
        raise NoSuchLock(f"{what}: no such lock on this connection; it may have been unlocked")
    if error == EBUSY:
        raise Busy(f"{what}: another request on this lock is under way; wait for it or cancel it")
    if error == EAGAIN:
        raise WouldBlock(f"{what}: there is one, but in another mode")
    raise DlmError(f"{what}: {_os.strerror(error)}", errno=error)


cdef int raise_full(arena_t* a, int kind) except -1:
    if a.full:
        a.full = False
        raise LockspaceFull("the tmpfs that the lockspace is on has no memory left")
    raise LockspaceFull(
        "the lockspace has no room for another "
        + ("lock", "resource", "lock value block", "long name")[kind]
        + "; close locks you do not need, or connect with a larger capacity"
    )


cdef bytes resource_name(name):
    """Return a resource's name as bytes: text is UTF-8 (rule 28)."""
    cdef bytes raw
    if type(name) is bytes:
        raw = name
    elif isinstance(name, str):
        try:
            raw = (<str>name).encode()
        except UnicodeEncodeError as error:
            raise BadArgument(f"resource name {name!r} cannot be encoded: {error.reason}") from None
    elif isinstance(name, (bytes, bytearray, memoryview)):
        raw = bytes(name)
    else:
        raise TypeError(f"a resource name is str or bytes, not {type(name).__name__}")
    if PyBytes_GET_SIZE(raw) > NAME_MAX:
        raise BadArgument(
            f"resource name of {len(raw)} bytes is too long: at most {NAME_MAX} bytes; "
            "use a digest of it"
        )
    return raw


cdef int64_t whole_number(value, str what, low, high) except -1:
    """Return `value`; BadArgument if it is out of range, TypeError if it is no whole number."""
    number = _operator.index(value)
    if not low <= number <= high:
        raise BadArgument(f"{what} {number} is out of range")
    return number


cdef inline int raw_mode(mode) except -2:
    return <int>whole_number(mode, "mode", NL, EX)


cdef inline uint32_t raw_flags(flags) except? 0xffffffff:
    return <uint32_t>whole_number(flags, "set of flags", 0, LKF_KNOWN)


cdef uint64_t raw_lkid(lkid) except? 0xffffffff:
    """Return a lock id; one that cannot be is 0xffffffff, which no lock has."""
    number = _operator.index(lkid)
    return number if 0 <= number < 1 << 64 else 0xffffffff


cdef object checked_wait(wait):
    """Return how long to wait before a search for deadlocks, as seconds or None."""
    if wait is None:
        return None
    if not isinstance(wait, (int, float)):
        raise TypeError(f"deadlock_wait is seconds or None, not {type(wait).__name__}")
    seconds = float(wait)
    if not seconds >= 0:
        raise BadArgument(f"deadlock_wait is None or at least 0 seconds, not {wait!r}")
    return seconds


cdef int held_mode(mode) except -1:
    """Return a mode somebody can hold through a handle: CR to EX."""
    cdef int m
    for m in range(CR, EX + 1):
        if mode is MODES[m]:
            return m
    if not isinstance(mode, int) or isinstance(mode, bool):
        raise TypeError(f"mode is a pydlm.Mode, not {type(mode).__name__}")
    number = int(mode)
    if not NL < number <= EX:
        if number == NL:
            raise BadArgument("an open lock holds NL already; release() goes back to it")
        raise BadArgument(f"mode {number} is none of CR, CW, PR, PW, EX")
    return number


cdef bytes block_value(value, uint32_t lvb_len):
    cdef bytes raw
    if not isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError(f"a lock value block is bytes, not {type(value).__name__}")
    raw = bytes(value)
    if PyBytes_GET_SIZE(raw) > lvb_len:
        raise BadArgument(
            f"{len(raw)} bytes do not fit in a lock value block of {lvb_len} bytes"
        )
    return raw
