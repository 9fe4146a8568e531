"""From one thread to another: a lock given up here is taken there.

Three locks lie in a ring, and two threads walk round it. Each releases a lock that the other
waits for, then waits for the next one, which the other holds. Nobody releases what somebody else
acquired, and nobody can take a lock back before the other has had it, so every acquire but the
very first is a hand-over; and the program runs unchanged with any kind of lock.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import pairwise
from time import perf_counter_ns
from typing import Any

from pydlm.cli.bench.pair import Pair
from pydlm.cli.bench.row import Row, compared
from pydlm.cli.bench.sampling import Plan, Program, compare
from pydlm.lockspace import connect

__all__ = ["handover"]

#: The three locks of the ring, once as each thread has them.
_Ring = tuple[Sequence[Any], Sequence[Any]]


def _ping_pong(pair: Pair, rounds_of_three: int, ring: _Ring) -> Program:
    leading, following = ring
    leading[0].acquire()
    leading[2].acquire()
    following[1].acquire()

    def program() -> list[float]:
        stamps: list[int] = []

        def lead() -> None:
            a, b, c = leading
            for _ in range(rounds_of_three):
                stamps.append(perf_counter_ns())
                a.release()
                b.acquire()
                stamps.append(perf_counter_ns())
                c.release()
                a.acquire()
                stamps.append(perf_counter_ns())
                b.release()
                c.acquire()

        def follow() -> None:
            a, b, c = following
            for _ in range(rounds_of_three):
                a.acquire()
                b.release()
                c.acquire()
                a.release()
                b.acquire()
                c.release()

        pair.run(lead, follow)
        # From stamp to stamp it goes there and back: two hand-overs.
        return [(after - before) / 2 for before, after in pairwise(stamps)]

    return program


def handover(plan: Plan) -> Iterator[Row]:
    """Between two threads: through handles that both use, and from handle to handle."""
    names = ["a", "b", "c"]
    turns = 3 * plan.wakeups
    with connect("bench") as ls, Pair() as pair:
        plain = [threading.Lock() for _ in names]
        both = [ls.lock(name) for name in names]
        own = [[ls.lock(f"own {name}") for name in names] for _ in range(2)]
        for name, what, ring in (
            ("handover", "hand-over between two threads, one handle", (both, both)),
            ("handover.handles", "hand-over between two threads, a handle each", (own[0], own[1])),
        ):
            ours = _ping_pong(pair, turns, ring)
            peer = _ping_pong(pair, turns, (plain, plain))
            yield compared(
                name, what, compare(plan.rounds, ours, peer), "threading.Lock", at_most=1.2
            )
            for lock in plain:
                lock.release()
