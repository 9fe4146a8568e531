"""Closing the connection: on_drop comes first, and what it could not save is invalid for others."""

from __future__ import annotations

import signal
import threading
import time
from typing import Any

import pytest
from tests.core.conftest import World

from pydlm import Busy, CachedLock, Closed, DlmError, Lockspace, LVBInvalid, Mode

NL, PR, EX = Mode.NL, Mode.PR, Mode.EX


class Slow:
    """An on_drop that takes its time, then flushes."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()
        self.ended = False

    def __call__(self, lock: CachedLock, mode: Mode) -> None:
        self.begun.set()
        assert self.go_on.wait(20)
        lock.lvb = b"flushed"
        self.ended = True


def dirty(ls: Lockspace, slow: Any, name: str = "r") -> CachedLock:
    lock = ls.cached(name, on_drop=slow)
    with lock.exclusive():
        lock.lvb = b"dirty"
    return lock


def text(lock: CachedLock) -> bytes:
    with lock.shared(timeout=20):
        return lock.lvb.rstrip(b"\0")


def test_a_lock_whose_close_is_under_way_is_waited_for(world: World) -> None:
    ls, other, slow = world.connect(), world.connect().cached("r"), Slow()
    lock = dirty(ls, slow)
    closes = world.thread(lock.close)
    assert slow.begun.wait(20)
    reads = world.worker(text, other)
    leaves = world.worker(ls.close)
    time.sleep(0.1)
    assert not leaves.done and not reads.done
    slow.go_on.set()
    assert reads.result() == b"flushed"
    leaves.result()
    closes.result()


def test_a_lock_that_was_closed_in_a_use_is_waited_for(world: World) -> None:
    ls, other, slow = world.connect(), world.connect().cached("r"), Slow()
    lock = dirty(ls, slow)
    with lock.exclusive():
        lock.close()
    assert slow.begun.wait(20)
    leaves = world.worker(ls.close)
    time.sleep(0.05)
    assert not leaves.done
    slow.go_on.set()
    leaves.result()
    assert text(other) == b"flushed"


def test_struck_while_leaving(world: World) -> None:
    class Struck(Exception):
        pass

    def strike(*_: object) -> None:
        raise Struck

    ls, other, slow = world.connect(), world.connect().cached("r"), Slow()
    dirty(ls, slow)
    before = signal.signal(signal.SIGALRM, strike)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        with pytest.raises(Struck):
            ls._cached.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert slow.begun.wait(20)
    reads = world.worker(text, other)
    again = world.worker(ls.close)
    time.sleep(0.05)
    assert not again.done and not reads.done
    slow.go_on.set()
    again.result()
    assert reads.result() == b"flushed"


@pytest.mark.parametrize("exclusive", [False, True])
def test_what_on_drop_could_not_flush_is_invalid(world: World, exclusive: bool) -> None:
    ls, other = world.connect(), world.connect().cached("r")
    lock = dirty(ls, lambda lock, mode: None)
    with lock.exclusive() if exclusive else lock.shared():
        ls.close()
    with pytest.raises(LVBInvalid):
        text(other)


def test_not_in_on_drop(world: World) -> None:
    errors: list[Exception] = []

    def on_drop(lock: CachedLock, mode: Mode) -> None:
        try:
            ls.close()
        except Busy as error:
            errors.append(error)

    ls = world.connect()
    lock = dirty(ls, on_drop)
    assert text(world.connect().cached("r")) == b"dirty"
    assert len(errors) == 1
    with lock.exclusive(timeout=20), ls.lock("raw"):
        pass


@pytest.mark.parametrize("first", ["index", "r"])
def test_on_drop_may_use_other_locks_at_the_end(world: World, first: str) -> None:
    seen: list[Mode] = []

    def flush(lock: CachedLock, mode: Mode) -> None:
        with index.exclusive(timeout=20):
            index.value = 7

    ls, other = world.connect(), world.connect().cached("index", codec="<Q")
    if first == "r":
        lock = ls.cached("r", on_drop=flush)
    # An index with an on_drop of its own is dropped once more.
    index = ls.cached("index", codec="<Q", on_drop=lambda lock, mode: seen.append(mode))
    if first == "index":
        lock = ls.cached("r", on_drop=flush)
        with index.exclusive():
            pass
    with lock.exclusive():
        pass
    ls.close()
    with other.shared(timeout=20):
        assert other.value == 7
    assert seen == [NL] * (2 if first == "index" else 1)


def test_nobody_else_begins_meanwhile(world: World) -> None:
    ls, slow = world.connect(), Slow()
    dirty(ls, slow)
    plain = ls.cached("plain")
    leaves = world.worker(ls.close)
    assert slow.begun.wait(20)
    with pytest.raises(Closed):
        plain.exclusive().__enter__()
    slow.go_on.set()
    leaves.result()


def test_who_stands_in_line_is_turned_away(world: World) -> None:
    ls, slow = world.connect(), Slow()
    lock = dirty(ls, slow)
    drops = world.worker(lock.drop)
    assert slow.begun.wait(20)
    waits = world.thread(lock.exclusive().__enter__)
    world.until(lambda: len(lock._kept.machine._line) == 1)
    leaves = world.worker(ls.close)
    assert isinstance(waits.error(), Closed)
    slow.go_on.set()
    leaves.result()
    drops.result()


def test_one_that_cannot_be_unlocked_keeps_none(world: World) -> None:
    seen: list[Mode] = []
    ls, other = world.connect(), world.connect().cached("good")
    bad = ls.cached("bad")
    with bad.exclusive():
        pass
    dirty(ls, lambda lock, mode: seen.append(mode), "good")
    keeper = ls._cached._keeper
    assert keeper is not None
    stack, lkid = keeper.stack, bad._kept.lkid

    class Failing:
        def __getattr__(self, name: str) -> Any:
            return getattr(stack, name)

        def unlock(self, which: int, *args: Any, **options: Any) -> None:
            if which == lkid:
                raise DlmError("no way")
            stack.unlock(which, *args, **options)

    keeper.stack = Failing()  # type: ignore[assignment]
    with pytest.raises(DlmError, match="no way"):
        ls.close()
    assert seen == [NL] and not keeper._worker.thread.is_alive()  # type: ignore[union-attr]
    assert text(other) == b"dirty"
