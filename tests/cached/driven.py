"""A node whose keeper is driven by hand, step by step, in the test's own thread."""

from __future__ import annotations

from collections import deque
from typing import Any

from pydlm import Blocked, Completion, Mode
from pydlm._core import Mailbox
from pydlm.cached import CachedLock
from pydlm.cached.actions import Outcome, Waiter
from pydlm.cached.keeper import Keeper
from pydlm.contract import Stack
from pydlm.stacks.local import LocalStack
from pydlm.types import Event


class HandWaiter(Waiter):
    """Somebody who waits, without a thread."""

    __slots__ = ("outcome",)

    def __init__(self, exclusive: bool = False, trying: bool = False) -> None:
        super().__init__(exclusive, trying)
        self.outcome: Outcome | BaseException | None = None

    def tell(self, outcome: Outcome | BaseException) -> None:
        assert self.outcome is None, "told twice"
        self.outcome = outcome


class _Callbacks:
    """on_drop is called, and returns, when the test says so."""

    running = None

    def __init__(self) -> None:
        self.queued: list[Mode] = []

    def run(self, keeper: Any, kept: Any, mode: Mode) -> None:
        self.queued.append(mode)


class Node(Keeper):
    """One node with one cached lock; nothing happens on it but what the test asks for."""

    def __init__(self, lockspace: str, name: bytes = b"r", *, exclusion: bool = True) -> None:
        # Everything but the thread.
        self.stack: Stack = LocalStack.connect(lockspace, deadlock_wait=None)  # type: ignore[assignment]
        self.callbacks = _Callbacks()  # type: ignore[assignment]
        self._locks = {}
        self._error = None
        self.mail = Mailbox()
        self.post = self.mail.post
        self.events: deque[Event] = deque()
        self.asked: list[tuple[Any, ...]] = []
        self.lock = CachedLock(self, name, lambda lock, mode: None, exclusion, None)
        self.kept = self.lock._kept
        self.machine = self.kept.machine
        self.step("attach", HandWaiter())
        self.deliver_all()

    def step(self, name: str, *args: Any) -> None:
        self._do(self.kept, getattr(self.machine, name)(*args))

    def want(self, exclusive: bool, trying: bool = False) -> HandWaiter:
        waiter = HandWaiter(exclusive, trying)
        self.step("want", waiter)
        return waiter

    def end(self, exclusive: bool) -> None:
        """End a use; what the gate posts is read at once."""
        use = self.lock.exclusive() if exclusive else self.lock.shared()
        use.__exit__(None, None, None)
        self.read()

    def read(self) -> None:
        while messages := self.mail.take():
            for message in messages:
                self._read(message)

    def fetch(self) -> int:
        """Read the stack's events, without handing them out."""
        self.events.extend(e for e in self.stack.dispatch() if isinstance(e, Blocked | Completion))
        return len(self.events)

    def deliver(self) -> bool:
        """Hand out one event."""
        if not self.fetch():
            return False
        self._route(self.events.popleft())
        return True

    def deliver_all(self) -> None:
        while self.deliver():
            pass

    def dropped(self) -> bool:
        """Have on_drop return, if it was called."""
        if not self.callbacks.queued:  # type: ignore[attr-defined]
            return False
        self.step("dropped", self.callbacks.queued.pop(0))  # type: ignore[attr-defined]
        return True

    def _ask_stack(self, kept: Any, action: Any) -> None:
        self.asked.append(action)
        super()._ask_stack(kept, action)

    def took(self) -> list[Any]:
        """What the stack was asked since the last call."""
        asked, self.asked = self.asked, []
        return asked
