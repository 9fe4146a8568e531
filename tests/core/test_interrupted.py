"""Signals: one that raises ends the wait and leaves nothing of it; others do not matter."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pydlm import Cancelled, Closed, Mode
from pydlm.types import Queue

MAIN = threading.main_thread().ident or 0


class Stop(Exception):
    pass


@pytest.fixture(autouse=True)
def raises_stop(interrupts: Any) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Stop

    interrupts(signal.SIGUSR1, stop)
    interrupts(signal.SIGINT, signal.default_int_handler)
    return


def kick(number: int = signal.SIGUSR1) -> None:
    signal.pthread_kill(MAIN, number)


@pytest.fixture
def when_asleep(world: Any, asleep: Any) -> Callable[[Callable[[], object]], Any]:
    """Do something once the main thread waits, which is when it lets go of the GIL."""

    def when_asleep(what: Callable[[], object]) -> Any:
        ready = threading.Lock()
        ready.acquire()

        def run() -> object:
            ready.acquire()
            asleep()
            return what()

        task = world.thread(run)
        ready.release()
        return task

    return when_asleep


class PollFd(ctypes.Structure):
    _fields_ = [("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short)]


@pytest.fixture
def kick_and_keep() -> Iterator[Callable[[], None]]:
    """Interrupt the main thread's wait, and keep the GIL, which it now needs to say so."""
    libc = ctypes.PyDLL(None)  # whose calls do not give it up
    receive, send = os.pipe()
    os.set_blocking(send, False)
    before = signal.set_wakeup_fd(send)

    def kick_and_keep() -> None:
        kick()
        poll = PollFd(receive, select.POLLIN, 0)
        assert libc.poll(ctypes.byref(poll), 1, 20_000) == 1
        libc.read(receive, ctypes.create_string_buffer(1), 1)

    yield kick_and_keep
    signal.set_wakeup_fd(before)
    os.close(receive)
    os.close(send)


def nothing_waits(ls: Any, name: str) -> None:
    assert all(s.queue == Queue.GRANTED for s in ls.dump(name))


@pytest.mark.parametrize("timeout", [-1, 60])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1])
def test_a_wait_in_the_lock_manager(
    world: Any, when_asleep: Any, uninterrupted: Any, timeout: float, number: int
) -> None:
    ls = world.connect()
    holder, lk = ls.lock("x"), ls.lock("x")
    holder.acquire()
    with uninterrupted():
        task = when_asleep(lambda: (world.queued(ls, "x"), kick(number)))
        with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else Stop):
            lk.acquire(timeout=timeout)
    task.result()
    nothing_waits(ls, "x")
    assert not lk.locked() and holder.locked() and holder.blocked is None
    holder.release()
    assert lk.acquire(blocking=False)


@pytest.mark.parametrize("timeout", [-1, 60])
def test_a_wait_in_line(world: Any, when_asleep: Any, uninterrupted: Any, timeout: float) -> None:
    ls = world.connect(deadlock_wait=None)
    lk = ls.lock("x")
    lk.acquire()
    with uninterrupted():
        task = when_asleep(kick)
        with pytest.raises(Stop):
            lk.acquire(timeout=timeout)
    task.result()
    lk.release()
    assert lk.acquire(blocking=False)
    assert world.usage() == (1, 1)


def test_a_wait_in_the_middle_of_a_line(world: Any, when_asleep: Any, uninterrupted: Any) -> None:
    lk = world.connect(deadlock_wait=None).lock("x")
    order: list[int] = []

    def wait(number: int) -> None:
        with lk:
            order.append(number)

    lk.acquire()
    first = world.thread(wait, 1)
    behind = []

    def after() -> None:
        behind.append(world.thread(wait, 2))
        kick()

    with uninterrupted():
        task = when_asleep(after)
        with pytest.raises(Stop):
            lk.acquire()
    task.result()
    lk.release()
    first.result()
    behind[0].result()
    assert order == [1, 2]


@pytest.mark.parametrize("mode", [Mode.CW, Mode.PW, Mode.EX])
def test_a_conversion_keeps_the_old_mode(
    world: Any, when_asleep: Any, uninterrupted: Any, mode: Mode
) -> None:
    one, two = world.handles("x", 2)
    one.acquire(mode=Mode.PR)
    two.acquire(mode=Mode.PR)
    with uninterrupted():
        task = when_asleep(kick)
        with pytest.raises(Stop):
            one.convert(mode)
    task.result()
    assert one.granted == Mode.PR and one.requested is None
    nothing_waits(world.spaces[0], "x")
    two.release()
    assert one.convert(mode)


# The grant, or the turn, comes between the signal and the thread that has to see it.


def test_a_grant_that_nobody_will_use_is_given_back(
    world: Any, when_asleep: Any, uninterrupted: Any, kick_and_keep: Any
) -> None:
    one, two = world.handles("x", 2)
    third = world.connect().lock("x")
    for _ in range(20):
        one.acquire()
        one.lvb = b"kept"
        behind = world.thread(third.acquire, mode=Mode.PR)

        def race() -> None:
            kick_and_keep()
            one.release()  # now the main thread, which is about to raise, has the lock

        with uninterrupted():
            task = when_asleep(race)
            with pytest.raises(Stop):
                two.acquire(mode=Mode.PR)
        task.result()
        assert not two.locked()
        assert behind.result() and third.lvb[:4] == b"kept"
        third.release()
        assert all(s.granted == Mode.NL for s in world.spaces[0].dump("x"))


@pytest.mark.parametrize("mode", [Mode.CW, Mode.PW, Mode.EX])
def test_a_conversion_that_was_granted_meanwhile_keeps_the_old_mode_too(
    world: Any, when_asleep: Any, uninterrupted: Any, kick_and_keep: Any, mode: Mode
) -> None:
    # Whoever sees the exception believes in the old mode, and works under it.
    one, two = world.handles("x", 2)
    one.acquire(mode=Mode.PR)
    two.acquire(mode=Mode.PR)

    def race() -> None:
        kick_and_keep()
        two.release()

    with uninterrupted():
        task = when_asleep(race)
        with pytest.raises(Stop):
            one.convert(mode)
    task.result()
    assert one.granted == Mode.PR


def test_a_turn_that_nobody_will_take_goes_to_the_next(
    world: Any, when_asleep: Any, uninterrupted: Any, kick_and_keep: Any
) -> None:
    lk = world.connect(deadlock_wait=None).lock("x")
    for _ in range(20):
        lk.acquire()
        behind = []

        def race() -> None:
            behind.append(world.thread(lk.acquire))
            kick_and_keep()
            lk.release()

        with uninterrupted():
            task = when_asleep(race)
            with pytest.raises(Stop):
                lk.acquire()
        task.result()
        assert behind[0].result()
        lk.release()


def test_interrupts_at_any_moment(world: Any, interrupts: Any) -> None:
    ls = world.connect()
    one, two = ls.lock("x"), ls.lock("x")
    armed: list[None] = []
    stop: list[None] = []

    def handler(*_: object) -> None:
        if armed:
            armed.clear()
            raise Stop

    def pester() -> None:
        while not stop:
            time.sleep(0.00005)
            kick()

    def hold() -> None:
        while not stop:
            with one:
                time.sleep(0)

    interrupts(signal.SIGUSR1, handler)
    tasks = [world.worker(pester), world.worker(hold)]
    interrupted = 0
    try:
        for _ in range(2000):
            armed.append(None)
            try:
                two.acquire()
            except Stop:
                interrupted += 1
            armed.clear()
            if two.locked():
                two.release()
    finally:
        stop.append(None)
        for task in tasks:
            task.result()
    assert interrupted
    nothing_waits(ls, "x")
    assert all(s.granted == Mode.NL for s in ls.dump("x"))
    assert one.acquire(blocking=False)


# Signals that do not raise.


def test_handlers_that_return_let_the_wait_go_on(world: Any, interrupts: Any) -> None:
    ls = world.connect(deadlock_wait=None)
    seen: list[int] = []
    interrupts(signal.SIGUSR2, lambda number, _: seen.append(number))
    holder, lk = ls.lock("x"), ls.lock("x")

    def storm() -> None:
        for i in range(200):
            while len(seen) <= i:  # one that comes just before it sleeps does not wake it
                kick(signal.SIGUSR2)
                time.sleep(0.0002)
        holder.release()

    for handle in (lk, holder):  # in the lock manager, then in line
        seen.clear()
        holder.acquire()
        task = world.thread(storm)
        assert handle.acquire(timeout=60)
        task.result()
        assert len(seen) >= 200
        handle.release()


def test_a_storm_does_not_change_a_timeout(world: Any, interrupts: Any) -> None:
    ls = world.connect(deadlock_wait=None)
    interrupts(signal.SIGALRM, lambda *_: None)
    holder, lk = ls.lock("x"), ls.lock("x")
    holder.acquire()
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        for handle in (lk, holder):
            before = time.monotonic()
            assert not handle.acquire(timeout=0.2)
            assert 0.2 <= time.monotonic() - before < 2
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    nothing_waits(ls, "x")


def test_a_storm_loses_no_grant(world: Any, interrupts: Any) -> None:
    ls = world.connect()
    beats: list[None] = []
    interrupts(signal.SIGALRM, lambda *_: beats.append(None))
    shared, counter = ls.lock("x"), [0]

    def work(lk: Any) -> int:
        done = 0
        while len(beats) < 300:
            with lk:
                assert lk.locked()
                before = counter[0]
                time.sleep(0)
                counter[0] = before + 1
                done += 1
        return done

    tasks = [world.worker(work, lk) for lk in (ls.lock("x"), ls.lock("x"), shared)]
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        done = work(shared)
        done += sum(task.result() for task in tasks)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert counter[0] == done > 0


def test_a_handler_that_uses_the_locks(
    world: Any, interrupts: Any, when_asleep: Any, uninterrupted: Any
) -> None:
    ls = world.connect()
    holder, lk, other = ls.lock("x"), ls.lock("x"), ls.lock("y")

    def handler(*_: object) -> None:
        with other:
            holder.release()  # what the main thread waits for

    interrupts(signal.SIGUSR2, handler)
    holder.acquire()
    with uninterrupted():
        task = when_asleep(lambda: kick(signal.SIGUSR2))
        assert lk.acquire()
    task.result()


@pytest.mark.parametrize("line", [False, True])
@pytest.mark.parametrize(("end", "error"), [("cancel", Cancelled), ("close", Closed)])
def test_a_handler_that_ends_the_wait_itself(
    world: Any,
    interrupts: Any,
    when_asleep: Any,
    uninterrupted: Any,
    end: str,
    error: type[Exception],
    line: bool,
) -> None:
    ls = world.connect(deadlock_wait=None)
    holder, lk = ls.lock("x"), ls.lock("x")
    interrupts(signal.SIGUSR2, lambda *_: getattr(holder if line else lk, end)())
    holder.acquire()
    with uninterrupted():
        task = when_asleep(lambda: kick(signal.SIGUSR2))
        with pytest.raises(error):
            (holder if line else lk).acquire()
    task.result()
    nothing_waits(ls, "x")
