"""The cached lock as a task sees it."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from pydlm._core import AsyncGate
from pydlm.aio.keeper import AsyncKeeper, TaskWaiter
from pydlm.cached.actions import Outcome
from pydlm.cached.face import Face
from pydlm.cached.values import Codec
from pydlm.errors import Closed
from pydlm.types import Mode

if TYPE_CHECKING:
    from typing_extensions import Self

    from pydlm.aio.connection import Connection

__all__ = ["AsyncCachedLock", "AsyncOnDrop"]


class AsyncCachedLock(Face, AsyncGate):
    """A lock that the connection keeps, though nobody uses it, until somebody else asks.

    ``async with lock.shared():`` and ``async with lock.exclusive():`` use it. While the level
    that is kept suffices, that asks nobody and gives no other task a turn. Uses belong to no
    task, and are not reentrant. Made by :meth:`AsyncLockspace.cached`.
    """

    def __init__(
        self,
        conn: Connection,
        keeper: AsyncKeeper,
        name: bytes,
        on_drop: AsyncOnDrop | None,
        exclusion: bool | None,
        codec: Codec | None,
    ) -> None:
        super().__init__(keeper.stack, keeper.left, name, on_drop, exclusion, codec)
        self._conn = conn
        self._keeper = keeper

    async def drop(self) -> None:
        """Let go now, back to NL, as if somebody else wanted EX.

        Returns when that is through, on_drop included. While a use is under way it returns at
        once, and the lock is let go when the last one ends; so also in on_drop.
        """
        self._check_live()
        await self._see_through(self._kept.machine.let_go)

    async def close(self) -> None:
        """Let go for good. New and waiting uses raise Closed. Idempotent.

        Returns when the lock is gone, on_drop included. Uses that are under way go on: then it
        returns at once, and the lock is let go when the last one ends. Cancelled, it goes on
        without the task.
        """
        if not self._conn.alive:
            return
        self._conn.forget_cached(self)
        if self._kept.machine.error is not None:
            return
        try:
            await self._see_through(self._kept.machine.close)
        except Closed:
            return

    # How it works inside.

    def _start(self) -> None:
        """Make the lock on the stack. Uses wait until it is there. Raises LockspaceFull."""
        waiter = TaskWaiter()
        self._keeper.ask(self._kept, self._kept.machine.attach, waiter)
        waiter.outcome()

    async def _see_through(self, step: Callable[[TaskWaiter], Any]) -> None:
        waiter = TaskWaiter()
        self._keeper.ask(self._kept, step, waiter)
        if waiter.told is None and self._keeper.current() is not self._kept:
            waiter.future = self._conn.new_future()
            await waiter.future
        waiter.outcome()

    async def _begin_async(self, exclusive: bool, blocking: bool, timeout: float) -> Self:
        """Take a use that the gate is not open to."""
        self._check_live()
        deadline = monotonic() + timeout
        machine, ask = self._kept.machine, self._keeper.ask
        runs = self._keeper.current()
        if self._keeper.closing and runs is None:
            raise Closed(f"the connection to lockspace {self._conn.name!r} is being closed")
        own = runs is self._kept
        # No time at all: what can be had at once, as of a raw lock.
        trying = own or not blocking or timeout == 0
        waiter = TaskWaiter(exclusive, trying, in_on_drop=runs is not None)
        try:
            ask(self._kept, machine.want, waiter)
            if waiter.told is None:
                seconds = None if timeout in (-1, 0) else deadline - monotonic()
                await self._conn.sleep(waiter, seconds, self._expire)
        except BaseException:
            # Whatever has been done for us is undone, let in or not.
            if self._conn.alive:
                ask(self._kept, machine.abandon, waiter)
            raise
        outcome = waiter.outcome()
        if outcome is Outcome.DONE:
            return self
        expired = outcome is Outcome.EXPIRED
        raise self._not_had(exclusive, blocking, timeout, own=own, expired=expired)

    def _expire(self, waiter: TaskWaiter) -> None:
        if self._conn.alive:
            self._keeper.ask(self._kept, self._kept.machine.expire, waiter)

    def _check_live(self) -> None:
        self._conn.check_live()
        super()._check_live()

    def _runs_on_drop(self) -> bool:
        return self._keeper.is_running(self._kept)


#: Called with the lock and the level that it is about to fall to, NL or PR; what it returns is
#: awaited if it can be.
AsyncOnDrop = Callable[[AsyncCachedLock, Mode], object]
