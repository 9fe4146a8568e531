"""From the contender's request in one process to the holder's epoll in another.

The holder sleeps in epoll; the contender takes the time and rings, by asking for the lock or by
writing to an eventfd; the holder takes the time as soon as epoll returns, and answers.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.reduction import DupFd
from multiprocessing.synchronize import Semaphore
from time import perf_counter_ns, sleep
from typing import Any

from pydlm.cli.bench.host.partner import CONTEXT, Partner, meeting_place
from pydlm.cli.bench.row import Row, compared
from pydlm.cli.bench.sampling import Plan, Program, compare
from pydlm.lockspace import connect

__all__ = ["host_notice"]

#: Seconds for the holder to fall asleep before it is rung.
_SETTLE = 100e-6


def _contend(link: Connection, ready: Semaphore, ask: Callable[[], None]) -> None:
    link.send(None)
    while times := link.recv():
        asked: list[int] = []
        for _ in range(times):
            ready.acquire()
            sleep(_SETTLE)
            asked.append(perf_counter_ns())
            ask()
        link.send(asked)


def _by_lock(link: Connection, ready: Semaphore, stack: str) -> None:
    with connect("bench", stack=stack) as ls:
        lock = ls.lock("notice")

        def ask() -> None:
            lock.acquire()
            lock.release()

        _contend(link, ready, ask)


def _by_event(link: Connection, ready: Semaphore, event: Any, answered: Semaphore) -> None:
    fd = event.detach()

    def ask() -> None:
        os.eventfd_write(fd, 1)
        answered.acquire()

    _contend(link, ready, ask)


def _wakeups(
    partner: Partner, ready: Semaphore, times: int, fd: int, answer: Callable[[], bool]
) -> Program:
    def program() -> list[float]:
        noticed: list[int] = []

        def hold() -> None:
            with select.epoll() as epoll:
                epoll.register(fd, select.EPOLLIN)
                for _ in range(times):
                    ready.release()
                    while True:
                        epoll.poll()
                        now = perf_counter_ns()
                        if answer():
                            break
                    noticed.append(now)

        asked = partner.run(times, hold)
        return [float(after - before) for before, after in zip(asked, noticed, strict=True)]

    return program


def host_notice(plan: Plan) -> Iterator[Row]:
    """A lock's own descriptor beside a bare eventfd."""
    ready, answered = CONTEXT.Semaphore(0), CONTEXT.Semaphore(0)
    event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def answer_event() -> bool:
        os.eventfd_read(event)
        answered.release()
        return True

    try:
        with meeting_place() as stack, connect("bench", stack=stack) as ls:
            lock = ls.lock("notice")
            lock.acquire()

            def answer_lock() -> bool:
                if lock.blocked is None:  # readable a moment too long
                    return False
                lock.release()
                lock.acquire()  # queues behind the contender
                return True

            with (
                Partner(_by_lock, ready, stack) as contender,
                Partner(_by_event, ready, _Passed(event), answered) as ringer,
            ):
                found = compare(
                    plan.rounds,
                    _wakeups(contender, ready, plan.wakeups, lock.fileno(), answer_lock),
                    _wakeups(ringer, ready, plan.wakeups, event, answer_event),
                )
            yield compared(
                "host.notice",
                "host: contender asks -> holder's epoll returns, two processes",
                found,
                "os.eventfd",
                at_most=2.0,
            )
    finally:
        os.close(event)


class _Passed:
    """A descriptor that goes along to a process that is being started."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __reduce__(self) -> tuple[Any, ...]:
        return _received, (DupFd(self.fd),)


def _received(passed: Any) -> Any:
    return passed
