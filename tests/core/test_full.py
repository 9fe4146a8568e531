"""A full lockspace says so, loses nothing, and works again when something goes."""

from __future__ import annotations

import errno
import resource
from pathlib import Path
from typing import Any

import pytest

import pydlm
from pydlm import LockFlag, LockspaceFull, Mode
from pydlm.types import ECANCEL, EUNLOCK

F = LockFlag
CAPACITY = 40


def fill(ls: Any, name: str = "r{}", limit: int = 10 * CAPACITY) -> list[Any]:
    locks: list[Any] = []
    with pytest.raises(LockspaceFull) as excinfo:
        while len(locks) < limit:
            locks.append(ls.lock(name.format(len(locks))))
    assert excinfo.value.errno == errno.ENOSPC
    assert isinstance(excinfo.value, MemoryError)
    return locks


@pytest.mark.parametrize("name", ["r{}", "one resource", "r{:060}"])
def test_all_of_the_capacity_can_be_used(world: Any, name: str) -> None:
    ls = world.connect(capacity=CAPACITY)
    locks = fill(ls, name)
    assert len(locks) == CAPACITY
    assert len(ls.dump()) == CAPACITY
    for lk in locks:  # all still work
        with lk:
            lk.lvb = lk.name
            assert lk.lvb.rstrip(b"\0") == lk.name[:64]
        assert ls.fileno() >= 0 and lk.fileno() >= 0
    for lk in locks:
        lk.close()
    assert world.usage() == (0, 0)


@pytest.mark.parametrize("name", ["r{}", "one resource", "r{:060}"])
def test_a_slot_that_is_given_back_can_be_had_by_any_resource(world: Any, name: str) -> None:
    # Also where the slot is in another shard than the one that needs it.
    ls = world.connect(capacity=CAPACITY)
    locks = fill(ls, name)
    for i in range(5 * CAPACITY):
        locks.pop(i % len(locks)).close()
        locks.append(ls.lock(f"other {i:050}"[i % 3 * 20 :]))
        with locks[-1] as lk:
            lk.lvb = b"new"
        with pytest.raises(LockspaceFull):
            ls.lock(f"too much {i}")
    ls.stack.arena.check()
    for lk in locks:
        lk.close()
    assert world.usage() == (0, 0)
    assert len(fill(ls)) == CAPACITY


def test_many_times_full_and_empty(world: Any) -> None:
    ls = world.connect(capacity=CAPACITY)
    for i in range(50):
        locks = fill(ls, f"round {i} {{}} {'x' * (i % 40)}")
        assert len(locks) == CAPACITY
        for lk in locks:
            lk.close()
        assert world.usage() == (0, 0)


def test_a_full_lockspace_does_not_touch_who_holds_and_who_waits(world: Any) -> None:
    ls, other = world.connect(capacity=CAPACITY), world.connect()
    holder, waiter = ls.lock("x"), other.lock("x")
    holder.acquire()
    waiting = world.thread(waiter.acquire)
    world.queued(ls, "x")
    line = world.thread(waiter.acquire)
    rest = fill(ls)
    assert len(rest) == CAPACITY - 2
    holder.lvb = b"full"
    with pytest.raises(LockspaceFull):
        other.lock("x")
    with pytest.raises(LockspaceFull):
        other.stack.lock("x", Mode.NL)
    holder.release()
    assert waiting.result() and waiter.lvb[:4] == b"full"
    waiter.release()
    assert line.result()


def test_the_raw_verbs_in_a_full_lockspace(world: Any) -> None:
    stack = world.connect(capacity=CAPACITY).stack
    lkids: list[int] = []
    with pytest.raises(LockspaceFull):
        while True:
            name = f"r{len(lkids)}"
            lkids.append(stack.lock(name, Mode.EX, F.VALBLK))
    assert len(lkids) == CAPACITY
    assert len(stack.dispatch()) == CAPACITY
    for lkid in lkids:
        stack.convert(lkid, Mode.NL, F.VALBLK, lvb=b"block")
    assert all(e.status == 0 for e in stack.dispatch())
    for lkid in lkids:
        stack.convert(lkid, Mode.PR, F.VALBLK)
    assert all(e.lvb[:5] == b"block" for e in stack.dispatch())
    for lkid in lkids:
        stack.unlock(lkid, F.VALBLK)
    # What is gone keeps its slot until its last event has been read.
    assert [e.status for e in stack.dispatch()] == [EUNLOCK] * CAPACITY
    assert world.usage() == (0, 0)


def test_requests_that_fail_keep_no_slot(world: Any) -> None:
    ls, other = world.connect(capacity=CAPACITY), world.connect()
    other.stack.lock("x", Mode.EX)
    for i in range(5 * CAPACITY):
        ls.stack.lock("x", Mode.EX, F.NOQUEUE)
        lkid = ls.stack.lock("x", Mode.EX)
        ls.stack.unlock(lkid, F.CANCEL)
        assert [e.status for e in ls.stack.dispatch()] == [errno.EAGAIN, ECANCEL]
        if i % 10 == 0:
            assert world.usage() == (1, 1)


def test_waiting_keeps_no_slot(world: Any) -> None:
    ls = world.connect(capacity=CAPACITY, deadlock_wait=0)  # searches, which take slots too
    holder, lk = ls.lock("x"), ls.lock("x")
    assert world.thread(holder.acquire).result()
    for _ in range(5 * CAPACITY):
        assert not lk.acquire(timeout=0.0001)
        assert not holder.acquire(timeout=0.0001)  # in line
    assert world.usage() == (2, 1)


def test_closed_handles_with_events_nobody_reads_fill_nothing(world: Any) -> None:
    ls, other = world.connect(capacity=CAPACITY), world.connect()
    ls.fileno()  # has events recorded
    for _ in range(3 * CAPACITY):
        holder, lk = ls.lock("x"), other.lock("x")
        holder.acquire()
        assert not lk.acquire(timeout=0)
        holder.close()
        lk.close()
    assert len(ls.dispatch()) <= 1
    assert world.usage() == (0, 0)


def test_connections_run_out_and_come_back(world: Any) -> None:
    spaces = []
    with pytest.raises(LockspaceFull) as excinfo:
        while len(spaces) < 5000:
            spaces.append(pydlm.connect(world.name, stack="local", capacity=CAPACITY))
    assert excinfo.value.errno == errno.ENOSPC
    assert len(spaces) == 1024
    assert len({ls.node for ls in spaces}) == len(spaces)
    with spaces[0].lock("x"):
        assert not spaces[-1].lock("x").acquire(blocking=False)
    nodes = {ls.node for ls in spaces}
    for i in (0, 500, 1023):
        spaces[i].close()
        spaces[i] = pydlm.connect(world.name, stack="local")
        assert spaces[i].node not in nodes  # a node's id is not used again
        with pytest.raises(LockspaceFull):
            pydlm.connect(world.name, stack="local")
    for ls in spaces:
        ls.close()
    again = world.connect()
    assert world.usage() == (0, 0)
    assert again.lock("x").acquire(blocking=False)


def test_more_memory_than_there_is(world: Any) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), hard))
    try:
        with pytest.raises(LockspaceFull, match="capacity"):
            pydlm.connect(world.name, stack="local", capacity=1 << 28)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    world.connect(capacity=CAPACITY)
