"""What the keeper has of one cached lock, and of one thread that waits."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from pydlm._core import Bell
from pydlm.blocking.block import Block
from pydlm.blocking.reader import EventFd
from pydlm.cached.actions import Counters, Outcome, Waiter
from pydlm.cached.state import StateMachine
from pydlm.contract import Stack
from pydlm.types import Mode

__all__ = ["Kept", "ThreadWaiter"]


class ThreadWaiter(Waiter):
    """A thread that waits for an answer of the keeper's."""

    __slots__ = ("_bell", "_outcome", "in_on_drop")

    def __init__(
        self, exclusive: bool = False, trying: bool = False, *, in_on_drop: bool = False
    ) -> None:
        super().__init__(exclusive, trying)
        self.in_on_drop = in_on_drop  #: of this lock or of another one
        self._outcome: Outcome | BaseException | None = None
        self._bell = Bell()

    def tell(self, outcome: Outcome | BaseException) -> None:
        """End the wait. Once only."""
        self._outcome = outcome
        self._bell.ring()

    def wait(self, seconds: float | None = None) -> Outcome | None:
        """Return the outcome, or raise it; None: it did not come in time."""
        if not self._bell.wait(-1 if seconds is None else max(0.0, seconds)):
            return None
        if isinstance(self._outcome, BaseException):
            raise copy(self._outcome)
        return self._outcome


class Kept:
    """A cached lock on its stack. All but `block` and `descriptor` is the keeper's to change."""

    def __init__(
        self,
        gate: Counters,
        name: bytes,
        stack: Stack,
        on_drop: Callable[[Any, Mode], object] | None,
    ) -> None:
        self.gate = gate
        self.name = name
        self.lkid = 0
        #: The block has been written since we have the lock, so that its loss will be reported.
        self.marked = False
        self.block = Block(stack)
        self.machine = StateMachine(gate, tell=on_drop is not None)
        self.descriptor: EventFd | None = None
        self._shown = False
        self._on_drop = on_drop

    def on_drop(self, gate: Counters, mode: Mode) -> object:
        """Call the user's callback; return what it returns."""
        return None if self._on_drop is None else self._on_drop(gate, mode)

    def show_blocked(self) -> None:
        """Make the descriptor say whether the lock is in somebody's way; close it at the end."""
        if self.descriptor is None:
            return
        if self.machine.gone:
            self.descriptor.close()
            self.descriptor = None
            return
        blocked = self.machine.blocking > Mode.NL
        if blocked != self._shown:
            self._shown = blocked
            self.descriptor.show(blocked)
