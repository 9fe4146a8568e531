"""As test_crash_points.py, for joining, leaving, clearing up after the dead, and deadlocks."""

from __future__ import annotations

import os
import select
import signal
from typing import Any

import pytest
from tests.host.case import MARKS, NEW, OLD, Case, survive_every_point
from tests.host.machine import Host
from tests.host.processes import PATIENCE, Child

import pydlm
from pydlm import DeadlockError, LockFlag, Lockspace, Mode, NodeDown, _core

pytestmark = MARKS


def test_every_point_of(case: type[Case], host: Host, record_property: Any) -> None:
    survive_every_point(case, host, record_property)


class Connect(Case):
    anywhere = True

    def victim(self, me: Child, n: int) -> None:
        me.say("ready")
        me.hear()
        _core.crash_at(n, anywhere=True)
        self.act_alone()
        _core.crash_at(0)
        me.say(n)
        me.hear()

    def act_alone(self) -> None:
        self.kept = pydlm.connect(self.host.name, stack=self.host.stack)

    def settle(self) -> None:
        # Who dies before it has joined leaves a slot to the next to join.
        self.host.child(lambda me: pydlm.connect(self.host.name, stack=self.host.stack)).join()
        super().settle()


class Create(Connect):
    """The first process makes the lockspace."""

    name = ""

    def act_alone(self) -> None:
        self.kept = pydlm.connect("created", stack=self.host.stack, capacity=100)

    def settle(self) -> None:
        with pydlm.connect("created", stack=self.host.stack, capacity=100) as ls:
            with ls.lock("x") as lk:
                lk.lvb = NEW
            ls.stack.arena.check()  # type: ignore[attr-defined]
        del ls, lk
        os.unlink(self.host.directory / "created.dlm")
        super().settle()


class Leave(Connect):
    may_invalidate = True

    """Close the last connection, and let go of the arena."""

    def act_alone(self) -> None:
        ls = pydlm.connect(self.host.name, stack=self.host.stack)
        lk = ls.lock("x")
        lk.acquire()
        ls.close()


class Deadlock(Case):
    """The victim finds the deadlock, and dies; the other in it gets what it waits for."""

    may_invalidate = True

    def setup(self) -> None:
        self.other = self.host.child(self.stubborn)
        assert self.other.hear() == "held"

    def stubborn(self, me: Child) -> None:
        ls = pydlm.connect(self.host.name, stack=self.host.stack, deadlock_wait=None)
        with ls.lock("y"):
            me.say("held")
            me.hear()
            me.say(ls.lock("x").acquire(timeout=PATIENCE))
        me.hear()

    def prepare(self, ls: Lockspace) -> Any:
        ls.stack.deadlock_wait = 0  # type: ignore[attr-defined]
        kept = [ls.lock("x"), ls.lock("y")]
        kept[0].acquire()
        return kept

    def ready(self) -> None:
        self.other.say()
        self.host.until(lambda: any(s.queue == 3 for s in self.ls.dump("x")))

    def act(self, ls: Lockspace, it: Any) -> None:
        with pytest.raises(DeadlockError):
            it[1].acquire()

    def check(self) -> None:
        assert self.other.hear() is True
        self.other.end()
        self.host.children.remove(self.other)


class Bury(Case):
    """The victim clears up after a third process, which held locks that others wait for.

    The others are stopped meanwhile, or else they would do it.
    """

    anywhere = True
    may_invalidate = True
    n_waiters = 1

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        del self.ls, self.lk
        for space in host.spaces:
            space.close()
        host.spaces.clear()

    def dead(self, me: Child) -> None:
        ls = pydlm.connect(self.host.name, stack=self.host.stack)
        locks = [ls.lock("x"), ls.lock("y" * 60), ls.lock("z")]
        locks[0].acquire()
        locks[0].lvb = NEW
        locks[1].acquire(mode=Mode.CR)
        ls.stack.lock(b"p", Mode.PR, LockFlag.PERSISTENT | LockFlag.VALBLK)
        ls.stack.lock(b"p", Mode.EX, LockFlag.PERSISTENT)
        me.say("held")
        me.hear()

    def witness(self, me: Child) -> None:
        ls = pydlm.connect(self.host.name, stack=self.host.stack)
        ls.fileno()
        lkids = {ls.stack.lock(b"x", Mode.PR, LockFlag.VALBLK) for _ in range(self.n_waiters)}
        lkids.add(ls.stack.lock(b"p", Mode.EX))
        ls.dispatch()
        me.say("queued")
        lk = ls.lock("x")
        me.say(lk.acquire(mode=Mode.PR, timeout=PATIENCE))
        downs: list[int] = []
        while lkids or len(downs) < 2:
            if len(downs) == 2:
                ls.stack.purge(0)
            if not select.select([ls], [], [], PATIENCE / 2)[0]:
                a: Any = ls.stack.arena  # type: ignore[attr-defined]
                pytest.fail(f"{lkids} {downs} {a.processes()} {[str(s) for s in ls.dump()]}")
            for event in ls.dispatch():
                if isinstance(event, NodeDown):
                    downs.append(event.node)
                else:
                    lkids.discard(event.lkid)
        me.say(downs)
        me.hear()

    def victim(self, me: Child, n: int) -> None:
        ls = pydlm.connect(self.host.name, stack=self.host.stack)
        me.say(ls.node)
        me.hear()
        _core.crash_at(n, anywhere=True)
        me.say("armed")
        self.host.until(lambda: ls.stack.arena.connections == 2, patience=PATIENCE / 2)  # type: ignore[attr-defined]
        # The helper may not be through yet; it is when it has gone to sleep.
        self.host.until(_core.helper_idle, "the helper to finish")
        me.say(n)
        me.hear()

    def run(self, n: int) -> bool:
        third = self.host.child(self.dead)
        assert third.hear() == "held"
        other = self.host.child(self.witness)
        assert other.hear() == "queued"
        with open(self.host.directory / f"{self.host.name}.dlm", "rb") as file:
            view = _core.View(self.host.name, file.fileno(), boot_id())
        queued = self.n_waiters + 2
        self.host.until(lambda: sum(len(r[2]) for r in view.resources(b"x")) == queued)
        other.kill(signal.SIGSTOP)
        child = self.host.child(lambda me: self.victim(me, n))
        child.hear()
        child.say()
        assert child.hear() == "armed"
        third.end()
        try:
            child.hear()
            survived = True
        except EOFError:
            survived = False
        child.end()
        other.kill(signal.SIGCONT)
        assert other.hear() is True
        downs = other.hear()
        assert len(set(downs)) == 2, "each death is told of once"
        other.end()
        view = None
        self.host.children.clear()
        with pydlm.connect(self.host.name, stack=self.host.stack) as ls:
            arena: Any = ls.stack.arena
            self.host.until(lambda: self.host.state(ls) == (0, 0, 1, 1), "nothing to be left")
            arena.check()
            with ls.lock("x") as lk:
                assert lk.lvb_valid  # forgotten with the last lock, and so never written
            with ls.lock("x") as lk:
                lk.lvb = OLD
        return survived


class BuryForMany(Bury):
    n_waiters = 40


def boot_id() -> bytes:
    from pydlm.stacks.host import boot_id

    return boot_id()
