"""Threads, descriptors and memory: no more than are needed, and none that stay."""

from __future__ import annotations

import gc
import os
import select
import signal
import threading
import warnings
import weakref
from _thread import _count as thread_count
from collections.abc import Callable
from typing import Any

import pytest
from tests.blocking.stack.stack import TestStack, stack_of
from tests.blocking.threads import SOON, Thread, until

import pydlm
from pydlm import Blocked, Completion, LockFlag, Mode
from pydlm.blocking import BlockingLocks

pytestmark = pytest.mark.filterwarnings("ignore:.* was held when its last ref:ResourceWarning")

NL, CR, CW, PR, PW, EX = Mode
VALBLK = LockFlag.VALBLK


def test_no_thread_but_the_callers(connect: Callable[..., BlockingLocks], other: Any) -> None:
    locks = connect()
    before = thread_count()
    handles = [locks.open(str(i)) for i in range(20)]
    for lk in handles:
        lk.acquire()
        lk.release()
    locks.fileno()
    assert thread_count() == before
    fds = {lk.fileno() for lk in handles}
    assert len(fds) == 20
    until(lambda: thread_count() == before + 1)
    locks.disconnect()
    until(lambda: thread_count() == before)
    for fd in fds:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)


def test_connection_that_is_forgotten(connect: Callable[..., BlockingLocks], other: Any) -> None:
    before = thread_count()
    locks = BlockingLocks(TestStack(), "tests")  # type: ignore[arg-type]
    lk = locks.open("r")
    lk.fileno()
    lk.acquire()
    until(lambda: thread_count() == before + 1)
    gone = weakref.ref(locks)
    del locks, lk
    until(lambda: gc.collect() is not None and gone() is None)
    until(lambda: thread_count() == before)
    holder = other.open("r")
    assert holder.acquire(timeout=SOON)


def test_collected_by_a_thread_that_holds_the_guard(
    connect: Callable[..., BlockingLocks], other: Any
) -> None:
    """The collector strikes anywhere; what it finds is unlocked by somebody else."""
    locks = connect()
    handles, holder = [locks.open("r"), locks.open("s")], other.open("r")
    handles[0].acquire()
    with locks.guard:
        handles.clear()
        assert len(other.dump("r")) == 2
    assert holder.acquire(timeout=SOON)
    until(lambda: len(other.dump("r")) == 1 and not other.dump("s"))
    locks.dispatch()
    assert len(locks._owners) == 0


def test_fork_while_another_thread_has_the_guard(connect: Callable[..., BlockingLocks]) -> None:
    """In the child nobody will ever let go of it."""
    locks = connect()
    lk = locks.open("r")
    lk.acquire()
    forked, has_it = threading.Event(), threading.Event()

    def hold() -> None:
        with locks.guard:
            has_it.set()
            forked.wait(SOON)

    thread = Thread(hold)
    has_it.wait(SOON)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forks with threads: Python 3.12
        pid = os.fork()
    if pid == 0:
        signal.alarm(int(SOON))
        code = 1
        try:
            uses = [lk.acquire, lk.release, lk.cancel, lk.fileno, locks.dispatch, locks.fileno]
            uses += [lambda: locks.open("s"), lambda: lk.lvb, lambda: lk.blocked]
            for use in uses:
                with pytest.raises(pydlm.Forked):
                    use()
            lk.close()
            locks.disconnect()
            code = 0
        finally:
            os._exit(code)
    forked.set()
    thread.result()
    assert os.waitpid(pid, 0)[1] == 0
    lk.release()


def test_events_for_the_user(connect: Callable[..., BlockingLocks], other: Any) -> None:
    locks = connect()
    lk, stack, rival = locks.open("r"), stack_of(locks), other.open("r")
    lkid = stack.lock(b"mine", EX, VALBLK)
    assert select.select([locks], [], [], SOON)[0]
    lk.acquire()
    threads = [Thread(rival.acquire, mode=PR)]
    until(lambda: lk.blocked is PR)
    threads.append(Thread(other.open("r").acquire))
    until(lambda: lk.blocked is EX)
    first, second = locks.dispatch()
    assert isinstance(first, Completion) and (first.lkid, first.granted) == (lkid, EX)
    assert second == Blocked(lk.lkid, EX, lk)  # the strictest, once
    assert not select.select([locks], [], [], 0)[0]
    lk.release()
    assert threads[0].result()
    rival.release()
    assert threads[1].result()
    for _ in range(3):  # what nobody dispatches is not kept for ever
        lk2 = locks.open("t")
        lk2.acquire()
        assert not other.open("t").acquire(timeout=0.001)
        lk2.close()
    assert locks.dispatch() == []
