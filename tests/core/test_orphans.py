"""Locks that outlive their client, and what else only the raw verbs can do."""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import Any

import pytest

from pydlm import Completion, LockFlag, Mode, NoSuchLock
from pydlm.types import ECANCEL, EUNLOCK, Queue, StatusFlag

F = LockFlag


def orphans(ls: Any, name: str | None = None) -> list[Any]:
    return [s for s in ls.dump(name) if s.client == 0]


@pytest.mark.parametrize("leaves", ["disconnect", "abandon"])
def test_a_persistent_lock_outlives_its_client(world: Any, leaves: str) -> None:
    going, other = world.connect(), world.connect()
    lkid = going.stack.lock("x", Mode.PR, F.PERSISTENT)
    going.stack.lock("x", Mode.CR)
    getattr(going.stack, leaves)()
    assert [(s.lkid, s.granted, s.queue) for s in other.dump("x")] == [
        (lkid, Mode.PR, Queue.GRANTED)
    ]
    lk = other.lock("x")
    assert not lk.acquire(blocking=False)
    assert lk.acquire(blocking=False, mode=Mode.PR)
    lk.release()
    other.stack.purge(0)
    assert orphans(other) == [] and lk.acquire(blocking=False)


def test_an_orphan_can_be_adopted(world: Any) -> None:
    going, other = world.connect(), world.connect()
    lkid = going.stack.lock("x", Mode.EX, F.PERSISTENT | F.VALBLK)
    going.stack.disconnect()
    stack = other.stack
    assert stack.lock("x", Mode.EX, F.ORPHAN | F.VALBLK) == lkid
    assert [e for e in stack.dispatch() if isinstance(e, Completion)] == []
    assert stack.lock_status(lkid).client == other.node
    with pytest.raises(NoSuchLock):
        stack.lock("x", Mode.EX, F.ORPHAN)
    stack.convert(lkid, Mode.NL, F.VALBLK, lvb=b"mine now")
    (event,) = [e for e in stack.dispatch() if isinstance(e, Completion)]
    assert (event.status, event.granted) == (0, Mode.NL)
    with other.lock("x") as lk:
        assert lk.lvb[:8] == b"mine now"
    stack.unlock(lkid)
    assert stack.dispatch()[-1].status == EUNLOCK


def test_the_first_one_left_is_adopted_first(world: Any) -> None:
    one, two, heir = (world.connect() for _ in range(3))
    lkids = [ls.stack.lock("x", Mode.CR, F.PERSISTENT) for ls in (one, two)]
    one.close()
    two.close()
    assert [heir.stack.lock("x", Mode.CR, F.ORPHAN) for _ in range(2)] == lkids


def test_purge_of_one_nodes_orphans(world: Any) -> None:
    one, two, other = (world.connect() for _ in range(3))
    for ls in (one, two):
        ls.stack.lock("x", Mode.CR, F.PERSISTENT)
        ls.stack.lock("y", Mode.CR, F.PERSISTENT)
    kept = {s.lkid for s in two.dump() if s.client == two.node}
    one.close()
    two.close()
    assert len(orphans(other)) == 4
    other.stack.purge(one.node)
    assert {s.lkid for s in orphans(other)} == kept
    other.stack.purge(12345)
    assert {s.lkid for s in orphans(other)} == kept
    other.stack.purge(two.node)
    assert world.usage(other) == (0, 0)


def test_a_purge_serves_who_waits(world: Any) -> None:
    going, other = world.connect(), world.connect()
    going.stack.lock("x", Mode.EX, F.PERSISTENT)
    lk = other.lock("x")
    going.close()
    waiting = world.thread(lk.acquire)
    world.queued(other, "x")
    assert not waiting.done
    other.stack.purge(0)
    assert waiting.result()


def test_a_purge_leaves_the_living_alone(world: Any) -> None:
    ls, other = world.connect(), world.connect()
    lkid = ls.stack.lock("x", Mode.EX, F.PERSISTENT)
    other.stack.purge(0)
    other.stack.purge(ls.node)
    assert ls.stack.lock_status(lkid).granted == Mode.EX
    ls.stack.unlock(lkid)


def test_a_waiting_persistent_lock_does_not_outlive_it(world: Any) -> None:
    holder, going = world.connect(), world.connect()
    holder.stack.lock("x", Mode.EX)
    going.stack.lock("x", Mode.EX, F.PERSISTENT)
    lkid = going.stack.lock("x", Mode.NL, F.PERSISTENT | F.EXPEDITE)
    going.stack.convert(lkid, Mode.PR, F.PERSISTENT)
    going.close()
    assert [(s.lkid, s.granted, s.requested) for s in orphans(holder)] == [(lkid, Mode.NL, None)]


def test_nobody_is_told_of_what_an_orphan_blocks(world: Any) -> None:
    going, other = world.connect(), world.connect()
    going.stack.lock("x", Mode.EX, F.PERSISTENT)
    going.close()
    lk = other.lock("x")
    assert lk.acquire(timeout=0.01) is False
    assert other.dispatch() == []
    heir = world.connect()
    heir.stack.lock("x", Mode.EX, F.ORPHAN)
    assert lk.acquire(timeout=0.01) is False


def test_the_victim_of_a_deadlock(world: Any) -> None:
    holder, stack = world.connect(), world.connect().stack
    holder.stack.lock("x", Mode.PR)
    new = stack.lock("x", Mode.EX)
    assert stack.dispatch() == []
    stack.deadlock_cancel(new)
    assert [(e.lkid, e.status, e.granted) for e in stack.dispatch()] == [(new, errno.EDEADLK, None)]
    with pytest.raises(NoSuchLock):
        stack.deadlock_cancel(new)
    lkid = stack.lock("x", Mode.CR)
    stack.convert(lkid, Mode.EX)
    stack.dispatch()
    stack.deadlock_cancel(lkid)
    (event,) = [e for e in stack.dispatch() if isinstance(e, Completion)]
    assert (event.lkid, event.status, event.granted) == (lkid, errno.EDEADLK, Mode.CR)
    assert stack.lock_status(lkid).granted == Mode.CR


def test_nothing_to_be_the_victim_of(world: Any) -> None:
    stack = world.connect().stack
    lkid = stack.lock("x", Mode.EX)
    stack.dispatch()
    stack.deadlock_cancel(lkid)
    stack.unlock(lkid, F.CANCEL)
    assert stack.dispatch() == [] and stack.lock_status(lkid).granted == Mode.EX


def test_two_conversions_and_the_flags_that_settle_it(world: Any) -> None:
    one, two = world.connect().stack, world.connect().stack
    a, b = one.lock("x", Mode.PR), two.lock("x", Mode.PR)
    for stack in (one, two):
        stack.dispatch()
    one.convert(a, Mode.EX)
    two.convert(b, Mode.EX)  # refused
    assert [e.status for e in two.dispatch() if isinstance(e, Completion)] == [errno.EDEADLK]
    two.convert(b, Mode.EX, F.CONVDEADLK)  # makes way instead
    (event,) = [e for e in one.dispatch() if isinstance(e, Completion)]
    assert (event.status, event.granted) == (0, Mode.EX)
    one.unlock(a)
    (event,) = [e for e in two.dispatch() if isinstance(e, Completion)]
    assert (event.status, event.granted, event.flags) == (0, Mode.EX, StatusFlag.DEMOTED)


def test_a_forced_unlock_of_what_waits(world: Any) -> None:
    holder, stack = world.connect(), world.connect().stack
    holder.stack.lock("x", Mode.EX)
    lkid = stack.lock("x", Mode.EX)
    stack.unlock(lkid, F.FORCEUNLOCK)
    assert [e.status for e in stack.dispatch()] == [EUNLOCK]
    assert len(holder.dump("x")) == 1


def test_a_cancelled_conversion_keeps_its_lock(world: Any) -> None:
    holder, stack = world.connect(), world.connect().stack
    holder.stack.lock("x", Mode.PR)
    lkid = stack.lock("x", Mode.PR)
    stack.convert(lkid, Mode.EX)
    stack.unlock(lkid, F.CANCEL)
    statuses = [(e.status, e.granted) for e in stack.dispatch() if isinstance(e, Completion)]
    assert statuses == [(0, Mode.PR), (ECANCEL, Mode.PR)]


def test_what_a_dump_says(world: Any) -> None:
    one, two = world.connect(), world.connect()
    lk, other = one.lock("x"), two.lock("x")
    lk.acquire(mode=Mode.PR)
    waiting = world.thread(other.acquire)
    world.queued(one, "x")
    by_id = {s.lkid: s for s in one.dump("x")}
    mine, theirs = by_id[lk.lkid], by_id[other.lkid]
    assert (mine.name, mine.client, mine.queue) == (b"x", one.node, Queue.GRANTED)
    assert (mine.granted, mine.requested, mine.token) == (Mode.PR, None, lk.token)
    assert (theirs.client, theirs.queue) == (two.node, Queue.CONVERT)
    assert (theirs.granted, theirs.requested) == (Mode.NL, Mode.EX)
    assert mine.owner == os.getpid() << 32 | threading.get_native_id()
    assert theirs.owner == os.getpid() << 32 | (waiting.thread.native_id or 0)
    for status in (mine, theirs):
        assert time.monotonic() - 5 < status.since <= time.monotonic() + 0.1
    assert one.stack.lock_status(lk.lkid) == mine
    lk.release()
    assert waiting.result()
