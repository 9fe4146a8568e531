"""From one process to another: a lock given up here is taken there."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Semaphore
from time import perf_counter_ns

from pydlm.cli.bench.host.partner import CONTEXT, Partner, meeting_place
from pydlm.cli.bench.ring import Ring, begin_following, begin_leading, follow, handovers, lead
from pydlm.cli.bench.row import Row, compared
from pydlm.cli.bench.sampling import Plan, Program, compare
from pydlm.lockspace import Lockspace, connect

__all__ = ["host_handover"]


def _ring(ls: Lockspace) -> Ring:
    return [ls.lock(name) for name in "abc"]


def _follow(link: Connection, stack: str) -> None:
    with connect("bench", stack=stack) as ls:
        ring = _ring(ls)
        begin_following(ring)
        link.send(None)
        while rounds := link.recv():
            follow(ring, rounds)
            link.send(None)


def _answer(link: Connection, there: Semaphore, back: Semaphore) -> None:
    link.send(None)
    while times := link.recv():
        for _ in range(times):
            there.acquire()
            back.release()
        link.send(None)


def _by_lock(partner: Partner, ring: Ring, rounds: int) -> Program:
    def program() -> list[float]:
        stamps: list[int] = []
        partner.run(rounds, lambda: stamps.extend(lead(ring, rounds)))
        return handovers(stamps)

    return program


def _by_semaphore(partner: Partner, there: Semaphore, back: Semaphore, times: int) -> Program:
    def program() -> list[float]:
        stamps: list[int] = []

        def ask() -> None:
            for _ in range(times):
                stamps.append(perf_counter_ns())
                there.release()
                back.acquire()

        partner.run(times, ask)
        return handovers(stamps)

    return program


def host_handover(plan: Plan) -> Iterator[Row]:
    """A lock of the host stack beside a pair of semaphores."""
    there, back = CONTEXT.Semaphore(0), CONTEXT.Semaphore(0)
    rounds = 3 * plan.wakeups
    with meeting_place() as stack, connect("bench", stack=stack) as ls:
        ring = _ring(ls)
        begin_leading(ring)
        with Partner(_follow, stack) as locks, Partner(_answer, there, back) as semaphores:
            found = compare(
                plan.rounds,
                _by_lock(locks, ring, rounds),
                _by_semaphore(semaphores, there, back, 3 * rounds),
            )
        yield compared(
            "host.handover",
            "host: hand-over between two processes",
            found,
            "multiprocessing.Semaphore ping-pong",
            at_most=1.3,
        )
