"""As test_crash_points.py, for the asynchronous verbs, orphans, and who is told of what."""

from __future__ import annotations

import select
from typing import Any

from tests.host.case import MARKS, NEW, OLD, Case, survive_every_point
from tests.host.machine import Host, readable
from tests.host.processes import PATIENCE, Task

from pydlm import Blocked, Completion, LockFlag, Lockspace, Mode, NodeDown

pytestmark = MARKS

VALBLK, PERSISTENT, ORPHAN = LockFlag.VALBLK, LockFlag.PERSISTENT, LockFlag.ORPHAN


def test_every_point_of(case: type[Case], host: Host, record_property: Any) -> None:
    survive_every_point(case, host, record_property)


def granted(ls: Lockspace, mode: Mode, flags: LockFlag = VALBLK) -> int:
    """Return a lock on x that has been granted, with the event read."""
    lkid = ls.stack.lock(b"x", mode, flags)
    while not any(e.lkid == lkid for e in ls.dispatch() if isinstance(e, Completion)):
        pass
    return lkid


class Lock(Case):
    def act(self, ls: Lockspace, it: Any) -> None:
        ls.stack.lock(b"x", Mode.PR, VALBLK)


class LockExclusively(Case):
    may_invalidate = True

    def act(self, ls: Lockspace, it: Any) -> None:
        ls.stack.lock(b"x", Mode.EX, VALBLK)


class LockAndRead(Case):
    def act(self, ls: Lockspace, it: Any) -> None:
        granted(ls, Mode.PR)


class LockThatWaits(Case):
    """Its holder is told, and the wait ends with the connection."""

    flags = VALBLK

    def once(self) -> None:
        self.other = self.host.connect()
        self.lk.fileno()

    def setup(self) -> None:
        self.held = granted(self.other, Mode.PR)

    def act(self, ls: Lockspace, it: Any) -> None:
        ls.stack.lock(b"x", Mode.EX, self.flags)

    def check(self) -> None:
        self.buried()
        self.other.stack.unlock(self.held)
        self.other.dispatch()


class LockThatMayNotWait(LockThatWaits):
    flags = VALBLK | LockFlag.NOQUEUE | LockFlag.NOQUEUEBAST


class ConvertUp(Case):
    modes = (Mode.NL, Mode.EX)
    may_invalidate = True

    def prepare(self, ls: Lockspace) -> Any:
        return granted(ls, self.modes[0])

    def act(self, ls: Lockspace, it: Any) -> None:
        ls.stack.convert(it, self.modes[1], VALBLK)


class ConvertDown(ConvertUp):
    modes = (Mode.EX, Mode.PR)
    values = (OLD, NEW)

    def act(self, ls: Lockspace, it: Any) -> None:
        ls.stack.convert(it, self.modes[1], VALBLK, lvb=NEW)


class ConvertDownAgain(ConvertDown):
    def prepare(self, ls: Lockspace) -> Any:
        it = super().prepare(ls)
        for mode in (Mode.PR, Mode.EX):
            ls.stack.convert(it, mode, VALBLK, lvb=OLD)
        return it


class Unlock(ConvertDown):
    def act(self, ls: Lockspace, it: Any) -> None:
        ls.stack.unlock(it, VALBLK, lvb=NEW)


class UnlockAndRead(Unlock):
    def act(self, ls: Lockspace, it: Any) -> None:
        super().act(ls, it)
        ls.dispatch()


class UnlockInvalidating(Unlock):
    values = (OLD,)

    def act(self, ls: Lockspace, it: Any) -> None:
        ls.stack.unlock(it, LockFlag.IVVALBLK)


class CancelOfAWait(LockThatWaits):
    def prepare(self, ls: Lockspace) -> Any:
        return ls.stack.lock(b"x", Mode.EX, VALBLK)

    def act(self, ls: Lockspace, it: Any) -> None:
        ls.stack.unlock(it, LockFlag.CANCEL)


class CancelOfAConversion(CancelOfAWait):
    def prepare(self, ls: Lockspace) -> Any:
        lkid = granted(ls, Mode.PR)
        ls.stack.convert(lkid, Mode.EX, VALBLK)
        return lkid


class DeadlockCancel(CancelOfAConversion):
    def act(self, ls: Lockspace, it: Any) -> None:
        ls.stack.deadlock_cancel(it)


class ConvertDeadlock(CancelOfAWait):
    """Two convert up: the second is refused, or makes way."""

    flags = VALBLK

    def prepare(self, ls: Lockspace) -> Any:
        return granted(ls, Mode.PR)

    def ready(self) -> None:
        self.other.stack.convert(self.held, Mode.EX, VALBLK)

    def act(self, ls: Lockspace, it: Any) -> None:
        ls.stack.convert(it, Mode.EX, self.flags)

    def check(self) -> None:
        super().check()
        self.other.dispatch()


class ConvertDemoted(ConvertDeadlock):
    flags = VALBLK | LockFlag.CONVDEADLK
    may_invalidate = True


class LockPersistent(Case):
    """What it leaves behind is an orphan, which somebody drops."""

    def act(self, ls: Lockspace, it: Any) -> None:
        ls.stack.lock(b"x", Mode.PR, PERSISTENT | VALBLK)

    def check(self) -> None:
        self.buried()
        for status in self.ls.dump("x"):
            if status.client != self.ls.node:
                assert status.client == 0 and status.granted is Mode.PR
        self.ls.stack.purge(0)


class Adopt(LockPersistent):
    flags = ORPHAN | PERSISTENT

    def setup(self) -> None:
        other = self.host.connect()
        for mode in (Mode.PR, Mode.CR):
            granted(other, mode, PERSISTENT | VALBLK)
        self.node = other.node
        other.close()

    def act(self, ls: Lockspace, it: Any) -> None:
        ls.stack.lock(b"x", Mode.PR, self.flags)

    def check(self) -> None:
        self.buried()
        self.ls.stack.purge(0)


class AdoptForItself(Adopt):
    flags = ORPHAN


class PurgeOrphans(Adopt):
    def act(self, ls: Lockspace, it: Any) -> None:
        ls.stack.purge(self.node)


class DisconnectWithAll(Adopt):
    """A connection with locks of all sorts is closed."""

    values = (OLD, NEW)
    may_invalidate = True

    def setup(self) -> None:
        pass

    def prepare(self, ls: Lockspace) -> Any:
        kept = [ls.lock("x"), ls.lock("y"), ls.lock("z" * 64)]
        kept[0].acquire()
        kept[0].lvb = NEW
        kept[1].acquire(mode=Mode.CR)
        ls.stack.lock(b"y", Mode.CR, PERSISTENT | VALBLK)
        ls.stack.lock(b"y", Mode.EX, PERSISTENT | VALBLK)
        ls.stack.lock(b"x", Mode.EX, VALBLK)
        return kept

    def act(self, ls: Lockspace, it: Any) -> None:
        ls.close()


class Abandon(DisconnectWithAll):
    values = (OLD,)

    def act(self, ls: Lockspace, it: Any) -> None:
        ls.stack.abandon()


class ReleaseThatTells(Case):
    """What a release grants is wanted by the next at once: whoever gets it has to be told."""

    may_invalidate = True

    def once(self) -> None:
        self.other = self.host.connect()
        self.other.fileno()
        self.native = self.other.lock("x")
        self.native.fileno()
        self.last = self.ls.lock("x")
        self.ls.fileno()

    def prepare(self, ls: Lockspace) -> Any:
        lk = ls.lock("x")
        lk.acquire()
        return lk

    def ready(self) -> None:
        self.first = Task(self.native.acquire, timeout=PATIENCE, mode=Mode.PR)
        self.host.until(lambda: self.queued() == 1)
        self.lkid = self.other.stack.lock(b"x", Mode.CR, VALBLK)
        self.second = Task(self.last.acquire, timeout=PATIENCE)
        self.host.until(lambda: self.queued() == 3)

    def queued(self) -> int:
        return sum(s.queue in (1, 3) for s in self.ls.dump("x"))

    def act(self, ls: Lockspace, it: Any) -> None:
        it.release()

    def check(self) -> None:
        assert self.first.result() is True
        # QUECVT: the conversion to EX, which queued before the request for CR, goes first.
        assert select.select([self.native], [], [], PATIENCE)[0]
        assert self.native.blocked is Mode.EX
        seen: list[Any] = []
        self.host.until(lambda: self.told(seen), "the notice")
        self.native.release()
        assert self.second.result() is True
        assert not readable(self.native)
        self.last.release()
        self.host.until(lambda: self.answered(seen), "the completion")
        self.other.stack.unlock(self.lkid)
        self.buried()
        self.host.until(lambda: self.mourned(seen), "NodeDown")
        assert sum(isinstance(e, NodeDown) for e in seen) == 1

    def told(self, seen: list[Any]) -> bool:
        seen += self.other.dispatch()
        return any(isinstance(e, Blocked) and e.lkid == self.native.lkid for e in seen)

    def answered(self, seen: list[Any]) -> bool:
        seen += self.other.dispatch()
        return any(isinstance(e, Completion) and e.lkid == self.lkid for e in seen)

    def mourned(self, seen: list[Any]) -> bool:
        seen += self.other.dispatch()
        return any(isinstance(e, NodeDown) for e in seen)
