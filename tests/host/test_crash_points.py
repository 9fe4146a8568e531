"""A process is killed at every single point of every operation; the others carry on.

Needs a build with PYDLM_CRASH=1. Each operation is run in a child that dies at its crash point 1,
then in one that dies at 2, and so on until one survives.
"""

from __future__ import annotations

import contextlib
import select
import threading
from typing import Any

from tests.host.case import MARKS, NEW, OLD, Case, survive_every_point
from tests.host.machine import Host, readable
from tests.host.processes import PATIENCE, Task

import pydlm
from pydlm import Completion, Lockspace, Mode, NodeDown

pytestmark = MARKS


def test_every_point_of(case: type[Case], host: Host, record_property: Any) -> None:
    survive_every_point(case, host, record_property)


class OpenNewResource(Case):
    def act(self, ls: Lockspace, it: Any) -> None:
        self.kept = ls.lock("y" * 20)


class OpenNewResourceWithLongName(Case):
    def act(self, ls: Lockspace, it: Any) -> None:
        self.kept = ls.lock("y" * 60)


class OpenAndCloseAll(Case):
    def act(self, ls: Lockspace, it: Any) -> None:
        ls.lock("y" * 60).close()


class OpenWhereOthersAre(Case):
    def act(self, ls: Lockspace, it: Any) -> None:
        self.kept = ls.lock("x")


class OpenWithASlotOfAnotherShard(Case):
    capacity = 16

    def prepare(self, ls: Lockspace) -> Any:
        kept = [ls.lock(f"{n:060}") for n in range(15)]
        kept.pop().close()
        return kept

    def act(self, ls: Lockspace, it: Any) -> None:
        it.append(ls.lock("y" * 60))


class Acquire(Case):
    may_invalidate = True

    def prepare(self, ls: Lockspace) -> Any:
        return ls.lock("x")

    def act(self, ls: Lockspace, it: Any) -> None:
        it.acquire()


class AcquireShared(Acquire):
    may_invalidate = False

    def act(self, ls: Lockspace, it: Any) -> None:
        it.acquire(mode=Mode.PR)


class AcquireInVain(Acquire):
    """Queues, and gives up after a moment; its holder is told meanwhile."""

    may_invalidate = False
    act_timeout = 0.01

    def once(self) -> None:
        self.lk.fileno()
        self.ls.fileno()

    def setup(self) -> None:
        self.lk.acquire()

    def act(self, ls: Lockspace, it: Any) -> None:
        it.acquire(timeout=self.act_timeout)

    def check(self) -> None:
        # Nobody waits any more, and that is what the descriptor shows.
        self.buried()
        assert self.lk.blocked is None
        self.host.until(lambda: not readable(self.lk), "the descriptor to fall")
        self.host.until(self.told_of_death, "NodeDown")
        self.lk.release()

    def told_of_death(self) -> bool:
        return any(isinstance(event, NodeDown) for event in self.ls.dispatch())


class TryAcquire(AcquireInVain):
    act_timeout = 0


class Cancel(Case):
    def setup(self) -> None:
        self.lk.acquire()

    def prepare(self, ls: Lockspace) -> Any:
        lk = ls.lock("x")

        def wait() -> None:
            with contextlib.suppress(pydlm.Cancelled):
                lk.acquire()

        threading.Thread(target=wait, daemon=True).start()
        return lk

    def ready(self) -> None:
        self.host.until(lambda: self.lk.blocked is Mode.EX, "the victim to wait")

    def act(self, ls: Lockspace, it: Any) -> None:
        assert it.cancel()

    def check(self) -> None:
        self.buried()
        self.lk.release()


class Release(Case):
    """Grants all who wait: threads that sleep, and requests that are answered by events."""

    threads, requests, mode = 0, 0, Mode.EX
    may_invalidate = True

    def once(self) -> None:
        self.other = self.host.connect()
        self.other.fileno()
        self.locks = [self.ls.lock("x") for _ in range(self.threads)]

    def prepare(self, ls: Lockspace) -> Any:
        lk = ls.lock("x")
        lk.acquire()
        self.write(lk)
        return lk

    def write(self, lk: Any) -> None:
        pass

    def ready(self) -> None:
        self.tasks = [Task(lk.acquire, timeout=PATIENCE, mode=self.mode) for lk in self.locks]
        self.lkids = {self.other.stack.lock(b"x", self.mode) for _ in range(self.requests)}
        n = self.threads + self.requests

        def waiting() -> bool:
            return sum(s.queue in (1, 3) for s in self.ls.dump("x")) == n

        self.host.until(waiting, f"{n} to wait")

    def act(self, ls: Lockspace, it: Any) -> None:
        it.release()

    def check(self) -> None:
        for lk, task in zip(self.locks, self.tasks, strict=True):
            assert task.result() is True
            assert lk.granted is self.mode
            if self.mode is Mode.EX:
                lk.release()
        self.await_grants()
        for lk in self.locks:
            if lk.locked():
                lk.release()
        for lkid in self.lkids:
            self.other.stack.unlock(lkid)
        self.other.dispatch()

    def await_grants(self) -> None:
        left = set(self.lkids)
        while left:
            assert select.select([self.other], [], [], PATIENCE)[0], f"not told of {left}"
            for event in self.other.dispatch():
                if isinstance(event, Completion):
                    assert event.status == 0 and event.lvb is None
                    left.remove(event.lkid)


class ReleaseToNobody(Release):
    pass


class ReleaseToOne(Release):
    threads = 1


class ReleaseToOneRequest(Release):
    requests = 1


class ReleaseToForty(Release):
    threads, requests, mode = 37, 3, Mode.PR


class ReleaseWithBlock(Release):
    values = (OLD, NEW)
    threads = 1

    def write(self, lk: Any) -> None:
        lk.lvb = NEW


class ReleaseWithBlockAgain(ReleaseWithBlock):
    def write(self, lk: Any) -> None:
        lk.lvb = OLD
        lk.release()
        lk.acquire()
        lk.lvb = NEW


class WriteBlock(ReleaseWithBlock):
    def write(self, lk: Any) -> None:
        pass

    def act(self, ls: Lockspace, it: Any) -> None:
        it.lvb = NEW


class FirstBlock(ReleaseWithBlock):
    """Nobody has written the block yet."""

    values = (OLD, NEW, bytes(64))

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        self.lk.close()
        self.locks[0].close()
        self.lk = self.ls.lock("x")
        self.locks = [self.ls.lock("x")]


class ConvertDown(Release):
    values = (OLD, NEW)
    mode = Mode.PR
    threads, requests = 2, 1

    def write(self, lk: Any) -> None:
        lk.lvb = NEW

    def act(self, ls: Lockspace, it: Any) -> None:
        it.convert(Mode.PR)


class ConvertUp(Case):
    may_invalidate = True

    def prepare(self, ls: Lockspace) -> Any:
        lk = ls.lock("x")
        lk.acquire(mode=Mode.PR)
        return lk

    def act(self, ls: Lockspace, it: Any) -> None:
        it.convert(Mode.EX)


class ConvertUpInVain(ConvertUp):
    may_invalidate = False

    def setup(self) -> None:
        self.lk.acquire(mode=Mode.PR)

    def act(self, ls: Lockspace, it: Any) -> None:
        it.convert(Mode.EX, timeout=0.01)

    def check(self) -> None:
        self.buried()
        self.lk.release()


class Close(ReleaseWithBlock):
    def act(self, ls: Lockspace, it: Any) -> None:
        it.close()


class CloseUnderItsWaiter(Cancel):
    def prepare(self, ls: Lockspace) -> Any:
        lk = ls.lock("x")
        threading.Thread(target=self.wait, args=[lk], daemon=True).start()
        return lk

    def wait(self, lk: Any) -> None:
        with contextlib.suppress(pydlm.Closed):
            lk.acquire()

    def act(self, ls: Lockspace, it: Any) -> None:
        it.close()


class DisconnectUnderItsWaiter(CloseUnderItsWaiter):
    anywhere = True

    def act(self, ls: Lockspace, it: Any) -> None:
        ls.close()


class CloseOfTheLast(Case):
    def prepare(self, ls: Lockspace) -> Any:
        lk = ls.lock("z" * 60)
        with lk:
            lk.lvb = NEW
        return lk

    def act(self, ls: Lockspace, it: Any) -> None:
        it.close()
