"""The cached locks of one connection, and the thread that keeps them.

It alone drives their state machines and calls the stack, so neither needs a lock, and no signal
handler can strike between two steps of either: Python runs those in the main thread. Users leave
messages; where they wait, they wait for the answer.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from functools import partial
from typing import Any

from pydlm._core import Mailbox
from pydlm.cached.actions import Action, Outcome
from pydlm.cached.callbacks import Callbacks
from pydlm.cached.driver import NEEDED, Driver
from pydlm.cached.kept import Kept, ThreadWaiter
from pydlm.cached.worker import Worker
from pydlm.contract import Stack
from pydlm.errors import Closed, DlmError
from pydlm.types import Mode

__all__ = ["NEEDED", "Keeper"]

_log = logging.getLogger("pydlm")


#: How often a lock is dropped again, at the end, that an on_drop of another lock has used.
_ROUNDS = 10


class _Job(ThreadWaiter):
    """Something that is done in the keeper's thread while another waits for it."""

    __slots__ = ("_work", "failed", "found")

    def __init__(self, work: Callable[[], list[Any]]) -> None:
        super().__init__()
        self._work = work
        self.found: list[Any] = []
        self.failed: BaseException | None = None  #: there is no keeper to do it

    def do(self) -> None:
        """Called by the keeper."""
        try:
            self.found = self._work()
        finally:
            self.tell(Outcome.DONE)


class Keeper(Driver):
    """One client of the lockspace, with the cached locks that are on it."""

    def __init__(
        self,
        connect: Callable[[], Stack],
        forget: Callable[[Any], object],
        unmade: Callable[[Keeper], object],
    ) -> None:
        # The rest in the thread, once it has connected.
        #: Called by a lock that is closed.
        self.forget = forget
        self._connect = connect
        self._unmade = unmade  # called if that fails
        #: No use may begin any more but those of an on_drop.
        self.closing = False
        self.connected = False
        self._unbegun: BaseException | None = None  # why it never will be
        self.callbacks = Callbacks()
        #: Messages to the thread: a gate, a lock's machine with a step, or a job.
        self.mail = Mailbox()
        self.post = self.mail.post
        self._worker = Worker(self._keep, "pydlm-cached")

    # What users' threads call.

    def begin(self) -> None:
        """Return when it is connected; raises what `connect` raised, Unsupported, Closed.

        A thread of its own connects, which no signal handler strikes: nothing is left half made.
        """
        if self.connected:
            return
        self._worker.start()
        asked = _Job(list)
        if not self.post(asked):
            raise self._unbegun or Closed("the connection to the lockspace is closed")
        asked.wait()
        if asked.failed is not None:
            raise asked.failed

    def ask(self, kept: Kept, step: Callable[..., list[Action]], *args: Any) -> None:
        """Have a lock's machine take a step. Raises Closed."""
        if not self.post((kept, step, args)):
            raise self._error or Closed("the connection to the lockspace is closed")

    def let_all_go(self) -> list[BaseException]:
        """Drop all locks, then unlock them; return what went wrong. May be called again.

        Uses under way are not waited for. First come the locks with on_drop, one after the other,
        because until they are through an on_drop may still use other locks: so what it leaves in
        them is published, and they are dropped once more if they have an on_drop themselves.
        """
        self.closing = True
        failed: list[BaseException] = []
        if not self.connected:
            return failed
        self._see_to(self._turn_away, failed)
        for _ in range(_ROUNDS):
            owing = self._see_to(self._owing, failed)
            if not owing:
                break
            for kept in owing:
                self._see_to(partial(self._step, kept, kept.machine.let_go), failed)
        self._see_to(self._close_all, failed)
        return failed

    def _see_to(self, work: Callable[[], list[Any]], failed: list[BaseException]) -> list[Any]:
        """Have the thread do `work`, wait for whom it returns; return the others it returns."""
        asked = _Job(work)
        if not self.post(asked):
            return []
        asked.wait()
        for waiter in asked.found:
            if isinstance(waiter, ThreadWaiter):
                try:
                    waiter.wait()
                except Closed:
                    pass
                except DlmError as error:
                    failed.append(error)
        return asked.found

    def is_own_thread(self) -> bool:
        """Whether this thread must not wait for answers, as they might wait for it."""
        return self.is_keeping() or self.callbacks.is_own_thread()

    def is_keeping(self) -> bool:
        """Whether this is the keeper's thread: a finalizer, as Python runs them anywhere."""
        return self._worker.is_current()

    def stop(self) -> None:
        """Leave the lockspace: whoever waits gets Closed. Idempotent."""
        self.post(None)
        if not self._worker.end():
            self._refuse(Closed("the connection to the lockspace is closed"))
        self.callbacks.stop()
        if self.connected:
            self.stack.disconnect()

    # The thread.

    def _keep(self) -> None:
        try:
            stack = self._connect()
            try:
                super().__init__(stack)
            except BaseException:
                stack.disconnect()
                raise
        except BaseException as error:
            self._unmade(self)
            self._refuse(error)
            return
        self.connected = True
        try:
            self._serve()
        except BaseException as error:
            failed = DlmError(f"the keeper of cached locks has failed: {error!r}")
            self._error = error if isinstance(error, DlmError) else failed
            with contextlib.suppress(BaseException):  # whatever handlers of logging do
                _log.exception("the cached locks on stack %r are lost", self.stack.name)
        finally:
            for message in self.mail.close():
                with contextlib.suppress(Exception):
                    self._read(message)
            for kept in list(self._locks.values()):
                with contextlib.suppress(Exception):
                    self._cut_off(kept)

    def _refuse(self, error: BaseException) -> None:
        """Nobody serves, or will: tell those who wait for the beginning."""
        self._unbegun = error
        for message in self.mail.close():
            if isinstance(message, _Job):
                message.failed = error
                message.tell(Outcome.DONE)

    def _serve(self) -> None:
        over = False
        while not over:
            self.mail.wait(self.stack.fileno())
            # Requests are often granted at once: look again before going to sleep.
            busy = True
            while busy and not over:
                busy = False
                for message in self.mail.take():
                    busy = True
                    over = over or message is None
                    self._read(message)  # also after the last: somebody may wait for the answer
                for event in self.stack.dispatch():
                    busy = True
                    self._route(event)

    def _turn_away(self) -> list[Any]:
        for kept in list(self._locks.values()):
            self._do(kept, kept.machine.turn_away(lambda w: getattr(w, "in_on_drop", False)))
        return []

    def _owing(self) -> list[Any]:
        """Return the locks with an on_drop that can be run now."""
        return [
            kept
            for kept in self._locks.values()
            if kept.machine.tell
            and kept.machine.level > Mode.NL
            and not kept.machine.closed
            and not (kept.gate.exclusive_uses or kept.gate.shared_uses)
        ]

    def _close_all(self) -> list[Any]:
        found = []
        for kept in list(self._locks.values()):
            if not kept.machine.gone:
                found += self._step(kept, kept.machine.close)
        return found

    def _step(self, kept: Kept, step: Callable[[ThreadWaiter], list[Action]]) -> list[Any]:
        waiter = ThreadWaiter()
        self._do(kept, step(waiter))
        return [waiter]

    def _read(self, message: Any) -> None:
        if isinstance(message, _Job):
            message.do()
        elif isinstance(message, tuple):
            kept, step, args = message
            self._do(kept, step(*args))
        elif message is not None:  # a gate: its last use of a kind has ended
            kept = message._kept
            self._do(kept, kept.machine.ended())

    def run_on_drop(self, kept: Kept, mode: Mode) -> None:
        """Have a thread of its own call a lock's on_drop."""
        self.callbacks.run(self, kept, mode)
