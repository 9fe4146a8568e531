"""What is closed says so, and whoever waited for it is told."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
from tests.core.uses import HANDLE_USES, SPACE_USES

from pydlm import Closed, Mode
from pydlm.types import Queue


def assert_dead(lk: Any) -> None:
    for use in HANDLE_USES.values():
        with pytest.raises(Closed) as excinfo:
            use(lk)
        assert excinfo.value.errno == errno.EBADF
        assert isinstance(excinfo.value, ValueError)
    assert not lk.locked()
    assert "closed" in repr(lk)
    lk.close()


@pytest.mark.parametrize("use", HANDLE_USES)
def test_every_use_of_a_closed_handle(world: Any, use: str) -> None:
    lk = world.connect().lock("x")
    lk.acquire()
    lk.close()
    with pytest.raises(Closed):
        HANDLE_USES[use](lk)
    assert_dead(lk)
    assert world.usage() == (0, 0)


@pytest.mark.parametrize("use", HANDLE_USES)
def test_every_use_of_a_handle_whose_connection_is_closed(world: Any, use: str) -> None:
    ls = world.connect()
    lk = ls.lock("x")
    lk.acquire()
    ls.close()
    with pytest.raises(Closed):
        HANDLE_USES[use](lk)
    assert_dead(lk)


@pytest.mark.parametrize("use", SPACE_USES)
def test_every_use_of_a_closed_connection(world: Any, use: str) -> None:
    ls = world.connect()
    ls.close()
    with pytest.raises(Closed):
        SPACE_USES[use](ls)
    ls.close()
    assert world.name in repr(ls)


@pytest.mark.parametrize("use", SPACE_USES)
def test_every_use_of_an_abandoned_connection(world: Any, use: str) -> None:
    ls = world.connect()
    ls.stack.abandon()
    with pytest.raises(Closed):
        SPACE_USES[use](ls)
    with pytest.raises(Closed):
        ls.stack.abandon()


def test_closing_what_is_held_gives_it_up(world: Any) -> None:
    one, two = world.handles("x", 2)
    one.acquire()
    one.lvb = b"written"
    one.close()
    assert two.acquire(blocking=False)
    assert two.lvb[:7] == b"written"


def test_leaving_a_lockspace_gives_all_up(world: Any) -> None:
    ls, other = world.connect(), world.connect()
    for i in range(100):
        lk = ls.lock(f"r{i % 10}")
        assert lk.acquire(mode=Mode.CR)
        ls.lock(f"r{i % 10}")  # idle
    ls.close()
    assert other.dump() == []
    assert world.usage(other) == (0, 0)


def test_with_on_a_lockspace_closes_it(world: Any) -> None:
    with world.connect() as ls:
        lk = ls.lock("x")
    assert_dead(lk)


def test_a_with_block_that_closes_its_own_lock(world: Any) -> None:
    ls = world.connect()
    with pytest.raises(Closed), ls.lock("x") as lk:
        lk.close()
    with pytest.raises(Closed), ls.lock("x").held(Mode.PR) as lk:
        lk.close()
    assert world.usage() == (0, 0)


@pytest.mark.parametrize("closes", ["handle", "connection", "death"])
def test_waiters_of_what_is_closed_are_told(world: Any, closes: str) -> None:
    ls, other = world.connect(), world.connect()
    holder, lk = other.lock("x"), ls.lock("x")
    holder.acquire()
    waits = [world.thread(lk.acquire)]
    world.queued(other, "x")
    waits += [
        world.thread(lk.acquire),  # in line
        world.thread(lk.acquire, timeout=60),
        world.thread(lk.__enter__),
        world.thread(lk.held(Mode.PR).__enter__),
    ]
    close = {"handle": lk.close, "connection": ls.close, "death": ls.stack.abandon}[closes]
    close()
    assert all(isinstance(task.error(), Closed) for task in waits)
    assert_dead(lk)
    assert [s.queue for s in other.dump("x")] == [Queue.GRANTED]
    assert world.usage(other)[0] == 1


@pytest.mark.parametrize("closes", ["handle", "connection", "death"])
def test_a_conversion_of_what_is_closed_is_told(world: Any, closes: str) -> None:
    ls, other = world.connect(), world.connect()
    holder, lk = other.lock("x"), ls.lock("x")
    holder.acquire(mode=Mode.PR)
    lk.acquire(mode=Mode.PR)
    conversion = world.thread(lk.convert, Mode.EX)
    world.queued(other, "x")
    line = world.thread(lk.acquire)
    {"handle": lk.close, "connection": ls.close, "death": ls.stack.abandon}[closes]()
    assert isinstance(conversion.error(), Closed)
    assert isinstance(line.error(), Closed)
    assert_dead(lk)
    assert holder.convert(Mode.EX, blocking=False)
    assert world.usage(other)[0] == 1


@pytest.mark.parametrize("closes", ["connection", "death"])
def test_leaving_grants_first_what_it_then_takes_away(world: Any, closes: str) -> None:
    # The thread that was granted may come to it in between.
    ls, other = world.connect(), world.connect()
    holder = ls.lock("x")
    holder.acquire()
    between = [ls.lock(f"r{i}") for i in range(5000)]
    lk = ls.lock("x")
    waiting = world.thread(lk.acquire)
    world.queued(other, "x")
    {"connection": ls.close, "death": ls.stack.abandon}[closes]()
    assert isinstance(waiting.error(), Closed)
    assert world.usage(other) == (0, 0)
    assert len(between) == 5000


def test_a_waiter_that_goes_lets_those_behind_it_pass(world: Any) -> None:
    holder, writer, reader = world.handles("x", 3)
    holder.acquire(mode=Mode.PR)
    gone = world.thread(writer.acquire)
    world.queued(world.spaces[0], "x")
    passed = world.thread(reader.acquire, mode=Mode.PR)
    world.queued(world.spaces[0], "x", 2)
    writer.close()
    assert passed.result()
    assert isinstance(gone.error(), Closed)


def test_closed_between_its_call_and_the_thread_that_was_called(alone: Any) -> None:
    alone(_closed_in_turn)


def _closed_in_turn() -> None:
    import sys
    import threading

    import pydlm

    sys.setswitchinterval(1000)  # a thread runs until it waits
    for closes in ("handle", "connection"):
        ls, other = pydlm.connect("x"), pydlm.connect("x")
        lk = ls.lock("r")
        ended = []

        def wait(lk=lk, ended=ended):
            try:
                ended.append(lk.acquire())
            except pydlm.Closed as error:
                ended.append(error)

        lk.acquire()
        thread = threading.Thread(target=wait)
        thread.start()  # is now in line
        lk.release()  # calls it
        (lk if closes == "handle" else ls).close()  # before it runs
        thread.join()
        assert isinstance(ended[0], pydlm.Closed), ended
        try:
            lk.acquire(timeout=0.1)
        except pydlm.Closed:
            pass
        else:
            raise AssertionError("the closed handle works")
        assert other.stack.arena.usage()["locks"] == 0
        other.stack.arena.check()
        ls.close()
        other.close()


def test_closed_between_its_call_and_an_interrupt(alone: Any) -> None:
    alone(_closed_and_interrupted_in_turn)


def _closed_and_interrupted_in_turn() -> None:
    import signal
    import sys
    import threading
    import time

    import pydlm

    sys.setswitchinterval(1000)
    ls = pydlm.connect("x")
    lk = ls.lock("r")
    main = threading.main_thread().ident

    def close():
        signal.pthread_kill(main, signal.SIGINT)
        end = time.monotonic() + 0.05
        while time.monotonic() < end:  # the main thread now wants the GIL back, to raise
            pass
        lk.release()
        lk.close()

    lk.acquire()
    go = threading.Lock()
    go.acquire()
    thread = threading.Thread(target=lambda: go.acquire() and close())
    thread.start()
    try:
        go.release()
        lk.acquire()  # in line
    except (KeyboardInterrupt, pydlm.Closed):
        pass
    thread.join()
    try:
        lk.acquire(timeout=0.1)
    except pydlm.Closed:
        pass
    else:
        raise AssertionError("the closed handle works")
    assert ls.stack.arena.usage()["locks"] == 0


def test_a_slot_is_not_used_again_under_a_thread_that_still_looks_at_it(alone: Any) -> None:
    alone(_granted_then_closed_then_reused)


def _granted_then_closed_then_reused() -> None:
    import sys
    import threading

    import pydlm

    sys.setswitchinterval(1000)
    ls = pydlm.connect("x", deadlock_wait=None)
    holder, one = ls.lock("r"), ls.lock("r")
    ended = []

    def wait():
        try:
            ended.append(one.acquire())
        except pydlm.Closed as error:
            ended.append(error)

    holder.acquire()
    first = threading.Thread(target=wait, daemon=True)
    first.start()  # waits in the lock manager
    holder.release()  # grants it to the thread, which cannot run yet
    one.close()  # and takes it away
    two = ls.lock("r")  # most likely in the slot that is free now
    holder.acquire()
    second = threading.Thread(target=two.acquire, daemon=True)
    second.start()  # waits there
    first.join(5)
    assert ended and isinstance(ended[0], pydlm.Closed), "the first still waits"
    holder.release()
    second.join(5)
    assert not second.is_alive(), "the second was not woken"
    assert two.locked()


def test_a_descriptor_goes_with_its_lock(world: Any) -> None:
    ls = world.connect()
    lk, other = ls.lock("x"), ls.lock("x")
    fds = [lk.fileno(), other.fileno(), ls.fileno()]
    assert len(set(fds)) == 3
    lk.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fds[0])
    os.fstat(fds[1])
    ls.close()
    for fd in fds[1:]:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)


def test_handle_then_connection_closed_before_the_waiter_comes(alone: Any) -> None:
    alone(_closed_twice_under_a_waiter)


def _closed_twice_under_a_waiter() -> None:
    import contextlib
    import sys
    import threading
    import time

    import pydlm

    sys.setswitchinterval(10)  # the waiter is woken, but others keep the interpreter
    keep = pydlm.connect("x")
    held = keep.lock("r")
    held.acquire()
    for _ in range(20):
        ls = pydlm.connect("x")
        lk = ls.lock("r")

        def wait(lk=lk):
            with contextlib.suppress(pydlm.Closed):
                lk.acquire()

        waiting = threading.Thread(target=wait)
        waiting.start()
        while lk.requested is None:
            time.sleep(0.0001)
        lk.close()
        ls.close()
        waiting.join()
        one, two = keep.lock("r"), keep.lock("r")
        assert one.lkid != two.lkid
        keep.stack.arena.check()
        one.close()
        two.close()
    assert keep.stack.arena.usage()["locks"] == 1
