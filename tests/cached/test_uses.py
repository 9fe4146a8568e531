"""Threads that use cached locks: who gets in, when, and what it costs the lock manager."""

from __future__ import annotations

import copy
import random
import signal
import threading
from typing import Any

import pytest
from tests.core.conftest import World

import pydlm
from pydlm import BadArgument, LockTimeout, Mode, NotHeld, WouldBlock
from pydlm.lockspace import Lockspace
from pydlm.stacks.local import LocalStack

NL, PR, EX = Mode.NL, Mode.PR, Mode.EX


def token(ls: Lockspace) -> int:
    return max(status.token for status in ls.dump("r"))


def test_a_use_that_the_level_suffices_for_asks_nobody(world: World) -> None:
    ls = world.connect()
    lock = ls.cached("r")
    with lock.exclusive():
        pass
    before = token(ls)
    for _ in range(100):
        with lock.shared() as inside:
            assert inside is lock
        with lock.exclusive():
            pass
    assert token(ls) == before and lock.level is EX


def test_a_context_manager_is_used_again_and_by_many(world: World) -> None:
    lock = world.connect().cached("r")
    shared = lock.shared()
    assert lock.shared() is shared and lock.exclusive() is lock.exclusive()
    with shared, shared:
        assert lock.shared_uses == 2
    with pytest.raises(NotHeld):
        shared.__exit__(None, None, None)


def test_handed_over_between_two_nodes(world: World) -> None:
    a, b = (world.connect().cached("r") for _ in range(2))
    with a.exclusive():
        a.lvb = b"one"
    assert a.level is EX
    with b.shared():
        assert b.lvb.rstrip(b"\0") == b"one"
        world.until(lambda: a.level is PR, "the highest level that is in nobody's way")
    with b.exclusive():
        world.until(lambda: a.level is NL)
        b.lvb = b"two"
    with a.shared(), b.shared():
        assert a.lvb == b.lvb


def test_a_raw_lock_of_the_same_connection_is_somebody_else(world: World) -> None:
    ls = world.connect()
    lock, raw = ls.cached("r"), ls.lock("r")
    with lock.exclusive():
        assert not raw.acquire(False)
    with raw:
        world.until(lambda: lock.level is NL)


def test_the_remote_side_is_not_starved(world: World) -> None:
    """However much a node wants a lock for itself, another one gets it in its turn."""
    a, b = (world.connect().cached("r") for _ in range(2))
    over = threading.Event()
    uses = [0, 0, 0]

    def use(i: int) -> None:
        while not over.is_set():
            with a.exclusive() if i == 0 else a.shared():
                uses[i] += 1

    users = [world.worker(use, i) for i in range(3)]
    for _ in range(20):
        before = list(uses)
        world.until(lambda before=before: all(map(int.__gt__, uses, before)), "all to use it")
        with b.exclusive(timeout=30):
            pass
    over.set()
    world.finish(users)


def test_threads_of_one_node_are_served_in_order(world: World) -> None:
    lock = world.connect().cached("r")
    order: list[int] = []

    def use(i: int) -> None:
        with lock.exclusive() if i % 2 else lock.shared():
            order.append(i)

    with lock.exclusive():
        tasks = []
        for i in range(6):
            tasks.append(world.thread(use, i))
            world.until(lambda: len(lock._kept.machine._line) == len(tasks))
    world.finish(tasks)
    assert order == [0, 1, 2, 3, 4, 5]


def test_exclusion_within_the_process(world: World) -> None:
    lock = world.connect().cached("r")
    with lock.shared(), lock.shared():
        with pytest.raises(WouldBlock):
            lock.exclusive(False).__enter__()
        with pytest.raises(LockTimeout):
            lock.exclusive(timeout=0.01).__enter__()
    with lock.exclusive(), pytest.raises(WouldBlock):
        lock.shared(blocking=False).__enter__()
    assert (lock.shared_uses, lock.exclusive_uses) == (0, 0)


def test_exclusion_off(world: World) -> None:
    a = world.connect().cached("r", exclusion=False)
    b = world.connect().cached("r", exclusion=False)
    with a.exclusive(), a.exclusive(), a.shared():
        assert (a.shared_uses, a.exclusive_uses) == (1, 2)
        with pytest.raises(LockTimeout):
            b.shared(timeout=0.01).__enter__()
    with b.shared():
        pass


def test_a_time_out_leaves_nothing(world: World) -> None:
    ls = world.connect()
    a, b = ls.cached("r"), world.connect().cached("r")
    with a.shared():
        with pytest.raises(LockTimeout, match=r"within 0\.05 seconds"):
            b.exclusive(timeout=0.05).__enter__()
        world.queued(ls, "r", 0)
        with pytest.raises(WouldBlock):
            b.exclusive(blocking=False).__enter__()
        world.queued(ls, "r", 0)


def test_a_try_makes_nobody_let_go(world: World) -> None:
    a, b = (world.connect().cached("r") for _ in range(2))
    with a.exclusive():
        pass
    with pytest.raises(WouldBlock):
        b.shared(blocking=False).__enter__()
    assert a.level is EX and a.blocked is None
    with b.shared(timeout=20):  # this asks
        world.until(lambda: a.level is PR)


@pytest.mark.parametrize("arguments", [(False, 1), (True, -2), (True, float("nan"))])
def test_arguments_are_those_of_a_lock(world: World, arguments: Any) -> None:
    lock = world.connect().cached("r")
    with pytest.raises(BadArgument):
        lock.shared(*arguments)
    with pytest.raises(OverflowError):
        lock.exclusive(timeout=1e12)


def test_one_object_to_a_name(world: World) -> None:
    ls = world.connect()
    lock = ls.cached("r", codec="<Q")
    assert ls.cached(b"r") is lock is ls.cached("r", codec="<Q")
    assert world.connect().cached("r") is not lock
    with pytest.raises(BadArgument, match="exclusion"):
        ls.cached("r", exclusion=False)
    with pytest.raises(BadArgument, match="on_drop"):
        ls.cached("r", on_drop=print)
    with pytest.raises(TypeError, match="copy"):
        copy.copy(lock)
    lock.close()
    assert ls.cached("r", exclusion=False) is not lock


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_bad_names(world: World, name: str) -> None:
    with pytest.raises(BadArgument):
        world.connect().cached(name)
    with pytest.raises(TypeError):
        world.connect().cached("r", on_drop=3)  # type: ignore[arg-type]


def test_a_signal_handler_that_raises_ends_the_wait(world: World) -> None:
    class Struck(Exception):
        pass

    def strike(*_: object) -> None:
        raise Struck

    ls = world.connect()
    a, b = ls.cached("r"), world.connect().cached("r")
    before = signal.signal(signal.SIGALRM, strike)
    try:
        with a.exclusive():
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(Struck):
                b.shared().__enter__()
    finally:
        signal.signal(signal.SIGALRM, before)
    world.queued(ls, "r", 0)
    with b.exclusive():
        pass


def test_the_users_own_events_are_left_alone(world: World) -> None:
    ls, other = world.connect(), world.connect()
    lock, wanted = ls.lock("mine"), other.lock("mine")
    lock.acquire()
    with ls.cached("r").exclusive():
        waits = world.thread(wanted.acquire)
        world.queued(ls, "mine")
    with other.cached("r").exclusive():  # a notice for the cached lock
        pass
    (event,) = ls.dispatch()
    assert isinstance(event, pydlm.Blocked) and event.lock is lock
    lock.release()
    waits.result()
    wanted.release()


def test_a_storm(world: World) -> None:
    """Three nodes, three threads each: no addition to a common value is lost."""
    nodes = [world.connect().cached("r", codec="<q") for _ in range(3)]
    counts = [0]

    def use(seed: int) -> int:
        chance, done = random.Random(seed), 0
        lock = nodes[seed % 3]
        for _ in range(150):
            if chance.random() < 0.3:
                with lock.exclusive():
                    before = counts[0]
                    lock.value = lock.value + 1
                    counts[0] = before + 1
                    done += 1
            else:
                with lock.shared():
                    assert lock.value == counts[0]
        return done

    total = sum(world.finish([world.worker(use, i) for i in range(9)]))
    with nodes[0].shared():
        assert nodes[0].value == counts[0] == total


def test_a_full_lockspace(world: World) -> None:
    ls = world.connect(capacity=16)
    full = 0
    for i in range(40):
        try:
            with ls.cached(f"r{i}").exclusive() as lock:
                lock.lvb = b"x"
        except pydlm.LockspaceFull:
            full += 1
    assert full
    with ls.cached("r0").exclusive() as lock:
        assert lock.lvb.rstrip(b"\0") == b"x"


def test_a_stack_that_cannot(world: World) -> None:
    class Weak(LocalStack):
        capabilities = LocalStack.capabilities - {"bast", "cancel"}

    stack = Weak.connect(world.name)
    ls = Lockspace(world.name, stack, connect_again=lambda: Weak.connect(world.name))
    with pytest.raises(pydlm.Unsupported, match="bast, cancel"):
        ls.cached("r")
    ls.close()
    ls = Lockspace(world.name, LocalStack.connect(world.name))
    with pytest.raises(pydlm.Unsupported, match="connect"):
        ls.cached("r")
    ls.close()
