"""The fencing token: who has the higher one was granted later."""

from __future__ import annotations

import time
from typing import Any

from pydlm import LockFlag, Mode


def test_it_rises_with_each_grant(world: Any) -> None:
    one, two = world.handles("x", 2)
    tokens = [one.token]
    for lk in (one, two, two, one, two):
        lk.acquire()
        tokens.append(lk.token)
        lk.release()
    assert tokens == sorted(set(tokens))


def test_readers_that_hold_together_have_one_each(world: Any) -> None:
    handles = world.handles("x", 5)
    for lk in handles:
        lk.acquire(mode=Mode.PR)
    tokens = [lk.token for lk in handles]
    assert tokens == sorted(set(tokens))
    for lk in handles:
        lk.release()
    handles[0].acquire()
    assert handles[0].token > tokens[-1]


def test_it_rises_with_conversions(world: Any) -> None:
    lk = world.connect().lock("x")
    lk.acquire(mode=Mode.PR)
    first = lk.token
    lk.convert(Mode.EX)
    second = lk.token
    lk.convert(Mode.CR)
    assert first < second < lk.token


def test_it_stays_while_the_lock_is_held(world: Any) -> None:
    lk, other = world.handles("x", 2)
    lk.acquire(mode=Mode.PR)
    token = lk.token
    other.acquire(mode=Mode.PR)
    assert lk.token == token
    other.release()
    assert not other.acquire(timeout=0)
    assert lk.token == token


def test_a_refusal_does_not_change_it(world: Any) -> None:
    lk, other = world.handles("x", 2)
    lk.acquire()
    before = other.token
    assert not other.acquire(blocking=False)
    assert not other.acquire(timeout=0.001)
    assert other.token == before < lk.token


def test_it_rises_though_the_resource_was_forgotten(world: Any) -> None:
    ls = world.connect()
    last: dict[str, int] = {}
    for _ in range(20):
        for i in range(30):
            name = f"r{i}"
            with ls.lock(name) as lk:
                assert lk.token > last.get(name, 0)
                last[name] = lk.token
                lk.release()
                lk.acquire()
                last[name] = lk.token
            lk.close()
        assert world.usage() == (0, 0)


def test_it_rises_though_the_lockspace_was_forgotten(world: Any) -> None:
    last = 0
    for _ in range(3):
        # The clock that the tokens start from has a second for its unit.
        world.until(lambda last=last: int(time.time()) > last >> 24)
        ls = world.connect()
        with ls.lock("x") as lk:
            first = lk.token
        for _ in range(10):
            with lk:
                token = lk.token
        lk.close()
        ls.close()
        assert first > last
        last = token


def test_completions_bring_it(world: Any) -> None:
    one, two = world.connect().stack, world.connect().stack
    one.lock("x", Mode.EX)
    waits = two.lock("x", Mode.EX)
    mine = one.dispatch()[0]
    one.unlock(mine.lkid, LockFlag(0))
    (theirs,) = two.dispatch()
    assert theirs.lkid == waits and theirs.token > mine.token
    assert two.lock_status(waits).token == theirs.token


def test_who_was_granted_later_has_the_higher_one(world: Any) -> None:
    order: list[int] = []

    def work() -> None:
        lk = world.spaces[0].lock("x")
        for _ in range(500):
            with lk:
                order.append(lk.token)

    world.connect()
    for task in [world.worker(work) for _ in range(4)]:
        task.result()
    assert len(order) == 2000 and order == sorted(set(order))
