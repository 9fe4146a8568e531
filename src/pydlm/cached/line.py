"""Those who wait for a use of one cached lock to begin, first come, first served."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from pydlm.cached.actions import Waiter
from pydlm.types import Mode

__all__ = ["Line", "needs"]


def needs(waiter: Waiter) -> Mode:
    """Return the level that the use needs."""
    return Mode.EX if waiter.exclusive else Mode.PR


class Line:
    """Waiters in order, and how many there are of each kind, so that nobody need walk it."""

    def __init__(self) -> None:
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._patient = [0, 0]  # for shared and for exclusive uses
        #: How many only try.
        self.trying = 0
        #: How many have been promised a use.
        self.promised = 0

    def __len__(self) -> int:
        return len(self._waiters)

    def __iter__(self) -> Iterator[Waiter]:
        return iter(self._waiters)

    def __contains__(self, waiter: Waiter) -> bool:
        return waiter in self._waiters

    @property
    def readers(self) -> int:
        """How many wait for a shared use, and do not only try."""
        return self._patient[False]

    @property
    def need(self) -> Mode:
        """The level that those need who do not only try; NL if there are none."""
        return Mode.EX if self._patient[True] else Mode.PR if self._patient[False] else Mode.NL

    def add(self, waiter: Waiter) -> None:
        """Put one at the end."""
        self._waiters[waiter] = None
        self._count(waiter, 1)

    def remove(self, waiter: Waiter) -> None:
        """Take one out, wherever it stands."""
        del self._waiters[waiter]
        self._count(waiter, -1)
        if waiter.promised:
            waiter.promised = False
            self.promised -= 1

    def promise(self, waiter: Waiter) -> None:
        """Have one go before those who want the lock elsewhere."""
        waiter.promised = True
        self.promised += 1

    def _count(self, waiter: Waiter, n: int) -> None:
        if waiter.trying:
            self.trying += n
        else:
            self._patient[waiter.exclusive] += n
