"""A wait ends when its time is up, not before: with the lock or without a trace of it."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from pydlm import LockTimeout, Mode, WouldBlock
from pydlm.types import Queue


@pytest.mark.parametrize("timeout", [0.0, 0.001, 0.05, 0.3])
@pytest.mark.parametrize("line", [False, True])
def test_how_long_a_wait_lasts(world: Any, timeout: float, line: bool) -> None:
    ls = world.connect()
    holder, other = ls.lock("x"), ls.lock("x")
    lk = holder if line else other
    world.thread(holder.acquire).result()
    before = time.monotonic()
    assert lk.acquire(timeout=timeout) is False
    after = time.monotonic()
    with pytest.raises(LockTimeout) as excinfo:
        lk.held(Mode.PR, timeout=timeout).__enter__()
    assert isinstance(excinfo.value, TimeoutError)
    assert timeout <= after - before < timeout + 2
    assert after + timeout <= time.monotonic()
    assert all(s.queue == Queue.GRANTED for s in ls.dump("x"))
    assert world.usage() == (2, 1)
    holder.release()
    assert lk.acquire(timeout=timeout)


def test_how_long_a_conversion_waits(world: Any) -> None:
    one, two = world.handles("x", 2)
    one.acquire(mode=Mode.PR)
    two.acquire(mode=Mode.PR)
    for timeout in (0.0, 0.05):
        before = time.monotonic()
        assert one.convert(Mode.EX, timeout=timeout) is False
        assert timeout <= time.monotonic() - before < timeout + 2
        assert one.granted == Mode.PR and one.requested is None and one.locked()
    two.release()
    assert one.convert(Mode.EX, timeout=0)


def test_what_would_wait_fails_at_once(world: Any) -> None:
    one, two = world.handles("x", 2)
    one.acquire(mode=Mode.PR)
    for lk in (one, two):
        assert lk.acquire(blocking=False) is False
        with pytest.raises(WouldBlock) as excinfo:
            lk.held(blocking=False).__enter__()
        assert isinstance(excinfo.value, BlockingIOError)
    assert two.acquire(blocking=False, mode=Mode.PR)
    assert one.convert(Mode.EX, blocking=False) is False and one.granted == Mode.PR
    assert one.blocked is None and two.blocked is None
    two.release()
    assert one.convert(Mode.EX, False) is True


def test_a_second_timeout_is_not_the_rest_of_the_first(world: Any) -> None:
    # In line until the handle is free, then in the lock manager: one time for both.
    ls = world.connect(deadlock_wait=None)
    lk, other = ls.lock("x"), ls.lock("x")
    lk.acquire(mode=Mode.PR)
    other.acquire(mode=Mode.PR)
    before = time.monotonic()
    waiting = world.thread(lk.acquire, timeout=0.3)
    time.sleep(0.1)
    lk.release()
    assert waiting.result() is False
    assert 0.3 <= time.monotonic() - before < 0.38 + 2
    assert lk.acquire(mode=Mode.PR, blocking=False)


@pytest.mark.parametrize("line", [False, True])
def test_the_grant_comes_between_the_timeout_and_the_thread(
    world: Any, uninterrupted: Any, spin: Any, line: bool
) -> None:
    ls = world.connect(deadlock_wait=None)
    holder, other = ls.lock("x"), ls.lock("x")
    lk = holder if line else other
    for _ in range(3):
        holder.acquire()
        with uninterrupted():
            waiting = world.thread(lk.acquire, timeout=0.1)
            spin(0.15)  # its time is up, and it wants the GIL to say so
            holder.release()
        assert waiting.result() is True
        assert lk.locked()
        lk.release()


def test_the_timeout_comes_before_the_grant(world: Any, uninterrupted: Any, spin: Any) -> None:
    ls = world.connect(deadlock_wait=None)
    holder, lk, third = (ls.lock("x") for _ in range(3))
    holder.acquire(mode=Mode.PR)
    with uninterrupted():
        writer = world.thread(lk.acquire, timeout=0.01)
        reader = world.thread(third.acquire, mode=Mode.PR)  # behind the writer
    assert writer.result() is False
    assert reader.result() is True
    assert not lk.locked()


def test_timeouts_and_grants_at_any_moment(world: Any) -> None:
    ls = world.connect()
    inside: list[int] = []
    shared = ls.lock("x")

    def work(number: int) -> tuple[int, int]:
        rng = random.Random(number)
        lk = shared if number % 3 == 0 else world.spaces[0].lock("x")
        got = lost = 0
        for _ in range(1500):
            if lk.acquire(timeout=rng.random() * 0.0005):
                inside.append(number)
                if rng.random() < 0.3:
                    time.sleep(rng.random() * 0.0003)
                assert inside == [number]
                inside.clear()
                lk.release()
                got += 1
            else:
                lost += 1
        return got, lost

    tasks = [world.worker(work, n) for n in range(6)]
    results = [task.result() for task in tasks]
    assert sum(got for got, _ in results) and sum(lost for _, lost in results)
    assert all(s.granted == Mode.NL and s.queue == Queue.GRANTED for s in ls.dump("x"))
    assert shared.acquire(blocking=False)
