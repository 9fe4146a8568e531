"""Waits that end otherwise than by a grant: cancelled, interrupted, closed, collected, forked."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import threading
import time
import warnings
from collections.abc import Callable

import pytest
from tests.blocking.threads import SOON, Interrupt, Thread, in_line, nothing_left, queued, until

import pydlm
from pydlm import Lock, Lockspace, Mode

pytestmark = pytest.mark.filterwarnings("ignore:.* was held when its last ref:ResourceWarning")

NL, CR, CW, PR, PW, EX = Mode


# Cancelling.


@pytest.mark.usefixtures("sleeps_first")
def test_cancel(a: Lockspace, b: Lockspace) -> None:
    one, two = a.lock("r"), b.lock("r")
    one.acquire()
    assert one.cancel() is False and one.locked()
    waits = Thread(two.acquire)
    queued(a, "r")
    waits_in_line = in_line(two, two.acquire, timeout=2 * SOON)
    assert two.cancel() is True
    for thread in (waits, waits_in_line):
        with pytest.raises(pydlm.Cancelled):
            thread.result()
    assert one.locked() and two.cancel() is False
    one.release()
    nothing_left(a)
    assert two.acquire(timeout=SOON)


def test_cancel_of_a_conversion(a: Lockspace, b: Lockspace) -> None:
    one, two = a.lock("r"), b.lock("r")
    one.acquire(mode=PR)
    two.acquire(mode=PR)
    converter = Thread(two.convert, EX)
    queued(a, "r")
    with pytest.raises(pydlm.Busy):
        two.release()
    with pytest.raises(pydlm.Busy):
        two.convert(PW)
    assert two.cancel()
    with pytest.raises(pydlm.Cancelled):
        converter.result()
    assert two.granted is PR and two.locked()


# Signals.


def test_interrupted_in_the_queue(
    a: Lockspace, b: Lockspace, interrupt: Callable[..., None]
) -> None:
    one, two = a.lock("r"), b.lock("r")
    one.acquire()
    interrupt(lambda: two.requested is not None and any(k.requested for k in a.dump("r")))
    with pytest.raises(Interrupt):
        two.acquire()
    assert (two.requested, two.locked()) == (None, False)
    assert not any(k.requested for k in a.dump("r"))
    one.release()
    nothing_left(a)
    assert two.acquire(timeout=SOON)


def test_interrupted_when_just_granted(
    a: Lockspace, b: Lockspace, interrupt: Callable[..., None]
) -> None:
    """The grant is faster than the signal handler's exception: it is given back."""
    one, two = a.lock("r"), b.lock("r")
    one.acquire()
    interrupt(lambda: any(k.requested for k in a.dump("r")), first=one.release)
    with pytest.raises(Interrupt):
        two.acquire()
    assert not two.locked()
    nothing_left(a)
    assert one.acquire(timeout=SOON)


@pytest.mark.usefixtures("sleeps_first")
def test_interrupted_in_line(a: Lockspace, interrupt: Callable[..., None]) -> None:
    lk, asleep = a.lock("r"), threading.Event()
    lk.acquire()
    interrupt(asleep.is_set)
    asleep.set()
    with pytest.raises(Interrupt):
        lk.acquire()
    assert lk.locked() and lk.cancel() is False
    lk.release()
    assert lk.acquire(timeout=0)


@pytest.mark.usefixtures("sleeps_first")
def test_interrupted_when_just_called(a: Lockspace, interrupt: Callable[..., None]) -> None:
    """It was its turn to use the handle: now it is the next one's."""
    lk, asleep, behind = a.lock("r"), threading.Event(), []
    lk.acquire()
    interrupt(
        lambda: asleep.is_set() and (behind.append(in_line(lk, lk.acquire)) or True),
        first=lk.release,
    )
    asleep.set()
    with pytest.raises(Interrupt):
        lk.acquire()
    assert behind[0].result() is True and lk.locked()


def test_interrupted_conversion_keeps_the_lock(
    a: Lockspace, b: Lockspace, interrupt: Callable[..., None]
) -> None:
    one, two = a.lock("r"), b.lock("r")
    one.acquire(mode=PR)
    two.acquire(mode=PR)
    interrupt(lambda: any(k.requested for k in a.dump("r")))
    with pytest.raises(Interrupt):
        two.convert(EX)
    assert two.granted is PR and two.locked() and two.requested is None
    one.release()
    assert two.convert(EX, timeout=SOON)


# The verbs of Remote are Python, and no more atomic than that is.
@pytest.mark.parametrize("make", ["native", "verbs"], indirect=True)
def test_storm_of_signals(a: Lockspace, b: Lockspace) -> None:
    """Wherever a signal handler's exception strikes, the next one finds the lock in order."""
    mine, theirs = [b.lock("r"), b.lock("s")], [ls.lock(name) for ls in (a, b) for name in "rs"]
    stop = threading.Event()

    def others(lk: Lock) -> int:
        n = 0
        while not stop.is_set():
            with lk:
                n += 1
        return n

    def strike(*_: object) -> None:
        raise Interrupt

    threads = [Thread(others, lk) for lk in theirs]
    old = signal.signal(signal.SIGALRM, strike)
    hits = 0
    ended = time.monotonic() + 2.0
    while time.monotonic() < ended:
        for lk in mine:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00001 + hits % 97 * 0.00001)
                while True:
                    lk.acquire()
                    lk.release()
            except Interrupt:
                hits += 1
            if lk.locked():
                lk.release()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)
    stop.set()
    assert hits > 100 and all(thread.result() for thread in threads)
    nothing_left(a, "r")
    nothing_left(a, "s")


def test_signal_handler_that_uses_locks(
    a: Lockspace, b: Lockspace, interrupt: Callable[..., None]
) -> None:
    """It does not raise: the wait that it interrupted goes on."""
    one, two, three = a.lock("r"), a.lock("r"), a.lock("s")

    def use_them() -> None:
        with three:
            assert not three.acquire(timeout=0.01)
        one.release()

    one.acquire()
    interrupt(lambda: any(k.requested for k in a.dump("r")), first=use_them, raises=False)
    assert two.acquire(timeout=SOON) and not one.locked() and not three.locked()


# Closing.


@pytest.mark.usefixtures("sleeps_first")
@pytest.mark.parametrize("what", ["lock", "lockspace"])
def test_close_while_others_wait(a: Lockspace, b: Lockspace, what: str) -> None:
    one, two = a.lock("r"), b.lock("r")
    one.acquire()
    waits = Thread(two.acquire, timeout=2 * SOON)
    queued(a, "r")
    waits_in_line = in_line(two, two.acquire)
    (two if what == "lock" else b).close()
    for thread in (waits, waits_in_line):
        with pytest.raises(pydlm.Closed):
            thread.result()
    one.release()
    nothing_left(a)
    assert len(list(a.dump("r"))) == 1


@pytest.mark.usefixtures("sleeps_first")
@pytest.mark.parametrize("what", ["lock", "lockspace"])
def test_close_when_just_called(a: Lockspace, b: Lockspace, what: str) -> None:
    lk = b.lock("r")
    lk.acquire()
    called = in_line(lk, lk.acquire)
    lk.release()
    (lk if what == "lock" else b).close()
    with contextlib.suppress(pydlm.Closed):
        assert called.result() is True  # it came before
    assert not lk.locked()
    until(lambda: not list(a.dump("r")))


def test_closed(a: Lockspace, b: Lockspace) -> None:
    one, two, three = a.lock("r"), b.lock("r"), a.lock("r")
    one.acquire()
    one.close()
    one.close()
    assert two.acquire(timeout=SOON)
    b.close()
    for lk, text in ((one, "the lock is closed"), (two, "the connection .*is closed")):
        assert lk.locked() is False
        for use in (lk.acquire, lk.release, lk.cancel, lk.fileno, lambda lk=lk: lk.convert(PR)):
            with pytest.raises(pydlm.Closed, match=text):
                use()
        for what in ("name", "lkid", "granted", "requested", "blocked", "token", "lvb"):
            with pytest.raises(pydlm.Closed, match=text):
                getattr(lk, what)
    two.close()
    with pytest.raises(pydlm.Closed):
        b.lock("r")
    with pytest.raises(pydlm.Closed):
        b.dispatch()
    assert three.acquire(timeout=0)


def test_collected(a: Lockspace, b: Lockspace) -> None:
    lk, held, other = a.lock("r"), a.lock("r"), b.lock("r")
    held.acquire()
    held.lvb = b"written"
    locks = [held]
    del held
    with pytest.warns(ResourceWarning, match="b'r' EX at .* was held when its last reference"):
        locks.clear()
    assert other.acquire(timeout=SOON)
    assert other.lvb.startswith(b"written")
    other.release()
    del lk
    a.lock("s").close()
    until(lambda: len(list(b.dump("r"))) == 1)


def test_fork(a: Lockspace, b: Lockspace) -> None:
    lk, idle, other = a.lock("r"), a.lock("s"), b.lock("r")
    lk.acquire()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forks with threads: Python 3.12
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for use in (lk.release, lk.acquire, idle.acquire, lk.cancel, lambda: a.lock("x")):
                with pytest.raises(pydlm.Forked):
                    use()
            assert not lk.locked() and repr(lk).startswith("<closed")
            lk.close()
            a.close()
            del lk, idle
            gc.collect()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert lk.locked() and not other.acquire(False)
    lk.release()
    assert other.acquire(timeout=SOON)
