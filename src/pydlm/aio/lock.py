"""The handle: a lock as a task sees it."""

from __future__ import annotations

import asyncio
import contextlib
import warnings
from copy import copy
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, final

from pydlm.aio.machine import Machine
from pydlm.aio.wait import Wait
from pydlm.blocking.arguments import (
    block_value,
    deadline_of,
    held_mode,
    refuse_mode,
    seconds_of,
)
from pydlm.blocking.machine import Phase, may_wait
from pydlm.errors import (
    Busy,
    Cancelled,
    Closed,
    DlmError,
    Forked,
    LockTimeout,
    NotHeld,
    WouldBlock,
)
from pydlm.types import LockFlag, Mode

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AsyncHeld", "AsyncLock"]


@final
class AsyncLock(Machine):
    """A lock on one resource, for the tasks of one event loop; made by `AsyncLockspace.lock`.

    It does what :class:`pydlm.Lock` does, with the same arguments; what may wait is awaited.
    It belongs to the handle, not to the task: whoever has the handle may release it, and acquiring
    it again through the same handle waits, first come, first served.

    A task that is cancelled while it waits, by whomever, takes its request back, and what was
    granted meanwhile is given back: a cancelled `acquire` holds nothing, a cancelled `convert` has
    the mode that it had.
    """

    __slots__ = ()

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("an AsyncLock is no base class; wrap it instead")

    def __del__(self) -> None:
        # One whose __init__ was not finished has no phase.
        if getattr(self, "_phase", Phase.SHUT) is Phase.SHUT or not self._conn.alive:
            return
        if self._lkid:
            self._conn.discard(self._lkid, *self._last_words())
        if self._holds():
            warnings.warn(
                f"{self!r} was held when its last reference went; it has been released",
                ResourceWarning,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        if self._phase is Phase.SHUT or not self._conn.alive:
            return f"<closed pydlm.aio.AsyncLock object at {id(self):#x}>"
        return (
            f"<{'locked' if self.locked() else 'unlocked'} pydlm.aio.AsyncLock object "
            f"{self._name!r} {self._granted.name} at {id(self):#x}>"
        )

    # Taking and giving up.

    async def acquire(
        self, blocking: bool = True, timeout: float = -1, *, mode: Mode = Mode.EX
    ) -> bool:
        """Take the lock; return whether it could be had in `timeout` seconds (-1: no limit).

        The wait ends early by `cancel` (Cancelled), `close` (Closed), or when the task is
        cancelled, by `asyncio.timeout` too. Raises Closed, Forked, BadArgument, Unsupported.
        """
        refuse_mode(blocking, timeout)
        mode, flags, seconds = self._terms(mode, blocking, timeout)
        w = Wait(mode, flags, acquiring=True)
        try:
            if not self._acquire(w):
                return False
            if not w.done:
                await self._conn.sleep(w, seconds, self._expire)
            return self._judge(w)
        except BaseException:
            self._withdraw(w)
            raise

    def release(self) -> None:
        """Give the lock up. Never waits; the next in line goes on when the stack confirms it.

        Raises NotHeld, or Busy while it is being converted.
        """
        self._check_open()
        self._release()

    async def convert(self, mode: Mode, blocking: bool = True, timeout: float = -1) -> bool:
        """Change the mode in place; return whether it could be had in time.

        Whatever ends the wait, the old mode is kept. Raises DeadlockError at once where two
        conversions would wait for each other; NotHeld, Busy, Cancelled.
        """
        mode, flags, seconds = self._terms(mode, blocking, timeout)
        self._require("convert", "change the mode of a lock in place")
        if self._phase is Phase.ASKING or (self._phase is Phase.CONVERTING and self._holds()):
            raise Busy("a conversion of this lock is under way")
        if not self._holds():
            raise NotHeld("convert of a lock that is not held; acquire it in that mode")
        w = Wait(mode, flags, before=self._granted if may_wait(self._granted, mode) else None)
        try:
            self._request(Phase.CONVERTING, mode, flags, w)
            self._conn.pump()
            if not w.done:
                await self._conn.sleep(w, seconds, self._expire)
            return self._judge(w)
        except BaseException:
            self._withdraw(w)
            raise

    def cancel(self) -> bool:
        """End all waits through this handle with Cancelled; return whether there were any."""
        self._check_open()
        self._conn.pump()
        waits = self._dismiss(Cancelled("the wait was cancelled"))
        w = self._waiter
        if w is not None and self._phase in (Phase.ASKING, Phase.CONVERTING):
            self._require("cancel", "take back a request")
            w.dismissed = waits = True
            self._take_back()
            self._conn.pump()
        return waits

    def held(self, mode: Mode = Mode.EX, blocking: bool = True, timeout: float = -1) -> AsyncHeld:
        """Return an asynchronous context manager that holds the lock in `mode`.

        Entering it raises WouldBlock or LockTimeout where `acquire` would return False.
        """
        return AsyncHeld(self, held_mode(mode), bool(blocking), seconds_of(timeout))

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        # Why the body was left matters more than that somebody else has ended the hold.
        with contextlib.suppress(*(() if exc_type is None else (Closed, Forked, NotHeld))):
            self.release()

    def close(self) -> None:
        """Unlock, and end all waits through this handle with Closed. Idempotent, never waits."""
        if not self._conn.alive:
            self._phase = Phase.SHUT
            return
        if self._phase is Phase.SHUT:
            return
        self._conn.pump()  # it may have been granted, and be written back
        lkid, words = self._lkid, self._last_words()
        self.shut(Closed("the lock is closed"))
        if lkid:
            with contextlib.suppress(DlmError):  # the stack has nothing more to say of it
                self._conn.unlock(lkid, *words)
            self._conn.pump()

    # What it is like now.

    @property
    def blocked(self) -> Mode | None:
        """The strictest mode that somebody has come to wait for because of this lock, or None.

        It stays until the lock is granted anew, though whoever waited may have gone.
        """
        self._check_open()
        self._require("bast", "tell whom a lock keeps waiting")
        self._conn.pump()
        return self._blocked

    async def wait_blocked(self) -> Mode:
        """Wait until this lock is in somebody's way; return what that one wants, as `blocked`.

        It may be awaited before the lock is held, and by several tasks. Raises Closed.
        """
        blocked = self.blocked
        if blocked is not None:
            return blocked
        future: asyncio.Future[Mode] = self._conn.new_future()  # type: ignore[assignment]
        if self._watchers is None:
            self._watchers = set()
        self._watchers.add(future)
        self._conn.watched.add(self)
        try:
            return await future
        finally:
            if self._watchers is not None:
                self._watchers.discard(future)
            if not self._watchers:
                self._conn.watched.discard(self)

    def locked(self) -> bool:
        """Return whether the lock is held through this handle."""
        return self._holds() and self._conn.alive

    # The lock value block.

    @property
    def lvb(self) -> bytes:
        """The lock value block, `lvb_len` bytes; readable while held, else NotHeld.

        Raises LVBInvalid if whoever was changing it died. Set it while held in PW or EX, to at
        most `lvb_len` bytes, padded with zeros; published by the release or down-conversion.
        """
        self._check_held(Mode.CR, "read")
        return self._block.read(self._name, "in EX")

    @lvb.setter
    def lvb(self, value: bytes, /) -> None:
        written = block_value(value, self._conn.stack.lvb_len)
        self._check_held(Mode.PW, "written in PW or EX")
        self._block.written = written

    @property
    def lvb_valid(self) -> bool:
        """Whether the lock value block may be believed."""
        self._check_held(Mode.CR, "read")
        return self._block.is_valid()

    # How it works inside.

    def _terms(
        self, mode: Mode, blocking: bool, timeout: float
    ) -> tuple[Mode, LockFlag, float | None]:
        """Return what a request is made with, checked: mode, flags, seconds."""
        mode = held_mode(mode)
        deadline = deadline_of(blocking, timeout)
        self._check_open()
        flags = self._flags(mode, blocking, limited=deadline is not None)
        return mode, flags, None if deadline is None else deadline - monotonic()

    def _judge(self, w: Wait) -> bool:
        """Return whether the request of `w` was granted, or raise what it ended with."""
        if w.error is not None:
            raise copy(w.error)  # many may get the same, and add their tracebacks to it
        return self._had(w, w.mode)


class AsyncHeld:
    """A lock held for the length of an `async with`: what `AsyncLock.held` returns."""

    __slots__ = ("_how", "_lock")

    def __init__(self, lock: AsyncLock, mode: Mode, blocking: bool, timeout: float) -> None:
        self._lock = lock
        self._how = mode, blocking, timeout

    async def __aenter__(self) -> AsyncLock:
        mode, blocking, timeout = self._how
        lock = self._lock
        if await lock.acquire(blocking, timeout, mode=mode):
            return lock
        what = f"{lock.name!r} could not be had in {mode.name}"
        if blocking:
            raise LockTimeout(f"{what} within {timeout} seconds")
        raise WouldBlock(f"{what} at once")

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self._lock.__aexit__(exc_type, exc, tb)
