"""The cached locks of a connection, driven by its event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from copy import copy
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from pydlm.cached.actions import Action, Outcome, Waiter
from pydlm.cached.driver import Driver
from pydlm.cached.kept import Kept
from pydlm.types import Event, Mode

if TYPE_CHECKING:
    from pydlm.aio.connection import Connection

__all__ = ["AsyncKeeper", "TaskWaiter"]

_log = logging.getLogger("pydlm")


class TaskWaiter(Waiter):
    """A task that waits for an outcome."""

    __slots__ = ("future", "told")

    def __init__(self, exclusive: bool = False, trying: bool = False) -> None:
        super().__init__(exclusive, trying)
        self.told: Outcome | BaseException | None = None
        self.future: asyncio.Future[None] | None = None

    def tell(self, outcome: Outcome | BaseException) -> None:
        """End the wait. Once only."""
        self.told = outcome
        future = self.future
        if future is not None and not future.done() and not future.get_loop().is_closed():
            future.set_result(None)

    def outcome(self) -> Outcome | None:
        """Return the outcome, or raise it; None: there is none yet."""
        if isinstance(self.told, BaseException):
            raise copy(self.told)
        return self.told


class AsyncKeeper(Driver):
    """The cached locks that are on a connection, beside its other locks."""

    def __init__(self, conn: Connection) -> None:
        super().__init__(conn.stack)
        self._conn = conn
        self._running: dict[Kept, asyncio.Task[None]] = {}  # on_drop

    def ask(self, kept: Kept, step: Callable[..., list[Action]], *args: Any) -> None:
        """Have a lock's machine take a step. Raises Closed, Forked."""
        self._conn.check_live()
        self._do(kept, step(*args))
        self._conn.pump()

    def left(self, gate: Any) -> None:
        """The last use of a kind has ended."""
        self._do(gate._kept, gate._kept.machine.ended())
        self._conn.pump()

    def take(self, event: Event) -> bool:
        """Act on an event; return whether it was for a lock that is kept here."""
        lkid = getattr(event, "lkid", 0)
        if lkid not in self._locks:
            return False
        self._route(event)
        return True

    def is_running(self, kept: Kept) -> bool:
        """Whether a lock's on_drop runs."""
        return kept in self._running

    def is_own_task(self, kept: Kept) -> bool:
        """Whether this is the task that a lock's on_drop runs in, which must not wait for it."""
        return self._running.get(kept, self) is asyncio.current_task()

    def run_on_drop(self, kept: Kept, mode: Mode) -> None:
        """Have a task of its own call a lock's on_drop."""
        task = self._conn.loop.create_task(self._call(kept, mode))
        self._running[kept] = task
        # Not in the task itself: one that is cancelled before it has begun does nothing at all.
        task.add_done_callback(lambda _: self._dropped(kept, mode))

    async def _call(self, kept: Kept, mode: Mode) -> None:
        try:
            found = kept.on_drop(kept.gate, mode)
            if isawaitable(found):
                await found
        except Exception:
            _log.exception(
                "on_drop of the cached lock on %r failed; it is let go all the same", kept.name
            )

    def _dropped(self, kept: Kept, mode: Mode) -> None:
        del self._running[kept]
        if self._conn.alive:
            self._do(kept, kept.machine.dropped(mode))
            self._conn.pump()

    def cut_off(self, error: Exception | None = None) -> None:
        """The connection ends: whoever waits gets `error`, or Closed."""
        for kept in list(self._locks.values()):
            if error is None:
                self._cut_off(kept)
            else:
                self._do(kept, kept.machine.lost(error))  # type: ignore[arg-type]
        self._locks.clear()
