"""The parts in C: the gate, the mailbox of the keeper, and the bell of those who wait for it."""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import threading
import time
import weakref

import pytest

from pydlm import NotHeld
from pydlm._core import Bell, Gate, Mailbox


def test_a_gate_counts() -> None:
    left: list[Gate] = []
    gate = Gate(False, left.append)
    gate.allow(True, True, True)
    with gate.shared() as inside, gate.exclusive(), gate.shared():
        assert inside is gate
        assert (gate.shared_uses, gate.exclusive_uses) == (2, 1)
    assert left == [gate, gate], "only when the last of a kind has ended"
    gate.allow(True, True, False)
    with gate.shared():
        pass
    assert len(left) == 2
    gate.admit(True)
    gate.dismiss(True)
    with pytest.raises(NotHeld):
        gate.exclusive().__exit__(None, None, None)


@pytest.mark.parametrize("exclusion", [False, True])
def test_exclusion(exclusion: bool) -> None:
    gate = Gate(exclusion, print)
    gate.allow(True, True, False)

    def passes(exclusive: bool) -> bool:
        try:
            with gate.exclusive() if exclusive else gate.shared():
                return True
        except NotImplementedError:
            return False

    with gate.shared():
        assert passes(False) and passes(True) is not exclusion
    with gate.exclusive():
        assert passes(False) is passes(True) is not exclusion


def test_an_error_in_the_body_ends_the_use() -> None:
    gate = Gate(True, print)
    gate.allow(True, True, False)
    with pytest.raises(ZeroDivisionError), gate.exclusive():
        _ = 1 / 0
    assert gate.exclusive_uses == 0


def test_a_gate_leaves_nothing() -> None:
    class Derived(Gate):
        pass

    gate: Derived | None = Derived(True, print)
    gone = weakref.ref(gate)
    gate = None
    gc.collect()
    assert gone() is None


def test_counts_under_many_threads() -> None:
    gate = Gate(False, print)
    gate.allow(True, True, False)

    def use() -> None:
        for _ in range(20_000):
            with gate.shared(), gate.exclusive():
                pass

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=use) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert (gate.shared_uses, gate.exclusive_uses) == (0, 0)


def test_a_mailbox() -> None:
    mail = Mailbox()
    poll = select.poll()
    poll.register(mail.fileno(), select.POLLIN)
    assert mail.take() == [] and not poll.poll(0)
    assert mail.post(1) and mail.post(2)
    assert poll.poll(0)
    assert mail.take() == [1, 2] and not poll.poll(0)
    assert mail.post(3) and poll.poll(0)
    assert mail.close() == [3] and mail.close() == []
    assert not mail.post(4) and mail.take() == [] and mail.fileno() == -1


def test_a_bell() -> None:
    bell = Bell()
    assert not bell.wait(0) and not bell.wait(1e-4) and not bell.wait(2e-3)
    bell.ring()
    assert bell.wait(0)
    bell = Bell()
    bell.ring()
    assert bell.wait()


def test_bells_that_ring_at_any_moment_of_their_wait() -> None:
    bells = [Bell() for _ in range(200)]
    heard: list[Bell] = []

    def listen(some: list[Bell]) -> None:
        heard.extend(bell for bell in some if bell.wait())

    threads = [threading.Thread(target=listen, args=(bells[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for number, bell in enumerate(bells):
        # Some while it spins, some while it sleeps: the sleep only chooses the moment.
        time.sleep(number * 1e-5)
        bell.ring()
    for thread in threads:
        thread.join()
    assert {*heard} == {*bells}


@pytest.mark.parametrize("delay", [0.0003, 0.003])
def test_a_signal_handler_runs_while_it_spins_and_while_it_sleeps(delay: float) -> None:
    class Struck(Exception):
        pass

    def strike(*_: object) -> None:
        raise Struck

    before = signal.signal(signal.SIGALRM, strike)
    try:
        begin = time.monotonic()
        signal.setitimer(signal.ITIMER_REAL, delay)
        with pytest.raises(Struck):
            Bell().wait(60)
        assert time.monotonic() - begin < 30
    finally:
        signal.signal(signal.SIGALRM, before)


@pytest.mark.filterwarnings("ignore:.*multi-threaded")
def test_fork_while_another_thread_spins() -> None:
    threads = [threading.Thread(target=Bell().wait, args=(0.2,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    pid = os.fork()
    if pid == 0:
        bell = Bell()
        bell.ring()
        os._exit(0 if bell.wait() and not Bell().wait(0.01) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    for thread in threads:
        thread.join()
