"""Handles and connections that nobody refers to any more."""

from __future__ import annotations

import gc
import sys
import warnings
import weakref
from typing import Any

import pytest

import pydlm
from pydlm import Mode


def test_a_held_handle_is_released_with_a_warning(world: Any) -> None:
    ls, other = world.connect(), world.connect()
    lk = ls.lock("x")
    lk.acquire()
    lk.lvb = b"last words"
    with pytest.warns(ResourceWarning, match=r"b'x' EX .* was held"):
        del lk
    heir = other.lock("x")
    assert heir.acquire(blocking=False)
    assert world.usage() == (1, 1)


def test_what_it_had_written_is_published(world: Any) -> None:
    ls, other = world.connect(), world.connect()
    lk, heir = ls.lock("x"), other.lock("x")
    lk.acquire()
    lk.lvb = b"last words"
    with pytest.warns(ResourceWarning):
        del lk
    assert heir.acquire(blocking=False) and heir.lvb[:10] == b"last words"


def test_whoever_waits_gets_it(world: Any) -> None:
    ls = world.connect()
    lk, other = ls.lock("x"), ls.lock("x")
    lk.acquire()
    waiting = world.thread(other.acquire)
    world.queued(ls, "x")
    with pytest.warns(ResourceWarning):
        del lk
    assert waiting.result()


def test_an_idle_handle_goes_silently(world: Any) -> None:
    ls = world.connect()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for i in range(100):
            lk = ls.lock(f"r{i}")
            lk.fileno()
            with lk:
                pass
        del lk
    assert world.usage() == (0, 0)


def test_a_warning_that_is_an_error_does_no_harm(
    world: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ls = world.connect()
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda info: seen.append(info.exc_value))
    lk = ls.lock("x")
    lk.acquire()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del lk
    assert [type(error) for error in seen] == [ResourceWarning]
    assert world.usage() == (0, 0)


def test_a_handle_in_a_cycle(world: Any) -> None:
    ls = world.connect()

    class Owner:
        def __init__(self) -> None:
            self.lk = ls.lock("x")
            self.me = self

    Owner().lk.acquire()
    with pytest.warns(ResourceWarning):
        gc.collect()
    assert world.usage() == (0, 0)


def test_a_handle_that_another_thread_lets_go(world: Any) -> None:
    ls = world.connect()
    box = [ls.lock("x")]
    box[0].acquire()
    with pytest.warns(ResourceWarning):
        world.thread(box.clear).result()
    assert ls.lock("x").acquire(blocking=False)


def test_collections_while_others_work_on_the_resource(world: Any) -> None:
    ls = world.connect()
    stop: list[None] = []

    def work() -> None:
        lk = ls.lock("x")
        while not stop:
            with lk:
                pass

    def collect() -> None:
        while not stop:
            gc.collect()

    tasks = [world.worker(work), world.worker(work), world.worker(collect)]
    for i in range(2000):
        lk: Any = ls.lock("x")
        if lk.acquire(blocking=False, mode=Mode.CR):
            if i % 2:
                lk.release()
        cycle = [lk]
        cycle.append(cycle)  # type: ignore[arg-type]
    del lk, cycle
    stop.append(None)
    tasks.pop().result()  # or else a collection of its own would make ours do nothing
    gc.collect()  # the workers wait for what was held
    for task in tasks:
        task.result()
    gc.collect()
    assert world.usage() == (0, 0)


def test_a_handle_keeps_its_connection(world: Any) -> None:
    world.connect()
    lk = pydlm.connect(world.name, stack="local").lock("x")
    gc.collect()
    with lk:
        lk.lvb = b"there"
    assert lk.client.connected


def test_a_connection_with_held_locks(world: Any) -> None:
    other = world.connect()
    ls = pydlm.connect(world.name, stack="local")
    gone = weakref.ref(ls.stack)
    locks = [ls.lock(f"r{i}") for i in range(10)]
    for lk in locks:
        lk.acquire()
    ls.fileno(), lk.fileno()
    with pytest.warns(ResourceWarning):
        del ls, locks, lk
    assert gone() is None
    assert world.usage(other) == (0, 0)
    assert other.dispatch() == []  # it has left, not died


def test_a_connection_in_a_cycle(world: Any) -> None:
    other = world.connect()
    ls: Any = pydlm.connect(world.name, stack="local")
    ls.stack.lock("x", Mode.EX)
    ls.me = ls
    assert ls.dispatch(1) and ls.fileno()
    del ls
    gc.collect()
    assert world.usage(other) == (0, 0)


def test_events_that_nobody_has_read_keep_nothing_alive(world: Any) -> None:
    other = world.connect()
    ls: Any = pydlm.connect(world.name, stack="local")
    gone = weakref.ref(ls.stack)
    ls.dispatch()
    locks = [ls.lock("x"), ls.lock("y")]
    for lk in locks:
        lk.acquire()
        other.lock(lk.name).acquire(timeout=0)
    assert len(ls.dispatch(1)) == 1  # the other one stays
    with pytest.warns(ResourceWarning):
        del locks, lk
    gc.collect()
    assert world.usage(other) == (0, 0)
    del ls
    gc.collect()
    assert gone() is None


def test_no_event_brings_a_handle_back(alone: Any) -> None:
    alone(_event_at_its_end)


def _event_at_its_end() -> None:
    import sys
    import warnings

    import pydlm

    warnings.simplefilter("ignore")
    ls, other = pydlm.connect("x"), pydlm.connect("x")
    ls.fileno()
    lk = ls.lock("r")
    lk.acquire()
    other.lock("r").acquire(timeout=0)
    events = []

    def at_any_call(frame, what, arg):
        if what == "call" and not events:
            events.append(None)
            events.extend(ls.dispatch())

    sys.setprofile(at_any_call)  # so it is called in the midst of the handle's end
    del lk
    sys.setprofile(None)
    for event in filter(None, events):
        assert event.lock is None
    ls.close()


def test_the_names_of_lockspaces_are_forgotten(world: Any) -> None:
    from pydlm.stacks import local

    before = len(local._arenas)
    for i in range(50):
        pydlm.connect(f"passing {i}", stack="local").lock("x")
    gc.collect()
    assert len(local._arenas) == before


def test_no_event_hands_out_a_handle_that_is_going(world: Any) -> None:
    # Weak references to it run Python while it goes.
    ls, other = world.connect(), world.connect()
    ls.fileno()
    lk, contender = ls.lock("x"), other.lock("x")
    lk.acquire()
    waiting = world.thread(contender.acquire)
    seen: list[Any] = []
    ref = weakref.ref(lk, lambda _: seen.extend(ls.dispatch()))
    with pytest.warns(ResourceWarning):
        del lk
    assert waiting.result()
    assert seen == [] and ref() is None


def test_a_connection_closed_from_the_end_of_a_handle(world: Any) -> None:
    ls = pydlm.connect(world.name, stack="local")
    lk = ls.lock("x")
    ref = weakref.ref(lk, lambda _: ls.close())
    del lk
    assert ref() is None
    assert world.usage(world.connect()) == (0, 0)
