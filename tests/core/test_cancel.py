"""Taking back a wait from another thread."""

from __future__ import annotations

import errno
import random
import time
from typing import Any

import pytest

from pydlm import Cancelled, Mode
from pydlm.types import Queue


def cancelled(task: Any) -> bool:
    error = task.error()
    return isinstance(error, Cancelled) and error.errno == errno.ECANCELED


def test_nothing_to_cancel(world: Any) -> None:
    lk = world.connect().lock("x")
    assert lk.cancel() is False
    with lk:
        lk.lvb = b"kept"
        assert lk.cancel() is False
        assert lk.granted == Mode.EX and lk.lvb[:4] == b"kept"
    assert lk.cancel() is False


@pytest.mark.parametrize("call", ["acquire", "held", "timeout"])
def test_an_acquire_in_the_lock_manager(world: Any, call: str) -> None:
    holder, lk = world.handles("x", 2)
    holder.acquire()
    calls = {
        "acquire": lk.acquire,
        "held": lk.held(Mode.PR).__enter__,
        "timeout": lambda: lk.acquire(timeout=60),
    }
    for _ in range(3):
        waiting = world.thread(calls[call])
        world.queued(world.spaces[0], "x")
        assert lk.cancel() is True
        assert cancelled(waiting)
        assert lk.requested is None and not lk.locked() and holder.blocked is None
    holder.release()
    assert lk.acquire(blocking=False)


def test_a_conversion_keeps_the_old_mode(world: Any) -> None:
    one, two = world.handles("x", 2)
    one.acquire(mode=Mode.PR)
    two.acquire(mode=Mode.PR)
    for mode in (Mode.EX, Mode.PW, Mode.CW):
        waiting = world.thread(one.convert, mode)
        world.queued(world.spaces[0], "x")
        assert one.cancel() is True
        assert cancelled(waiting)
        assert one.granted == Mode.PR and one.locked()
    one.release()
    two.release()


def test_a_line(world: Any) -> None:
    lk = world.connect(deadlock_wait=None).lock("x")
    lk.acquire(mode=Mode.PW)
    waits = [world.thread(lk.acquire) for _ in range(5)]
    assert lk.cancel() is True
    assert all(cancelled(task) for task in waits)
    assert lk.granted == Mode.PW and lk.cancel() is False
    lk.release()
    assert lk.acquire(blocking=False)


def test_a_wait_and_the_line_behind_it(world: Any) -> None:
    holder, lk = world.handles("x", 2)
    holder.acquire()
    waits = [world.thread(lk.acquire) for _ in range(3)]
    world.queued(world.spaces[0], "x")
    assert lk.cancel() is True
    assert all(cancelled(task) for task in waits)
    holder.release()
    assert lk.acquire(blocking=False)


def test_others_wait_on(world: Any) -> None:
    holder, gone, stays = world.handles("x", 3)
    holder.acquire(mode=Mode.PR)
    writer = world.thread(gone.acquire)
    world.queued(world.spaces[0], "x")
    reader = world.thread(stays.acquire, mode=Mode.PR)
    world.queued(world.spaces[0], "x", 2)
    gone.cancel()
    assert cancelled(writer)
    assert reader.result()  # it stood behind the writer only


@pytest.mark.parametrize("granted_first", [False, True])
def test_a_grant_and_a_cancel_before_the_thread_comes(
    world: Any, uninterrupted: Any, granted_first: bool
) -> None:
    holder, lk = world.handles("x", 2)
    holder.acquire()
    with uninterrupted():
        waiting = world.thread(lk.acquire)
        steps = [holder.release, lk.cancel]
        outcome = [step() for step in (steps if granted_first else reversed(steps))]
    if granted_first:
        assert outcome == [None, False]
        assert waiting.result() is True and lk.locked()
    else:
        assert outcome == [True, None]
        assert cancelled(waiting) and not lk.locked()
    assert holder.blocked is None


@pytest.mark.parametrize("called_first", [False, True])
def test_a_turn_and_a_cancel_before_the_thread_comes(
    world: Any, uninterrupted: Any, called_first: bool
) -> None:
    lk = world.connect(deadlock_wait=None).lock("x")
    lk.acquire()
    with uninterrupted():
        waits = [world.thread(lk.acquire) for _ in range(2)]
        if called_first:
            lk.release()
        lk.cancel()
        if not called_first:
            lk.release()
    ends = [task.error() for task in waits]
    assert isinstance(ends[1], Cancelled)
    if called_first and ends[0] is None:
        assert lk.locked()
        lk.release()
    else:
        assert isinstance(ends[0], Cancelled)
    assert lk.acquire(blocking=False)


def test_cancels_at_any_moment(world: Any) -> None:
    ls = world.connect()
    handles = [ls.lock("x") for _ in range(3)]
    inside: list[int] = []
    stop: list[None] = []

    def work(number: int) -> tuple[int, int]:
        rng = random.Random(number)
        lk = handles[number % 3]
        got = lost = 0
        for _ in range(2000):
            try:
                with lk:
                    inside.append(number)
                    if rng.random() < 0.2:
                        time.sleep(0)
                    assert inside == [number]
                    inside.clear()
                got += 1
            except Cancelled:
                lost += 1
        return got, lost

    def cancel() -> None:
        while not stop:
            for lk in handles:
                lk.cancel()
                time.sleep(0.0001)

    tasks = [world.worker(work, n) for n in range(5)]
    canceller = world.worker(cancel)
    results = [task.result() for task in tasks]
    stop.append(None)
    canceller.result()
    assert all(got + lost == 2000 for got, lost in results)
    assert all(s.granted == Mode.NL and s.queue == Queue.GRANTED for s in ls.dump("x"))
    assert all(lk.acquire(blocking=False) or lk is not handles[0] for lk in handles)
