"""What a handle shows of itself, and what it checks: for threads and tasks alike."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, NoReturn, Protocol

from pydlm.blocking.block import Block
from pydlm.blocking.deadlock import conversion_deadlock
from pydlm.errors import Cancelled, DeadlockError, DlmError, NotHeld, Unsupported
from pydlm.types import ECANCEL, EUNLOCK, LockFlag, Mode

if TYPE_CHECKING:
    from pydlm.contract import Stack

__all__ = ["Handle"]


class _Connected(Protocol):
    """What a handle knows of its connection."""

    stack: Stack


class _Ending(Protocol):
    """How a request has ended."""

    status: int | None
    expired: bool
    dismissed: bool


class Handle:
    """A lock made of a stack's verbs, but for what waits, and for whose turn it is."""

    __slots__ = (
        "__weakref__",
        "_asked",
        "_block",
        "_blocked",
        "_cancelling",
        "_conn",
        "_granted",
        "_lkid",
        "_name",
        "_token",
    )

    _conn: _Connected

    def __init__(self, conn: _Connected, name: bytes) -> None:
        self._conn = conn
        self._name = name
        self._lkid = 0  # 0: the stack has no lock for this handle now
        self._granted = Mode.NL
        self._token = 0
        self._block = Block(conn.stack)
        self._blocked: Mode | None = None
        # The request under way: for what mode, and has it been taken back.
        self._asked: Mode | None = None
        self._cancelling = False

    def __reduce__(self) -> NoReturn:
        # This is what copy and pickle ask for.
        raise TypeError("a lock cannot be copied or pickled; open another one by its name")

    # What it is like now.

    @property
    def name(self) -> bytes:
        """The resource's name."""
        self._check_open()
        return self._name

    @property
    def lkid(self) -> int:
        """The lock's id in its lockspace; 0 while the stack has no lock for this handle."""
        self._check_open()
        return self._lkid

    @property
    def granted(self) -> Mode:
        """The mode that is held now; NL if the lock is not."""
        self._check_open()
        return self._granted

    @property
    def requested(self) -> Mode | None:
        """The mode that is waited for, or None."""
        self._check_open()
        return self._asked

    @property
    def token(self) -> int:
        """The fencing token: higher with each grant of this resource."""
        self._check_open()
        self._require("fencing", "give fencing tokens")
        return self._token

    # How it works inside.

    def _check_open(self) -> None:
        """Raise Closed, Forked, or what the connection was lost by."""
        raise NotImplementedError

    def _usable(self) -> Mode:
        """Return the mode that is held, as far as the user may know."""
        raise NotImplementedError

    def _require(self, ability: str, what: str) -> None:
        """Raise Unsupported unless the stack has `ability`."""
        stack = self._conn.stack
        if ability not in stack.capabilities:
            raise Unsupported(f"the stack {stack.name!r} cannot {what}: it lacks {ability!r}")

    def _check_held(self, mode: Mode, what: str) -> None:
        """Raise NotHeld unless `mode` is held, in which the block can be `what`."""
        self._check_open()
        self._require("lvb", "keep lock value blocks")
        granted = self._usable()
        if granted < mode:
            raise NotHeld(
                f"the lock value block can be {what} only while the lock is held, "
                f"not in {granted.name}"
            )

    def _flags(self, mode: Mode, blocking: bool, *, limited: bool) -> LockFlag:
        """Return a request's flags. Raises Unsupported; `limited`: there is a time-out."""
        if mode not in (Mode.PR, Mode.EX):
            self._require("modes6", f"lock in {mode.name}; use PR or EX")
        if limited:
            self._require("cancel", "take back a request; wait without a limit")
        if not blocking:
            self._require("trylock", "try a lock without waiting")
        return LockFlag(0) if blocking else LockFlag.NOQUEUE

    def _had(self, w: _Ending, mode: Mode) -> bool:
        """Return whether the request of `w` was granted, or raise what it ended with."""
        if w.status in (0, EUNLOCK):
            return True
        if w.status == errno.EAGAIN or (w.status == ECANCEL and w.expired and not w.dismissed):
            return False
        if w.status == ECANCEL:
            raise Cancelled("the request was cancelled")
        if w.status == errno.EDEADLK:
            raise self._deadlock(mode)
        if w.status is None:
            self._check_open()
        raise DlmError(
            f"{self._name!r} cannot be had in {mode.name}: {os.strerror(w.status or 0)}",
            errno=w.status,
        )

    def _deadlock(self, mode: Mode) -> DeadlockError:
        return conversion_deadlock(self._conn.stack, self._name, self._lkid, self._granted, mode)

    def _last_words(self) -> tuple[LockFlag, bytes | None]:
        """Return what the unlock has to carry."""
        flags, value = self._block.carried(self._granted, Mode.NL)
        return (flags if self._asked is None else flags | LockFlag.FORCEUNLOCK), value

    def _flags_to_drop(self) -> LockFlag:
        """Return what the unlock carries where the stack no longer says how a request ended."""
        flags = LockFlag(0) if self._asked is None else LockFlag.FORCEUNLOCK
        if self._block.is_invalid_in(self._lkid):
            flags |= LockFlag.VALBLK | LockFlag.IVVALBLK
        return flags
