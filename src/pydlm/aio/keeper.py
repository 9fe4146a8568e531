"""The cached locks of a connection, driven by its event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from copy import copy
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from pydlm.cached.actions import Action, Outcome, Waiter
from pydlm.cached.driver import Driver
from pydlm.cached.kept import Kept
from pydlm.errors import Closed, DlmError
from pydlm.types import Event, Mode

if TYPE_CHECKING:
    from pydlm.aio.connection import Connection

__all__ = ["AsyncKeeper", "TaskWaiter"]

_log = logging.getLogger("pydlm")

#: How often a lock is dropped again, at the end, that an on_drop of another lock has used.
_ROUNDS = 10


class TaskWaiter(Waiter):
    """A task that waits for an outcome."""

    __slots__ = ("future", "in_on_drop", "told")

    def __init__(
        self, exclusive: bool = False, trying: bool = False, *, in_on_drop: bool = False
    ) -> None:
        super().__init__(exclusive, trying)
        self.in_on_drop = in_on_drop  #: of this lock or of another one
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


class _Run:
    """One call of a lock's on_drop."""

    __slots__ = ("kept", "task")

    def __init__(self, kept: Kept) -> None:
        self.kept = kept
        self.task: asyncio.Task[None] | None = None  # not yet: a loop may begin it while making it


#: The run that the code is part of: an on_drop, or any task that it has made, as `wait_for` and
#: `gather` do.
_run: ContextVar[_Run | None] = ContextVar("pydlm_on_drop", default=None)


class AsyncKeeper(Driver):
    """The cached locks that are on a connection, beside its other locks."""

    def __init__(self, conn: Connection) -> None:
        super().__init__(conn.stack)
        self._conn = conn
        self._running: dict[Kept, _Run] = {}
        #: No use may begin any more but those of an on_drop.
        self.closing = False
        #: And no on_drop.
        self.over = False

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

    def current(self) -> Kept | None:
        """Return the lock whose on_drop, or a task of that, asks: it must not wait for it."""
        run = _run.get()
        if run is None or self._running.get(run.kept) is not run:
            return None
        return None if run.task is not None and run.task.done() else run.kept

    def run_on_drop(self, kept: Kept, mode: Mode) -> None:
        """Have a task of its own call a lock's on_drop."""
        if self.over or self._conn.loop.is_closed():
            return  # QUEUED until the end, which takes it as not run
        run = self._running[kept] = _Run(kept)
        run.task = self._conn.loop.create_task(self._call(run, kept, mode))
        # Not in the task itself: one that is cancelled before it has begun does nothing at all.
        run.task.add_done_callback(lambda task: self._dropped(task, kept, mode))

    async def _call(self, run: _Run, kept: Kept, mode: Mode) -> None:
        _run.set(run)
        try:
            found = kept.on_drop(kept.gate, mode)
            if isawaitable(found):
                await found
        except Exception:
            _log.exception(
                "on_drop of the cached lock on %r failed; it is let go all the same", kept.name
            )

    def _dropped(self, task: asyncio.Task[None], kept: Kept, mode: Mode) -> None:
        del self._running[kept]
        if self._conn.alive:
            if task.cancelled():
                _log.error(
                    "on_drop of the cached lock on %r was cancelled; it is let go all the same",
                    kept.name,
                )
            self._do(kept, kept.machine.dropped(mode))
            self._conn.pump()

    # The end.

    async def let_all_go(self) -> list[DlmError]:
        """Drop all locks, then unlock them; return what went wrong. May be called again.

        Uses under way are not waited for. First come the locks with on_drop, because until they are
        through an on_drop may still use other locks: so what it leaves in them is published, and
        they are dropped once more if they have an on_drop themselves.
        """
        self.closing = True
        failed: list[DlmError] = []
        for kept in list(self._locks.values()):
            self._do(kept, kept.machine.turn_away(lambda w: getattr(w, "in_on_drop", False)))
        for _ in range(_ROUNDS):
            owing = [kept for kept in self._locks.values() if self._owes(kept)]
            if not owing:
                break
            await self._see_through([(k, k.machine.let_go) for k in owing], failed)
        rest = [kept for kept in self._locks.values() if not kept.machine.gone]
        await self._see_through([(k, k.machine.close) for k in rest], failed)
        return failed

    @staticmethod
    def _owes(kept: Kept) -> bool:
        """Return whether a lock has an on_drop that can be run now."""
        machine, gate = kept.machine, kept.gate
        used = gate.exclusive_uses or gate.shared_uses
        return machine.tell and machine.level > Mode.NL and not machine.closed and not used

    async def _see_through(
        self,
        steps: Iterable[tuple[Kept, Callable[[Waiter], list[Action]]]],
        failed: list[DlmError],
    ) -> None:
        waiters = []
        for kept, step in steps:
            waiter = TaskWaiter()
            waiter.future = self._conn.new_future()
            waiters.append(waiter)
            self._do(kept, step(waiter))
        self._conn.pump()
        for waiter in waiters:
            if waiter.told is None:
                assert waiter.future is not None
                await waiter.future
            try:
                waiter.outcome()
            except Closed:
                pass
            except DlmError as error:
                failed.append(error)

    def cut_off(self, error: Exception | None = None) -> None:
        """The connection ends: whoever waits gets `error`, or Closed."""
        for kept in list(self._locks.values()):
            if error is None:
                self._cut_off(kept)
            else:
                self._do(kept, kept.machine.lost(error))  # type: ignore[arg-type]
        self._locks.clear()
