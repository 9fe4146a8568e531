"""From the contender's request to the holder's epoll: how long a holder does not know.

Both programs run in the same two threads. The holder sleeps in epoll; the contender takes the
time and rings, by asking for the lock or by writing to an eventfd; the holder takes the time as
soon as epoll returns. Then it answers, and all is as before.
"""

from __future__ import annotations

import os
import select
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from time import perf_counter_ns, sleep

from pydlm.cli.bench.pair import Pair
from pydlm.cli.bench.row import Row, compared
from pydlm.cli.bench.sampling import Plan, Program, compare
from pydlm.contract import Lock
from pydlm.lockspace import connect

__all__ = ["notice"]

#: Seconds for the holder to fall asleep before it is rung.
_SETTLE = 100e-6


class _Bell(ABC):
    """A way for the contender to wake the holder, and for the holder to answer."""

    fd: int

    @abstractmethod
    def ask(self) -> None:
        """Ring, and wait for the answer."""

    @abstractmethod
    def answer(self) -> None:
        """Answer; afterwards `fd` is not readable."""


class _LockBell(_Bell):
    """The contender wants a lock; the holder gives it up, and takes it back."""

    def __init__(self, held: Lock, wanted: Lock) -> None:
        self.held = held
        self.wanted = wanted
        self.fd = held.fileno()
        held.acquire()

    def ask(self) -> None:
        """Ring by asking for the lock."""
        self.wanted.acquire()
        self.wanted.release()

    def answer(self) -> None:
        """Give the lock up; asking for it again queues behind the contender."""
        self.held.release()
        self.held.acquire()


class _EventBell(_Bell):
    """The least that two threads can do: an eventfd there, a lock back."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.answered = threading.Lock()
        self.answered.acquire()

    def ask(self) -> None:
        """Ring by writing to the eventfd."""
        os.eventfd_write(self.fd, 1)
        self.answered.acquire()

    def answer(self) -> None:
        """Empty the eventfd and let the contender go on."""
        os.eventfd_read(self.fd)
        self.answered.release()


def _wakeups(pair: Pair, times: int, bell: _Bell) -> Program:
    ready = threading.Semaphore(0)

    def program() -> list[float]:
        asked: list[int] = []
        noticed: list[int] = []

        def contend() -> None:
            for _ in range(times):
                ready.acquire()
                sleep(_SETTLE)
                asked.append(perf_counter_ns())
                bell.ask()

        def hold() -> None:
            with select.epoll() as epoll:
                epoll.register(bell.fd, select.EPOLLIN)
                for _ in range(times):
                    ready.release()
                    epoll.poll()
                    noticed.append(perf_counter_ns())
                    bell.answer()

        pair.run(contend, hold)
        return [float(after - before) for before, after in zip(asked, noticed, strict=True)]

    return program


def notice(plan: Plan) -> Iterator[Row]:
    """A lock's own descriptor beside a bare eventfd."""
    event = _EventBell()
    try:
        with connect("bench") as ls, Pair() as pair:
            lock = _LockBell(ls.lock("notice"), ls.lock("notice"))
            yield compared(
                "notice",
                "contender asks -> holder's epoll returns",
                compare(
                    plan.rounds,
                    _wakeups(pair, plan.wakeups, lock),
                    _wakeups(pair, plan.wakeups, event),
                ),
                "os.eventfd",
                at_most=1.5,
            )
    finally:
        os.close(event.fd)
