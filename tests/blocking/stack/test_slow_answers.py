"""Answers that take their time, and what comes between: signals, other threads, the end."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.blocking.stack.stack import stack_of
from tests.blocking.threads import SOON, Interrupt, Thread, strike, until

import pydlm
from pydlm import LockFlag, Mode
from pydlm.blocking import BlockingLocks

pytestmark = pytest.mark.filterwarnings("ignore:.* was held when its last ref:ResourceWarning")

NL, CR, CW, PR, PW, EX = Mode
CANCEL = LockFlag.CANCEL


def test_release_waits_until_it_is_confirmed(connect: Callable[..., BlockingLocks]) -> None:
    locks = connect()
    lk, stack = locks.open("r"), stack_of(locks)
    lk.acquire()
    stack.by_hand = True
    releaser = Thread(lk.release)
    until(lambda: lk.requested is NL)
    assert not lk.locked() and lk.granted is EX
    with pytest.raises(pydlm.NotHeld):
        lk.release()
    with pytest.raises(pydlm.NotHeld):
        lk.convert(PR)
    with pytest.raises(pydlm.NotHeld):
        _ = lk.lvb
    assert stack.deliver() == 1
    assert releaser.result() is None and lk.granted is NL


def test_grant_that_is_on_its_way_beats_the_deadline(
    connect: Callable[..., BlockingLocks], other: Any
) -> None:
    locks = connect()
    lk, stack, holder = locks.open("r"), stack_of(locks), other.open("r")
    holder.acquire()
    stack.by_hand = True
    unlock = stack.unlock

    def too_late(*args: Any, **kwargs: Any) -> None:
        del stack.unlock
        holder.release()
        unlock(*args, **kwargs)

    stack.unlock = too_late
    waiter = Thread(lk.acquire, timeout=0.01)
    until(lambda: ("unlock", CANCEL, None) in stack.asked)
    assert waiter.is_alive()
    stack.deliver()
    assert waiter.result() is True and lk.locked()
    stack.by_hand = False
    lk.release()


def test_leadership_passes_on(connect: Callable[..., BlockingLocks], other: Any) -> None:
    """Whoever reads the descriptor, each gets its own completion; and the last one too."""
    locks = connect()
    stack = stack_of(locks)
    names = "abcdef"
    ours = [locks.open(name) for name in names]
    theirs = [other.open(name) for name in names]
    for lk in theirs:
        lk.acquire()
    threads = []
    for lk in ours:
        threads.append(Thread(lk.acquire))
        until(lambda lk=lk: lk.requested)
    stack.by_hand = True
    for i in (0, 3, 1, 5, 4, 2):  # the first one leads at first
        theirs[i].release()
        stack.deliver()
        assert threads[i].result() is True
    assert all(lk.locked() for lk in ours)
    stack.by_hand = False


def test_user_who_dispatches_wakes_those_who_wait(
    connect: Callable[..., BlockingLocks], other: Any
) -> None:
    """The leader sleeps on a descriptor that somebody else has read."""
    locks = connect()
    lk, stack, holder = locks.open("r"), stack_of(locks), other.open("r")
    holder.acquire()
    waiter = Thread(lk.acquire)
    until(lambda: lk.requested)
    until(lambda: locks._poller is not None and locks._poller.busy)
    stack.by_hand = True
    holder.release()
    stack.events.extend(stack.inner.dispatch())  # without a word to the descriptor
    assert locks.dispatch() == []
    assert waiter.result() is True
    stack.by_hand = False


def interrupted(function: Callable[[], object], *conditions: Callable[[], object]) -> None:
    """Run in the main thread; interrupt it once each of the conditions has come."""
    struck = threading.Event()

    def handler(*_: object) -> None:
        if not struck.is_set():
            struck.set()
            raise Interrupt

    def strike_all() -> None:
        for condition in conditions:
            until(condition)
            struck.clear()
            strike(struck)

    old = signal.signal(signal.SIGUSR1, handler)
    thread = Thread(strike_all)
    try:
        with pytest.raises(Interrupt):
            function()
    finally:
        thread.result()
        signal.signal(signal.SIGUSR1, old)


@pytest.mark.parametrize("granted", [False, True])
def test_interrupted_twice(
    connect: Callable[..., BlockingLocks], other: Any, granted: bool
) -> None:
    """Who does not wait for its request to be taken back leaves that to a thread."""
    locks = connect()
    lk, stack, holder = locks.open("r"), stack_of(locks), other.open("r")
    holder.acquire()
    stack.by_hand = True

    def cancelled() -> bool:
        return ("unlock", CANCEL, None) in stack.asked

    def first() -> bool:
        if any(k.requested for k in other.dump("r")):
            if granted:
                holder.release()
            return True
        return False

    interrupted(lk.acquire, first, cancelled)
    assert not lk.locked() and lk.requested is EX
    assert not lk.acquire(False)
    stack.by_hand = False
    stack.deliver()
    until(lambda: lk.requested is None)
    if not granted:
        holder.release()
    assert holder.acquire(timeout=SOON)
    holder.release()
    assert lk.acquire(timeout=SOON)
    lk.release()


def test_interrupted_where_nothing_can_be_cancelled(
    connect: Callable[..., BlockingLocks], other: Any
) -> None:
    lk, holder = connect("cancel").open("r"), other.open("r")
    holder.acquire()
    interrupted(lk.acquire, lambda: any(k.requested for k in other.dump("r")))
    assert not lk.locked() and lk.requested is EX
    with pytest.raises(pydlm.Unsupported):
        lk.cancel()
    holder.release()  # now it is granted, to nobody
    assert holder.acquire(timeout=SOON)
    holder.release()
    assert lk.acquire()
    lk.release()


def test_interrupted_release_is_a_release(connect: Callable[..., BlockingLocks]) -> None:
    locks = connect()
    lk, stack = locks.open("r"), stack_of(locks)
    lk.acquire()
    stack.by_hand = True

    def asleep() -> bool:
        return lk.requested is NL and locks._poller is not None and locks._poller.busy

    def asleep_again() -> bool:
        return asleep() and lk._waiter is not None and lk._waiter.disowned

    interrupted(lk.release, asleep, asleep_again)
    assert not lk.locked()
    stack.by_hand = False
    stack.deliver()
    until(lambda: lk.requested is None)
    assert lk.granted is NL and lk.acquire(timeout=0)
    lk.release()


def test_signal_handler_inside_the_guard(connect: Callable[..., BlockingLocks], other: Any) -> None:
    """It uses a lock of the connection that the main thread is just at work on."""
    locks = connect()
    lk, mine, theirs, stack = locks.open("r"), locks.open("s"), locks.open("t"), stack_of(locks)
    holder = other.open("t")
    holder.acquire()
    leader = Thread(theirs.acquire)  # cannot read the answers: the main thread has the guard
    until(lambda: locks._leader is not None)
    lk.acquire()
    convert = stack.convert

    def struck(*args: Any, **kwargs: Any) -> None:
        del stack.convert
        signal.raise_signal(signal.SIGUSR1)
        convert(*args, **kwargs)

    def release(*_: object) -> None:
        lk.release()
        stack.by_hand = False

    old = signal.signal(signal.SIGUSR1, release)
    try:
        stack.convert = struck
        stack.by_hand = True
        carrier = Thread(until, lambda: not lk.locked() and stack.deliver())
        assert mine.acquire(blocking=False)
    finally:
        signal.signal(signal.SIGUSR1, old)
    carrier.result()
    assert lk.granted is NL and mine.granted is EX
    holder.release()
    assert leader.result() is True


@pytest.mark.parametrize("phase", ["acquire", "release"])
def test_closed_while_a_request_travels(
    connect: Callable[..., BlockingLocks], other: Any, phase: str
) -> None:
    locks = connect()
    lk, stack = locks.open("r"), stack_of(locks)
    if phase == "release":
        lk.acquire()
    stack.by_hand = True
    thread = Thread(getattr(lk, phase))
    until(lambda: lk.requested is not None)
    closer = Thread(lk.close)
    with pytest.raises(pydlm.Closed):
        thread.result()
    assert closer.is_alive()
    stack.deliver()
    closer.result()
    stack.by_hand = False
    assert not other.dump("r") and locks.dispatch() == []
