"""The words between a cached lock's state machine and whoever drives it."""

from __future__ import annotations

from enum import Enum, Flag, auto
from typing import NamedTuple, Protocol

from pydlm.types import Mode

__all__ = [
    "Action",
    "Attach",
    "Cancel",
    "Counters",
    "Down",
    "Outcome",
    "RunOnDrop",
    "State",
    "Unlock",
    "Up",
    "Waiter",
    "Wake",
]


class State(Flag):
    """userdlm's flags."""

    NONE = 0
    ATTACHED = auto()
    BUSY = auto()
    BLOCKED = auto()
    IN_CANCEL = auto()
    QUEUED = auto()
    IN_TEARDOWN = auto()


class Outcome(Enum):
    """How a wait ended, where not by an error."""

    DONE = auto()  #: the use has begun; or what was asked for is through
    NOT_AT_ONCE = auto()
    EXPIRED = auto()


class Waiter:
    """Somebody who waits for a use to begin, or for the lock to be let go."""

    __slots__ = ("admitted", "exclusive", "promised", "trying")

    def __init__(self, exclusive: bool = False, trying: bool = False) -> None:
        self.exclusive = exclusive
        self.trying = trying  #: does not wait for the lock manager
        self.promised = False  #: the lock was converted up for it: goes before who is blocked
        self.admitted = False

    def tell(self, outcome: Outcome | BaseException) -> None:
        """Take note of how the wait ended; called once, for each `Wake`."""
        raise NotImplementedError


class Attach(NamedTuple):
    """Make the lock, in NL, past everybody who waits."""


class Up(NamedTuple):
    """Convert up to `mode`, behind those who convert already; or not at all if `at_once`."""

    mode: Mode
    at_once: bool


class Down(NamedTuple):
    """Convert down to `mode`, and publish the lock value block."""

    mode: Mode


class Cancel(NamedTuple):
    """Take the conversion back."""


class Unlock(NamedTuple):
    """Give the lock up, and publish the lock value block."""


class RunOnDrop(NamedTuple):
    """Call on_drop with `mode`, then `dropped`."""

    mode: Mode


class Wake(NamedTuple):
    """Tell a waiter how its wait ended."""

    waiter: Waiter
    outcome: Outcome | BaseException


Action = Attach | Up | Down | Cancel | Unlock | RunOnDrop | Wake


class Counters(Protocol):
    """Who uses the lock: :class:`pydlm._core.Gate`."""

    @property
    def exclusion(self) -> bool:
        """Whether exclusive uses exclude others on this node."""
        ...

    @property
    def shared_uses(self) -> int:
        """How many are under way."""
        ...

    @property
    def exclusive_uses(self) -> int:
        """How many are under way."""
        ...

    def allow(self, shared: bool, exclusive: bool, watched: bool) -> None:
        """Say which uses may begin without `want`, and whether `ended` is to be called."""
        ...

    def admit(self, exclusive: bool) -> None:
        """Count a use."""
        ...

    def dismiss(self, exclusive: bool) -> None:
        """Count a use off, without `ended`."""
        ...
