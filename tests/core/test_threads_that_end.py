"""Threads that end while they hold or wait, and an interpreter that ends under them."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from pydlm import NotHeld


def test_what_a_thread_held_stays_held(world: Any) -> None:
    # The handle owns the lock, not the thread.
    lk, other = world.handles("x", 2)
    assert world.thread(lk.acquire).result()
    assert lk.locked() and not other.acquire(blocking=False)
    lk.release()
    with pytest.raises(NotHeld):
        lk.release()
    assert other.acquire(blocking=False)


def test_a_thread_that_ends_by_an_error_in_its_block(world: Any) -> None:
    lk, other = world.handles("x", 2)

    def fails() -> None:
        with lk:
            lk.lvb = b"so far"
            raise ZeroDivisionError

    assert isinstance(world.thread(fails).error(), ZeroDivisionError)
    assert other.acquire(blocking=False) and other.lvb[:6] == b"so far"


def test_daemon_threads_that_wait_when_the_interpreter_ends(alone: Any) -> None:
    alone(_daemons_wait)


def _daemons_wait() -> None:
    import threading

    import pydlm

    ls, other = pydlm.connect("x"), pydlm.connect("x", deadlock_wait=0.001)
    holder = ls.lock("r")
    holder.acquire()
    waiters = [other.lock("r") for _ in range(5)]
    calls = [lk.acquire for lk in waiters]
    calls += [waiters[0].acquire] * 3  # in line
    calls += [lambda lk=lk: lk.acquire(timeout=3600) for lk in [ls.lock("r"), ls.lock("r")]]
    for call in calls:
        threading.Thread(target=call, daemon=True).start()
    while sum(s.requested is not None for s in ls.dump("r")) < 7:
        pass


@pytest.mark.skipif(
    sys.version_info < (3, 11),
    reason="CPython 3.10 may crash where daemon threads wait for the GIL as it ends: take_gil "
    "reads the state of an interpreter that is gone, with threading.Lock in 1 of 50 runs",
)
def test_daemon_threads_that_work_when_the_interpreter_ends(alone: Any) -> None:
    for _ in range(3):
        alone(_daemons_work)


def _daemons_work() -> None:
    import threading

    import pydlm

    done = [0] * 7
    ls, other = pydlm.connect("x"), pydlm.connect("x")
    shared = ls.lock("shared")

    def hand_over(i):
        lk = (ls, other)[i % 2].lock("r")
        lk.fileno()
        while True:
            with lk, shared:
                done[i] += 1

    def give_up():
        lk = other.lock("r")
        while True:
            if lk.acquire(timeout=0.0001):
                lk.release()
            done[4] += 1

    def open_and_close():
        while True:
            with pydlm.connect("x") as mine, mine.lock("r"):
                done[5] += 1

    def look():
        while True:
            ls.dispatch()
            ls.dump()
            done[6] += 1

    for target in [lambda i=i: hand_over(i) for i in range(4)] + [give_up, open_and_close, look]:
        threading.Thread(target=target, daemon=True).start()
    while min(done) < 10:
        pass


def test_locks_that_are_held_when_the_interpreter_ends(alone: Any) -> None:
    alone(_held_at_exit)


def _held_at_exit() -> None:
    import atexit
    import threading

    import pydlm

    global ls, lk, cycle
    ls = pydlm.connect("x")
    lk = ls.lock("r")
    lk.acquire()
    lk.lvb = b"last words"
    lk.fileno(), ls.fileno()
    cycle = [ls.lock("s")]
    cycle.append(cycle)
    cycle[0].acquire()
    local = threading.local()
    local.lock = ls.lock("t")
    local.lock.acquire()
    atexit.register(lambda: ls.lock("late").acquire())


@pytest.mark.parametrize("how", ["close", "release"])
def test_daemon_threads_in_line_that_end_before_the_line_does(
    alone: Any, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOW", how)
    alone(_line_outlives_its_threads)


def _line_outlives_its_threads() -> None:
    import os
    import threading
    import time

    import pydlm

    ls = pydlm.connect("x", deadlock_wait=0.2)
    lk = ls.lock("r")
    lk.acquire()
    started = [0]

    def wait():
        started[0] += 1
        lk.acquire()

    for _ in range(30):
        threading.Thread(target=wait, daemon=True).start()
    while started[0] < 30:
        time.sleep(0.001)

    class AtTheEnd:
        """Comes when the interpreter ends: the threads wake for their search, and go."""

        def __init__(self):
            self.sleep, self.end = (
                time.sleep,
                {"close": ls.close, "release": lk.release}[os.environ["HOW"]],
            )

        def __del__(self):
            self.sleep(0.4)
            self.end()

    globals()["at_the_end"] = AtTheEnd()
