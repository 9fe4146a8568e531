"""A forked child has none of its parent's locks, and can do nothing to them."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Callable
from typing import Any

import pytest
from tests.core.uses import HANDLE_USES, SPACE_USES

import pydlm
from pydlm import Forked, Mode


def assert_forked(thing: Any, uses: dict[str, Callable[[Any], object]]) -> None:
    for what, use in uses.items():
        try:
            use(thing)
        except Forked as error:
            assert error.errno == errno.EBADF and isinstance(error, RuntimeError), what
        else:
            raise AssertionError(f"{what} works in the child")


@pytest.mark.parametrize("held", [False, True])
def test_every_use_in_the_child(world: Any, forked: Any, held: bool) -> None:
    ls = world.connect()
    lk = ls.lock("x")
    lk.fileno()
    if held:
        lk.acquire()
        lk.lvb = b"parent"

    def child() -> None:
        assert_forked(lk, HANDLE_USES)
        assert_forked(ls, SPACE_USES)
        assert not lk.locked()
        repr(lk), repr(ls)
        lk.close()  # idempotent, as close is everywhere
        ls.close()

    forked(child)
    assert lk.locked() is held
    if held:
        assert not ls.lock("x").acquire(blocking=False)
        assert lk.lvb[:6] == b"parent"
        lk.release()


@pytest.mark.parametrize("how", ["close", "collect", "exit"])
def test_the_child_gives_up_nothing_of_the_parents(
    world: Any, forked: Any, readable: Any, how: str
) -> None:
    ls, other = world.connect(), world.connect()
    held = {"lk": ls.lock("x"), "idle": ls.lock("x")}
    held["lk"].acquire()
    held["lk"].lvb = b"parent"
    fd, events = held["lk"].fileno(), ls.fileno()
    other.lock("x").acquire(timeout=0)  # an event for the parent
    before = list(ls.dump())

    def child() -> None:
        if how == "close":
            for lk in held.values():
                lk.close()
            ls.close()
        elif how == "collect":
            held.clear()
            world.spaces.clear()
            gc.collect()

    forked(child)
    assert list(ls.dump()) == before
    assert readable(events)
    os.fstat(fd)
    assert [event.lock for event in ls.dispatch()] == [held["lk"]]
    held["lk"].release()
    assert world.connect().lock("x").acquire(blocking=False)


def test_the_child_has_a_lockspace_of_its_own(world: Any, forked: Any) -> None:
    ls = world.connect()
    lk = ls.lock("x")
    lk.acquire()
    lk.lvb = b"parent"
    other = ls.lock("y")
    other.acquire(mode=Mode.PR)

    def child() -> None:
        # Of the parent's locks it knows nothing: the local stack is one process.
        with pydlm.connect(world.name, stack="local", capacity=64) as mine:
            assert mine.dump() == []
            with mine.lock("x") as lk, mine.lock("y"):
                assert lk.lvb == bytes(64)
                lk.lvb = b"child"

    forked(child)
    assert lk.lvb[:6] == b"parent"


def test_fork_while_others_hold_wait_and_work(world: Any, forked: Any) -> None:
    ls, other = world.connect(), world.connect()
    holder, lk = ls.lock("x"), other.lock("x")
    holder.acquire()
    waiting = world.thread(lk.acquire)
    world.queued(ls, "x")
    line = world.thread(holder.acquire)  # in line
    stop: list[bool] = []

    def work() -> None:
        # So that a fork now and then finds a shard, or the guard over connect, taken.
        while not stop:
            with pydlm.connect(world.name, stack="local") as busy, busy.lock("z"):
                busy.dump()

    workers = [world.worker(work) for _ in range(2)]

    def child() -> None:
        assert_forked(lk, HANDLE_USES)
        lk.close()
        for _ in range(3):
            with pydlm.connect(world.name, stack="local") as mine:
                for name in "xyz":
                    with mine.lock(name):
                        pass

    for _ in range(15):
        forked(child)
    stop.append(True)
    for task in workers:
        task.result()
    assert not waiting.done and not line.done
    holder.release()
    assert waiting.result()
    lk.release()
    assert line.result()


def test_fork_in_a_thread(world: Any, forked: Any) -> None:
    lk = world.connect().lock("x")
    lk.acquire()

    def child() -> None:
        assert_forked(lk, HANDLE_USES)
        with pydlm.connect(world.name, stack="local").lock("x"):
            pass

    world.thread(forked, child).result()
    assert lk.locked()


def test_a_childs_child(world: Any, forked: Any) -> None:
    lk = world.connect().lock("x")
    lk.acquire()

    def child() -> None:
        mine = pydlm.connect(world.name, stack="local").lock("x")
        mine.acquire()

        def grandchild() -> None:
            assert_forked(lk, HANDLE_USES)
            assert_forked(mine, HANDLE_USES)
            assert pydlm.connect(world.name, stack="local").lock("x").acquire(blocking=False)

        forked(grandchild)
        assert mine.locked()

    forked(child)


def test_a_with_block_that_forks(world: Any, forked: Any) -> None:
    with world.connect().lock("x") as lk:

        def child() -> None:
            with pytest.raises(Forked):
                lk.__exit__(None, None, None)

        forked(child)
        assert lk.locked()


def test_descriptors_of_the_parent_do_not_pass_through_exec(world: Any) -> None:
    ls = world.connect()
    for fd in (ls.lock("x").fileno(), ls.fileno()):
        assert not os.get_inheritable(fd)
