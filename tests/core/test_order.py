"""First come, first served; and everybody who can be served is."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from pydlm import Mode
from pydlm.types import Queue


def test_through_one_handle(world: Any) -> None:
    lk = world.connect(deadlock_wait=None).lock("x")
    order: list[int] = []

    def wait(number: int) -> None:
        with lk:
            order.append(number)

    lk.acquire()
    tasks = [world.thread(wait, i) for i in range(20)]
    assert not lk.acquire(blocking=False)
    lk.release()
    for task in tasks:
        task.result()
    assert order == list(range(20))


def test_between_handles(world: Any) -> None:
    holder = world.connect().lock("x")
    order: list[int] = []

    def wait(number: int, lk: Any) -> None:
        with lk:
            order.append(number)

    holder.acquire()
    tasks = []
    for i in range(20):
        tasks.append(world.thread(wait, i, world.connect().lock("x")))
        world.queued(world.spaces[0], "x", i + 1)
    holder.release()
    for task in tasks:
        task.result()
    assert order == list(range(20))


def test_tokens_show_the_order_of_the_grants(world: Any) -> None:
    handles = world.handles("x", 12)
    handles[0].acquire()
    tasks = []
    for i, lk in enumerate(handles[1:], 1):
        tasks.append(world.thread(lk.acquire, mode=Mode.CR))
        world.queued(world.spaces[0], "x", i)
    handles[0].release()
    assert all(task.result() for task in tasks)
    tokens = [lk.token for lk in handles[1:]]
    assert tokens == sorted(tokens) and len(set(tokens)) == len(tokens)


def test_nobody_overtakes_who_waits_in_line(world: Any, uninterrupted: Any) -> None:
    lk = world.connect(deadlock_wait=None).lock("x")
    lk.acquire()
    with uninterrupted():
        waiting = world.thread(lk.acquire)
        lk.release()
        # Its turn has come, though it has not run yet.
        assert lk.acquire(blocking=False) is False
    assert waiting.result()


@pytest.mark.parametrize("reader", [Mode.CR, Mode.PR])
def test_readers_do_not_starve_a_writer(world: Any, reader: Mode) -> None:
    ls = world.connect()
    one, two, writer = (ls.lock("x") for _ in range(3))
    one.acquire(mode=reader)
    wants = world.thread(writer.acquire)
    world.queued(ls, "x")
    assert two.acquire(mode=reader, blocking=False) is False
    late = world.thread(two.acquire, mode=reader)
    world.queued(ls, "x", 2)
    one.release()
    assert wants.result() and not late.done
    # Neither do writers starve a reader.
    third = ls.lock("x")
    again = world.thread(third.acquire)
    world.queued(ls, "x", 2)
    writer.release()
    assert late.result() and not again.done
    two.release()
    assert again.result()


def test_a_writer_gets_in_between_readers_that_never_all_leave(world: Any) -> None:
    ls = world.connect()
    stop: list[None] = []
    overlap = threading.Barrier(3)

    def read(lk: Any) -> None:
        overlap.wait()
        while not stop:
            with lk.held(Mode.PR):
                time.sleep(0)

    readers = [world.worker(read, ls.lock("x")) for _ in range(2)]
    writer = ls.lock("x")
    overlap.wait()
    for _ in range(200):
        assert writer.acquire(timeout=20)
        writer.release()
    stop.append(None)
    for task in readers:
        task.result()


def test_an_upgrade_in_place_goes_ahead_of_who_waits(world: Any) -> None:
    ls = world.connect()
    holder, writer = ls.lock("x"), ls.lock("x")
    for old in (Mode.CR, Mode.CW, Mode.PR, Mode.PW):
        holder.acquire(mode=old)
        waiting = world.thread(writer.acquire)
        world.queued(ls, "x")
        # Nobody else holds it: the writer waits for us, and we for nobody.
        assert holder.convert(Mode.EX, timeout=5) and holder.granted == Mode.EX
        holder.release()
        assert waiting.result()
        writer.release()


@pytest.mark.parametrize("n", [31, 32, 33, 64, 100])
def test_many_waiters_granted_by_one_release(world: Any, n: int) -> None:
    ls, other = world.connect(), world.connect()
    holder, behind = ls.lock("x"), ls.lock("x")
    holder.acquire()
    readers = [(ls, other)[i % 2].lock("x") for i in range(n)]
    tasks = [world.thread(lk.acquire, mode=Mode.PR) for lk in readers]
    world.queued(ls, "x", n)
    writer = world.thread(behind.acquire)
    world.queued(ls, "x", n + 1)
    late = [ls.lock("x") for _ in range(n)]
    late_tasks = [world.thread(lk.acquire, mode=Mode.PR) for lk in late]
    world.queued(ls, "x", 2 * n + 1)
    holder.release()
    assert all(task.result() for task in tasks)
    assert all(lk.granted == Mode.PR for lk in readers)
    assert not writer.done
    for lk in readers:
        lk.release()
    assert writer.result() and not any(task.done for task in late_tasks)
    behind.release()
    assert all(task.result() for task in late_tasks)


@pytest.mark.parametrize("end", ["release", "close", "leave", "convert", "die"])
def test_whatever_gives_way_serves_many(world: Any, end: str) -> None:
    ls, other = world.connect(), world.connect()
    holder = ls.lock("x")
    holder.acquire()
    raw = [other.stack.lock("x", Mode.CR) for _ in range(200)]
    readers = [other.lock("x") for _ in range(70)]
    tasks = [world.thread(lk.acquire, mode=Mode.CR) for lk in readers]
    world.queued(other, "x", 270)
    ends = {
        "release": holder.release,
        "close": holder.close,
        "leave": ls.close,
        "convert": lambda: holder.convert(Mode.PW),
        "die": ls.stack.abandon,
    }
    ends[end]()
    assert all(task.result() for task in tasks)
    granted = [s.lkid for s in other.dump("x") if s.granted == Mode.CR]
    assert set(raw) <= set(granted) and len(granted) == 270
    assert sum(e.status == 0 for e in other.dispatch() if hasattr(e, "status")) == 200


def test_many_waiters_that_go_at_once(world: Any) -> None:
    holder = world.connect().lock("x")
    doomed = world.connect()
    holder.acquire(mode=Mode.PR)
    handles = [doomed.lock("x") for _ in range(100)]
    tasks = [world.thread(lk.acquire) for lk in handles]
    world.queued(world.spaces[0], "x", 100)
    reader = world.connect().lock("x")
    wants = world.thread(reader.acquire, mode=Mode.PR)
    world.queued(world.spaces[0], "x", 101)
    doomed.close()
    assert wants.result()
    assert all(task.error() is not None for task in tasks)
    assert [s.queue for s in world.spaces[0].dump("x")] == [Queue.GRANTED] * 2


def test_many_connections_told_at_once(world: Any, readable: Any) -> None:
    n = 40
    handles = world.handles("x", n)
    spaces = world.spaces[:n]
    for lk, ls in zip(handles, spaces, strict=True):
        lk.acquire(mode=Mode.PR)
        assert not readable(lk) and not readable(ls)
    writer = world.connect().lock("x")
    waiting = world.thread(writer.acquire)
    for lk, ls in zip(handles, spaces, strict=True):
        assert readable(lk, 10) and readable(ls, 10)
        assert lk.blocked == Mode.EX
        assert [(e.mode, e.lock) for e in ls.dispatch()] == [(Mode.EX, lk)]
        lk.release()
        assert not readable(lk) and not readable(ls)
    assert waiting.result()
