"""What one node does: take the lock, look, count up. The same in a thread as in a process."""

from __future__ import annotations

from enum import Enum
from time import sleep
from typing import Final, NamedTuple

from pydlm.cli.torture.block import block_of, counter_of
from pydlm.contract import Lock
from pydlm.errors import LVBInvalid
from pydlm.lockspace import Lockspace
from pydlm.types import Mode

__all__ = ["RESOURCE", "Answer", "Order", "Player", "Role", "Wrong"]

RESOURCE: Final = "counter"


class Role(Enum):
    """What a node is told to do in one step of an iteration."""

    WRITE = "write"  #: take EX, check that the value is the last one, count up
    RACE = "race"  #: take PR while another node writes: the last value, or already the next
    READ = "read"  #: take PR after the write: exactly that value


class Order(NamedTuple):
    """One step for one node."""

    iteration: int  #: the value that this iteration writes
    role: Role


class Wrong(NamedTuple):
    """A value that must not be, and whom it was shown to."""

    node: int
    iteration: int
    role: str
    expected: str
    found: str

    def __str__(self) -> str:
        return (
            f"node {self.node}, iteration {self.iteration} ({self.role}): "
            f"expected {self.expected}, found {self.found}"
        )


class Answer(NamedTuple):
    """How an order went."""

    wrong: Wrong | None
    waited_for: bool  #: somebody waited for the lock when it was given up


class Player:
    """One node: one connection, one handle on the one resource."""

    def __init__(self, number: int, lockspace: Lockspace) -> None:
        self.number = number
        self.lock: Lock = lockspace.lock(RESOURCE)
        self.size = lockspace.lvb_len
        self.seen = 0  # the highest value this node has read or written

    def play(self, order: Order) -> Answer:
        """Carry out one order; return what was wrong with the value found."""
        mode = Mode.EX if order.role is Role.WRITE else Mode.PR
        self.lock.acquire(mode=mode)
        try:
            wrong = self._check(order)
            if wrong is None and order.role is Role.WRITE:
                self.write(order.iteration)
            if order.role is not Role.READ:
                sleep(0)  # gives the GIL away, or else no thread would ever come while it is held
            waited_for = self.lock.blocked is not None
        finally:
            self.lock.release()
        return Answer(wrong, waited_for)

    def write(self, counter: int) -> None:
        """Publish `counter`; called while the lock is held in EX."""
        self.lock.lvb = block_of(counter, self.size)
        self.seen = counter

    def _check(self, order: Order) -> Wrong | None:
        last, this = order.iteration - 1, order.iteration
        allowed = {Role.WRITE: (last,), Role.RACE: (last, this), Role.READ: (this,)}[order.role]
        # What a node has seen once, it must never see taken back.
        allowed = tuple(value for value in allowed if value >= self.seen) or allowed
        try:
            block = self.lock.lvb
        except LVBInvalid:
            return self._wrong(order, allowed, "an invalid block")
        value = counter_of(block)
        if value is None:
            return self._wrong(order, allowed, f"a block that is not whole: {block.hex()}")
        if value not in allowed:
            return self._wrong(order, allowed, str(value))
        self.seen = value
        return None

    def _wrong(self, order: Order, allowed: tuple[int, ...], found: str) -> Wrong:
        expected = " or ".join(map(str, allowed))
        return Wrong(self.number, order.iteration, order.role.value, expected, found)
