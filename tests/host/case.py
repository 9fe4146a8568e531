"""An operation in the midst of which a process is killed, at every point there is."""

from __future__ import annotations

import signal
from typing import Any

import pytest
from tests.host.machine import Host
from tests.host.processes import PATIENCE, Child

import pydlm
from pydlm import Lockspace, LVBInvalid, _core

#: Of each file with cases.
MARKS = [
    pytest.mark.crash,
    pytest.mark.skipif(not _core.CRASH_BUILD, reason="needs a build with PYDLM_CRASH=1"),
    pytest.mark.timeout(600),
]

OLD, NEW, LAST = (bytes([n]) * 64 for n in (1, 2, 3))


class Case:
    """An operation, and what it is done in the midst of. Subclasses say what."""

    capacity = 255
    anywhere = False  # points of the helper thread count too
    values = (OLD,)  # what the block may be afterwards
    may_invalidate = False

    def __init__(self, host: Host) -> None:
        self.host = host
        self.ls = host.connect(capacity=self.capacity)
        self.lk = self.ls.lock("x")
        with self.lk:
            self.lk.lvb = OLD
        self.once()
        self.before = host.state(self.ls)

    def once(self) -> None:
        """Prepare the parent, once."""

    def setup(self) -> None:
        """Prepare the parent, before each victim starts."""

    def prepare(self, ls: Lockspace) -> Any:
        """In the victim: come to where the operation begins."""

    def ready(self) -> None:
        """In the parent: the victim is there."""

    def act(self, ls: Lockspace, it: Any) -> None:
        """In the victim: the operation."""

    def check(self) -> None:
        """In the parent: the victim has died, or done it and died."""

    # How it goes.

    def all_points(self) -> int:
        """Go through all points; return how many there are."""
        n = 1
        while not self.run(n):
            n += 1
        return n - 1

    def victim(self, me: Child, n: int) -> None:
        ls = pydlm.connect(self.host.name, stack=self.host.stack)
        it = self.prepare(ls)
        me.say("ready")
        me.hear()
        _core.crash_at(n, anywhere=self.anywhere)
        self.act(ls, it)
        _core.crash_at(0)
        me.say(n)
        me.hear()

    def run(self, n: int) -> bool:
        """Kill one at point `n`; return whether there was no such point."""
        self.setup()
        child = self.host.child(lambda me: self.victim(me, n))
        self.start(child)
        try:
            child.hear()
            survived = True
        except EOFError:
            survived = False
        assert child.end() == -signal.SIGKILL
        self.host.children.remove(child)
        self.check()
        self.settle()
        return survived

    def start(self, child: Child) -> None:
        assert child.hear() == "ready"
        self.ready()
        child.say()

    def buried(self) -> None:
        """Wait until the victim's connection is gone, so that nothing is granted to it any more."""
        self.host.until(lambda: self.host.state(self.ls)[2:] == self.before[2:], "the burial")

    def settle(self) -> None:
        self.host.until(lambda: self.host.state(self.ls) == self.before, f"{self.before}")
        assert self.lk.acquire(timeout=PATIENCE)
        try:
            assert self.lk.lvb in self.values
        except LVBInvalid:
            assert self.may_invalidate
        self.lk.lvb = OLD
        self.lk.release()
        self.ls.stack.arena.check()  # type: ignore[attr-defined]
        assert self.host.state(self.ls) == self.before


def survive_every_point(case: type[Case], host: Host, record_property: Any) -> None:
    """Run the case; say how many points it has, which are not as few as if none were met."""
    points = case(host).all_points()
    record_property("points", points)
    assert points > 3
