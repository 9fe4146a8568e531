"""A domain: one connection to a lockspace, with the locks that its files stand for."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pydlm.cached.actions import Action, Outcome, Waiter
from pydlm.cached.driver import Driver
from pydlm.cached.kept import Kept
from pydlm.contract import Stack
from pydlm.errors import DlmError, LockLost
from pydlm.types import Event, Mode

__all__ = ["Domain", "Uses", "Wait", "lockspace_name"]

_log = logging.getLogger("pydlm")


def lockspace_name(domain: bytes) -> str:
    """Return what a domain's lockspace is called.

    The same, but for a leading dot, which no lockspace has: ``%2E``; and so ``%25`` for ``%``.
    Raises UnicodeDecodeError.
    """
    name = domain.decode()
    return f"%{ord(name[0]):02X}{name[1:]}" if name[:1] in (".", "%") else name


class Uses:
    """Who has a lock open; the state machine's counters. Nobody on a mount excludes others."""

    __slots__ = ("exclusive_uses", "shared_uses", "to_exclusive", "to_shared", "watched")

    exclusion = False

    def __init__(self) -> None:
        self.shared_uses = self.exclusive_uses = 0
        self.to_shared = self.to_exclusive = self.watched = False

    def allow(self, shared: bool, exclusive: bool, watched: bool) -> None:
        """Say which uses may begin at once, and whether the machine wants to know of the end."""
        self.to_shared, self.to_exclusive, self.watched = shared, exclusive, watched

    def admit(self, exclusive: bool) -> None:
        """Count a use."""
        if exclusive:
            self.exclusive_uses += 1
        else:
            self.shared_uses += 1

    def dismiss(self, exclusive: bool) -> None:
        """Count a use off."""
        if exclusive:
            self.exclusive_uses -= 1
        else:
            self.shared_uses -= 1

    def pass_(self, exclusive: bool) -> bool:
        """Count a use if it may begin at once; return whether it has."""
        if self.to_exclusive if exclusive else self.to_shared:
            self.admit(exclusive)
            return True
        return False

    def leave(self, exclusive: bool) -> bool:
        """Count a use off; return whether the machine wants to know."""
        self.dismiss(exclusive)
        return self.watched and not (self.exclusive_uses if exclusive else self.shared_uses)


class Wait(Waiter):
    """Whoever waits for a step of a lock to be through. Derive from it: `ended`."""

    __slots__ = ("_told",)

    def __init__(self, domain: Domain, exclusive: bool = False, trying: bool = False) -> None:
        super().__init__(exclusive, trying)
        self._told = domain.told

    def tell(self, outcome: Outcome | BaseException) -> None:
        """End the wait."""
        self._told.append((self, outcome))

    def ended(self, outcome: Outcome | BaseException) -> None:
        """Called once, after the step."""


class Domain(Driver):
    """The locks of one domain. Everything is done in one thread."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        #: What waits have ended with, until `settle` tells them.
        self.told: list[tuple[Wait, Outcome | BaseException]] = []
        #: Why the stack is of no use any more.
        self.failure: DlmError | None = None

    @property
    def size(self) -> int:
        """Bytes in a lock's file: the lock value block."""
        return self.stack.lvb_len if "lvb" in self.stack.capabilities else 0

    def step(self, kept: Kept, actions: list[Action]) -> None:
        """Carry out what a lock's machine says."""
        self._do(kept, actions)

    def settle(self) -> None:
        """Take what the stack tells, and tell those who have waited for it, until it is quiet."""
        while True:
            events: Sequence[Event] = ()
            if self.failure is None:
                try:
                    events = self.stack.dispatch()
                except DlmError as error:
                    self._fail(error)
            for event in events:
                self._route(event)
            if not self._tell() and not events:
                return

    def _fail(self, error: DlmError) -> None:
        """The stack is of no use any more: all locks are lost."""
        _log.error("the locks of a domain on stack %r are lost: %s", self.stack.name, error)
        self.failure = error
        for kept in list(self._locks.values()):
            self._do(kept, kept.machine.lost(LockLost(f"the stack has failed: {error}")))

    def _tell(self) -> bool:
        told = self.told[:]
        self.told.clear()
        for wait, outcome in told:
            wait.ended(outcome)
        return bool(told)

    def let_go(self) -> None:
        """Before the stack is disconnected: publish what idle locks have, end all waits."""
        for kept in list(self._locks.values()):
            self._cut_off(kept)
        self._tell()

    def run_on_drop(self, kept: Kept, mode: Mode) -> None:
        """Never asked for: no lock here has an on_drop."""
        raise AssertionError(f"{kept.name!r} has no on_drop to be told of {mode}")
