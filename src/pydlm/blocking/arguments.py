"""What callers pass, checked as the native lock and threading.Lock check it."""

from __future__ import annotations

import math
import threading
from time import monotonic

from pydlm.errors import BadArgument
from pydlm.types import RESNAME_MAX, Mode

__all__ = [
    "block_value",
    "deadline_of",
    "held_mode",
    "refuse_mode",
    "resource_name",
    "seconds_of",
]


def resource_name(name: str | bytes) -> bytes:
    """Return a resource's name as bytes: text is UTF-8."""
    if isinstance(name, str):
        try:
            raw = name.encode()
        except UnicodeEncodeError as error:
            raise BadArgument(f"resource name {name!r} cannot be encoded: {error.reason}") from None
    elif isinstance(name, bytes | bytearray | memoryview):
        raw = bytes(name)
    else:
        raise TypeError(f"a resource name is str or bytes, not {type(name).__name__}")
    if not raw:
        raise BadArgument("a resource name has at least 1 byte")
    if len(raw) > RESNAME_MAX:
        raise BadArgument(
            f"resource name of {len(raw)} bytes is too long: at most {RESNAME_MAX} bytes; "
            "use a digest of it"
        )
    return raw


def held_mode(mode: object) -> Mode:
    """Return a mode somebody can hold through a handle: CR to EX."""
    if not isinstance(mode, int) or isinstance(mode, bool):
        raise TypeError(f"mode is a pydlm.Mode, not {type(mode).__name__}")
    if mode == Mode.NL:
        raise BadArgument("an open lock holds NL already; release() goes back to it")
    if not Mode.NL < mode <= Mode.EX:
        raise BadArgument(f"mode {mode!r} is none of CR, CW, PR, PW, EX")
    return Mode(mode)


def refuse_mode(*others: object) -> None:
    """Raise TypeError if a mode was passed where something else was meant."""
    for other in others:
        if isinstance(other, Mode):
            raise TypeError(f"mode is a keyword: acquire(mode=Mode.{other.name})")


def seconds_of(timeout: float) -> float:
    """Return any real number as a float. Not what float() would parse: text is no number."""
    return math.fsum([timeout])


def deadline_of(blocking: bool, timeout: float) -> float | None:
    """Return when to stop waiting, on the monotonic clock; None: never."""
    timeout = seconds_of(timeout)
    if timeout == -1:
        return None
    if not blocking:
        raise BadArgument("can't specify a timeout for a non-blocking call")
    if not timeout >= 0:
        raise BadArgument("timeout value must be a non-negative number of seconds")
    if timeout > threading.TIMEOUT_MAX:
        raise OverflowError("timeout value is too large")
    return monotonic() + timeout


def block_value(value: bytes, length: int) -> bytes:
    """Return what is to be a lock value block, padded with zeros."""
    if not isinstance(value, bytes | bytearray | memoryview):
        raise TypeError(f"a lock value block is bytes, not {type(value).__name__}")
    raw = bytes(value)
    if len(raw) > length:
        raise BadArgument(f"{len(raw)} bytes do not fit in a lock value block of {length} bytes")
    return raw.ljust(length, b"\0")
