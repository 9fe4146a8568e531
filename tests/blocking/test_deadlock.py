"""Locks made of verbs never take a wait that can end for a deadlock."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from tests.blocking.threads import SOON, Thread, until
from tests.verbs import Verbs

from pydlm import Lock, Lockspace


@pytest.fixture
def ls() -> Iterator[Lockspace]:
    # The stack's own waiters would search at once.
    with Lockspace("tests", Verbs(deadlock_wait=0)) as ls:  # type: ignore[arg-type]
        yield ls


@pytest.mark.parametrize("same_handle", [True, False])
def test_a_thread_that_waits_for_what_it_took(ls: Lockspace, same_handle: bool) -> None:
    """As with threading.Lock, somebody else may release it."""
    one = ls.lock("r")
    two = one if same_handle else ls.lock("r")
    one.acquire()

    def release() -> None:
        until(lambda: two._line if same_handle else two.requested)  # type: ignore[attr-defined]
        one.release()

    releaser = Thread(release)
    assert two.acquire()
    releaser.result()
    two.release()


def test_a_circle_with_time_outs_ends_by_them(ls: Lockspace) -> None:
    barrier = threading.Barrier(2)
    ends: list[bool] = []

    def work(first: Lock, second: Lock) -> None:
        with first:
            barrier.wait(SOON)
            ends.append(second.acquire(timeout=0.05))
            barrier.wait(SOON)  # so that nobody's wait ends by the other one's release

    a, b = (ls.lock(name) for name in "ab")
    threads = [threading.Thread(target=work, args=pair) for pair in ((a, b), (b, a))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ends == [False, False]


def test_a_lock_taken_on_behalf_of_another_thread(ls: Lockspace) -> None:
    """Who took it waits for the one that will release it: no circle of handles."""
    a, b = ls.lock("a"), ls.lock("b")
    a.acquire()  # for the worker
    b_taken = threading.Event()

    def work() -> None:
        with b:
            b_taken.set()
            a.release()
            assert a.acquire()
            a.release()

    thread = threading.Thread(target=work)
    thread.start()
    b_taken.wait(SOON)
    with b:
        pass
    thread.join()
