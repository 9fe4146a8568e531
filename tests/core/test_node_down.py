"""The death of a connection: others are told once, and get what it held."""

from __future__ import annotations

from typing import Any

import pytest

import pydlm
from pydlm import Closed, LockFlag, LVBInvalid, Mode, NodeDown

F = LockFlag


def test_everybody_else_is_told_once(world: Any, readable: Any) -> None:
    dying, *others = (world.connect() for _ in range(5))
    for ls in others:
        ls.fileno()
    node = dying.node
    dying.stack.abandon()
    late = world.connect()
    for ls in others:
        assert readable(ls)
        assert ls.dispatch() == [NodeDown(node)]
        assert not readable(ls) and ls.dispatch() == []
    assert late.dispatch() == []
    with pytest.raises(Closed):
        dying.dispatch()


def test_leaving_is_not_dying(world: Any, readable: Any) -> None:
    leaving, other = world.connect(), world.connect()
    other.fileno()
    lk = leaving.lock("x")
    lk.acquire()
    leaving.close()
    assert not readable(other) and other.dispatch() == []


def test_it_is_told_also_to_who_has_no_descriptor(world: Any) -> None:
    dying, other = world.connect(), world.connect()
    dying.stack.abandon()
    assert other.dispatch() == [NodeDown(dying.node)]


@pytest.mark.parametrize("mode", [Mode.EX, Mode.PW])
def test_a_writers_block_is_invalid(world: Any, mode: Mode) -> None:
    dying, other = world.connect(), world.connect()
    lk, heir = dying.lock("x"), other.lock("x")
    with heir:
        heir.lvb = b"before"
    lk.acquire(mode=mode)
    waiting = world.thread(heir.acquire, mode=Mode.PR)
    world.queued(other, "x")
    dying.stack.abandon()
    assert waiting.result()
    assert heir.lvb_valid is False
    with pytest.raises(LVBInvalid):
        heir.lvb  # noqa: B018
    assert other.dispatch() == [NodeDown(dying.node)]


@pytest.mark.parametrize("mode", [Mode.CR, Mode.CW, Mode.PR])
def test_a_readers_death_leaves_the_block_valid(world: Any, mode: Mode) -> None:
    dying, other = world.connect(), world.connect()
    heir = other.lock("x")
    with heir:
        heir.lvb = b"before"
    lk = dying.lock("x")
    lk.acquire(mode=mode)
    dying.stack.abandon()
    with heir.held(Mode.PR):
        assert heir.lvb_valid and heir.lvb[:6] == b"before"


def test_a_first_writer_that_dies(world: Any) -> None:
    # Nothing was ever published. But it was about to, and zeros would look like a truth.
    dying, other = world.connect(), world.connect()
    lk, heir = dying.lock("x"), other.lock("x")
    lk.acquire()
    lk.lvb = b"half of it"
    dying.stack.abandon()
    with heir:
        assert heir.lvb_valid is False


def test_what_it_wrote_but_did_not_publish_is_gone(world: Any) -> None:
    dying, other = world.connect(), world.connect()
    lk, heir = dying.lock("x"), other.lock("x")
    lk.acquire()
    lk.lvb = b"published"
    lk.release()
    lk.acquire()
    lk.lvb = b"not yet"
    dying.stack.abandon()
    with heir:
        assert not heir.lvb_valid
        heir.lvb = b"rebuilt"
        assert heir.lvb_valid
    with heir.held(Mode.PR):
        assert heir.lvb[:7] == b"rebuilt"


def test_a_converter_that_dies(world: Any) -> None:
    dying, other = world.connect(), world.connect()
    one, two, third = dying.lock("x"), other.lock("x"), other.lock("x")
    one.acquire(mode=Mode.PR)
    two.acquire(mode=Mode.PR)
    converts = world.thread(one.convert, Mode.EX)
    world.queued(other, "x")
    writes = world.thread(third.acquire)
    world.queued(other, "x", 2)
    dying.stack.abandon()
    assert isinstance(converts.error(), Closed)
    two.release()
    assert writes.result() and third.lvb_valid


def test_all_it_held_is_free(world: Any) -> None:
    dying, other = world.connect(), world.connect()
    locks = [dying.lock(f"r{i % 20}") for i in range(200)]
    for i, lk in enumerate(locks):
        lk.acquire(mode=Mode.CR)
        dying.stack.lock(f"s{i % 20}", Mode.CR)
    waiting = [world.thread(other.lock(f"r{i}").acquire) for i in range(5)]
    dying.stack.abandon()
    assert all(task.result() for task in waiting)
    assert all(s.client == other.node for s in other.dump())


def test_more_deaths_than_are_remembered(world: Any, readable: Any) -> None:
    other = world.connect()
    other.fileno()
    nodes = []
    for _ in range(600):
        dying = pydlm.connect(world.name, stack="local")
        nodes.append(dying.node)
        dying.stack.abandon()
    events = other.dispatch()
    # The oldest may be forgotten, but those that are told are told once, in their order.
    told = [e.node for e in events]
    assert 256 <= len(told) <= 600 and told == nodes[-len(told) :]
    assert not readable(other) and other.dispatch() == []
    again = pydlm.connect(world.name, stack="local")
    again.stack.abandon()
    assert other.dispatch() == [NodeDown(again.node)]


def test_deaths_with_a_limit(world: Any, readable: Any) -> None:
    other = world.connect()
    other.fileno()
    nodes = []
    for _ in range(5):
        dying = pydlm.connect(world.name, stack="local")
        nodes.append(dying.node)
        dying.stack.abandon()
    told = []
    for _ in range(5):
        assert readable(other)
        told += other.dispatch(1)
    assert told == [NodeDown(node) for node in nodes]
    assert not readable(other)


def test_many_die_while_others_work(world: Any) -> None:
    ls = world.connect()
    stop: list[None] = []

    def work() -> int:
        lk, rounds = world.spaces[0].lock("x"), 0
        while not stop:
            with lk:
                lk.lvb = b"rebuilt"
                rounds += 1
        return rounds

    tasks = [world.worker(work) for _ in range(2)]
    for i in range(200):
        dying = pydlm.connect(world.name, stack="local")
        lk = dying.lock("x")
        assert lk.acquire(timeout=20)
        if i % 2:
            lk.lvb = b"half"
        dying.stack.abandon()
    stop.append(None)
    assert all(task.result() for task in tasks)
    assert sum(isinstance(e, NodeDown) for e in ls.dispatch()) == 200
