"""The interpreter's own lock: whoever has to wait for a shard lets others run meanwhile.

What makes a shard busy here are the checks of all its locks, which are done without the GIL. So
a call finds its shard taken, gives the GIL up, and others come in between.
"""

from __future__ import annotations

from typing import Any

import pytest

from pydlm import Busy, Closed, Mode, NotHeld

CROWD = 2000


@pytest.fixture
def busy(world: Any) -> Any:
    """A resource of which the shard is taken nearly all the time."""
    ls = world.connect(deadlock_wait=None)
    crowd = [ls.lock("busy") for _ in range(CROWD)]
    stop: list[None] = []

    def check() -> None:
        while not stop:
            ls.stack.arena.check()

    task = world.worker(check)
    yield ls
    stop.append(None)
    task.result()
    del crowd


def test_no_call_stops_the_interpreter(alone: Any) -> None:
    alone(_everything_at_once)


def _everything_at_once() -> None:
    import contextlib
    import sys
    import threading
    import time

    import pydlm
    from pydlm import LockFlag, Mode

    sys.setswitchinterval(1e-5)
    ls, other = pydlm.connect("x", capacity=3200), pydlm.connect("x", deadlock_wait=0)
    crowd = [ls.lock("busy") for _ in range(3000)]
    end = time.monotonic() + 3
    counts = {}

    def repeat(name, call):
        counts[name] = 0
        while time.monotonic() < end:
            with contextlib.suppress(pydlm.DlmError):
                call()
            counts[name] += 1

    holder, waiter, opened = ls.lock("busy"), other.lock("busy"), ls.lock("busy")
    mine, theirs = pydlm.connect("x").stack, pydlm.connect("x").stack

    def hand_over(lk):
        if lk.acquire(timeout=0.001):
            lk.release()

    def raw(stack):
        lkid = stack.lock("busy", Mode.CR, LockFlag.VALBLK)
        stack.convert(lkid, Mode.NL)
        stack.unlock(lkid)
        stack.dispatch()

    def fill():
        extra = []
        try:
            for _ in range(300):
                extra.append(ls.lock("other"))
        finally:
            for lk in extra:
                lk.close()

    def descriptors():
        lk = ls.lock("busy")
        lk.fileno()
        lk.close()

    calls = {
        "check": ls.stack.arena.check,
        "holder": lambda: hand_over(holder),
        "waiter": lambda: hand_over(waiter),
        "reader": lambda: opened.acquire(mode=Mode.CR) and opened.release(),
        "blocked": lambda: holder.blocked,
        "dump": lambda: other.dump("busy"),
        "dispatch": other.dispatch,
        "raw": lambda: raw(mine),
        "raw too": lambda: raw(theirs),
        "fill": fill,
        "purge": lambda: theirs.purge(0),
        "descriptors": descriptors,
    }
    threads = [threading.Thread(target=repeat, args=item) for item in calls.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert min(counts.values()) > 0, counts
    ls.stack.arena.check()
    assert len(crowd) == 3000


def test_two_that_release_the_same(world: Any, busy: Any) -> None:
    lk = busy.lock("busy")
    for _ in range(50):
        lk.acquire(mode=Mode.CR)
        tasks = [world.worker(lk.release) for _ in range(3)]
        errors = [task.error() for task in tasks]
        assert sum(error is None for error in errors) == 1, errors
        assert sum(isinstance(error, NotHeld | Busy) for error in errors) == 2
        assert not lk.locked()


def test_a_late_release_does_not_hit_the_next_holder(world: Any, busy: Any) -> None:
    lk = busy.lock("busy")
    for _ in range(50):
        lk.acquire(mode=Mode.CR)
        tasks = [world.worker(lk.release) for _ in range(2)]
        nexts = [world.worker(lk.acquire, mode=Mode.CR) for _ in range(2)]
        errors = [task.error() for task in tasks]
        released = sum(error is None for error in errors)
        # As many have it now as have been let in: one, and none before the other gives it up.
        assert released >= 1
        if released == 1:
            world.until(lambda nexts=nexts: any(task.done for task in nexts))
            assert sum(task.done for task in nexts) == 1 and lk.locked()
            lk.release()
        for task in nexts:
            assert task.result()
        assert lk.locked()
        lk.release()


@pytest.mark.parametrize("use", ["release", "acquire", "convert", "lvb"])
def test_closed_while_another_call_waits_for_the_shard(world: Any, busy: Any, use: str) -> None:
    for i in range(60):
        lk = busy.lock("busy")
        if use != "acquire":
            lk.acquire(mode=Mode.PW if use == "lvb" else Mode.CR)
        calls = {
            "release": lk.release,
            "acquire": lambda lk=lk: lk.acquire(mode=Mode.CR),
            "convert": lambda lk=lk: lk.convert(Mode.CW),
            "lvb": lambda lk=lk: setattr(lk, "lvb", b"x"),
        }
        tasks = [world.worker(calls[use]), world.worker(lk.close)]
        if i % 2:
            tasks.reverse()
        errors = [task.error() for task in tasks]
        assert all(error is None or isinstance(error, Closed) for error in errors), errors
        assert not lk.locked()
        for call in (lk.acquire, lk.release, lambda lk=lk: lk.token):
            with pytest.raises(Closed):
                call()
    busy.stack.arena.check()


@pytest.mark.parametrize("use", ["release", "acquire", "open", "raw"])
def test_left_while_a_call_waits_for_the_shard(world: Any, busy: Any, use: str) -> None:
    for _ in range(40):
        ls = world.connect()
        lk = ls.lock("busy")
        if use == "release":
            lk.acquire(mode=Mode.CR)
        calls = {
            "release": lk.release,
            "acquire": lambda lk=lk: lk.acquire(mode=Mode.CR),
            "open": lambda ls=ls: ls.lock("busy"),
            "raw": lambda ls=ls: ls.stack.lock("busy", Mode.CR),
        }
        tasks = [world.worker(calls[use]), world.worker(ls.close)]
        errors = [task.error() for task in tasks]
        assert all(error is None or isinstance(error, Closed) for error in errors), errors
        with pytest.raises(Closed):
            lk.acquire()
        assert all(s.client != ls.node for s in busy.dump("busy"))
        world.spaces.remove(ls)
    busy.stack.arena.check()


def test_handles_and_their_connection_closed_at_once(alone: Any) -> None:
    alone(_all_closed_at_once)


def _all_closed_at_once() -> None:
    import sys
    import threading

    import pydlm

    sys.setswitchinterval(1e-5)
    anchor = pydlm.connect("x", capacity=2100)
    crowd = [anchor.lock("busy") for _ in range(2000)]
    stop = []

    def check():
        while not stop:
            anchor.stack.arena.check()

    def close(go, thing):
        go.wait()
        thing.close()

    checker = threading.Thread(target=check)
    checker.start()
    for _ in range(150):
        ls = pydlm.connect("x")
        things = [ls.lock("busy") for _ in range(12)]
        things.insert(9, ls)
        go = threading.Barrier(len(things))
        threads = [threading.Thread(target=close, args=(go, thing)) for thing in things]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert anchor.stack.arena.usage()["locks"] == len(crowd)
    stop.append(None)
    checker.join()
    anchor.stack.arena.check()
