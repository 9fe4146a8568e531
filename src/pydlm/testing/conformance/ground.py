"""What the checks stand on: two connections to one lockspace, and calls that wait in threads."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from pydlm.contract import Lock
from pydlm.errors import DlmError
from pydlm.lockspace import Lockspace, connect
from pydlm.types import Completion, LockFlag, Mode

__all__ = [
    "CHECKS",
    "PATIENCE",
    "SOON",
    "Call",
    "Check",
    "Ground",
    "NotConforming",
    "check",
    "expect",
    "expect_error",
]

#: Seconds after which something that should have happened has not.
PATIENCE: Final = 20.0

#: Seconds for which something is waited for that should not happen.
SOON: Final = 0.05


class NotConforming(AssertionError):
    """A stack does otherwise than a check says."""


class Call:
    """A call that may wait, in a thread of its own."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self._value: Any = None
        self._error: BaseException | None = None

        def run() -> None:
            try:
                self._value = call()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, name="conformance", daemon=True)
        self._thread.start()

    def result(self, patience: float = PATIENCE) -> Any:
        """Return what it returned, or raise what it raised."""
        self._thread.join(patience)
        if self._thread.is_alive():
            raise NotConforming("a call that should have ended still waits")
        if self._error is not None:
            raise self._error
        return self._value


class Ground:
    """Two connections, `a` and `b`, to one lockspace; each check has resources of its own."""

    def __init__(self, stacks: Sequence[str], lockspace: str) -> None:
        self._stacks = stacks
        self._lockspace = lockspace
        self._spaces: list[Lockspace] = []
        self._locks: list[Lock] = []
        self._names = 0
        try:
            self.a, self.b = self.connect(0), self.connect(1)
        except BaseException:
            self.close()
            raise

    def connect(self, which: int) -> Lockspace:
        """Make another connection, beside `a` (0) or `b` (1)."""
        self._spaces.append(connect(self._lockspace, self._stacks[which % len(self._stacks)]))
        return self._spaces[-1]

    def name(self) -> bytes:
        """Return the name of a resource that nobody has used."""
        self._names += 1
        return b"check-%d" % self._names

    def locks(self, name: bytes) -> tuple[Lock, Lock]:
        """Open a lock on a resource by `a`, and one by `b`."""
        pair = self.a.lock(name), self.b.lock(name)
        self._locks += pair  # a check that fails leaves them held
        return pair

    def close(self) -> None:
        """Close all connections: what still waits ends with Closed."""
        for space in self._spaces:
            space.close()

    def until(self, holds: Callable[[], object], what: str) -> None:
        """Wait until something is so."""
        give_up = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > give_up:
                raise NotConforming(f"waited in vain: {what}")
            time.sleep(0.001)

    def waiting(self, lock: Any, call: Callable[[], Any]) -> Call:
        """Begin a call that has to wait for `lock`; return once it does."""
        begun = Call(call)
        self.until(lambda: lock.requested is not None, "a request that waits")
        return begun

    def completion(self, space: Lockspace, lkid: int) -> Completion:
        """Return how a request by the verbs of the stack ended."""
        give_up = time.monotonic() + PATIENCE
        while time.monotonic() < give_up:
            select.select([space], [], [], give_up - time.monotonic())
            for event in space.dispatch():
                if isinstance(event, Completion) and event.lkid == lkid:
                    return event
        raise NotConforming(f"no completion of request {lkid} came")

    def take(self, space: Lockspace, name: bytes, mode: Mode, flags: LockFlag) -> int:
        """Take a lock by the verbs of the stack; return its lkid."""
        lkid = space.stack.lock(name, mode, flags)
        expect(self.completion(space, lkid).status, 0, "the status of a lock that is free")
        return lkid


class Check(NamedTuple):
    """One thing that every stack does which can do what it `needs`."""

    name: str
    run: Callable[[Ground], None]
    needs: frozenset[str]  #: capabilities; without them it does not apply
    lacks: frozenset[str]  #: with any of them it does not apply

    def applies(self, ground: Ground) -> bool:
        """Return whether a stack that can do what this one can has to pass."""
        can = ground.a.capabilities & ground.b.capabilities
        return self.needs <= can and not self.lacks & can


#: All of them, in order.
CHECKS: list[Check] = []


def check(*needs: str, lacks: str = "") -> Callable[[Callable[[Ground], None]], None]:
    """Make a function one of the `CHECKS`."""

    def add(run: Callable[[Ground], None]) -> None:
        name = run.__name__.lstrip("_")
        CHECKS.append(Check(name, run, frozenset(needs), frozenset(lacks.split())))

    return add


def expect(got: object, wanted: object, what: str) -> None:
    """Raise NotConforming unless it is so."""
    if got != wanted:
        raise NotConforming(f"{what} is {got!r}, not {wanted!r}")


def expect_error(kind: type[Exception], call: Callable[[], object], what: str) -> None:
    """Raise NotConforming unless the call raises that."""
    try:
        call()
    except kind:
        return
    except DlmError as error:
        raise NotConforming(f"{what} raises {error!r}, not {kind.__name__}") from error
    raise NotConforming(f"{what} raises nothing; it has to raise {kind.__name__}")
