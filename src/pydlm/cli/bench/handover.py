"""From one thread to another: a lock given up here is taken there."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from pydlm.cli.bench.pair import Pair
from pydlm.cli.bench.ring import Ring, begin_following, begin_leading, follow, handovers, lead
from pydlm.cli.bench.row import Row, compared
from pydlm.cli.bench.sampling import Plan, Program, compare
from pydlm.lockspace import connect

__all__ = ["handover"]


def _ping_pong(pair: Pair, rounds: int, leading: Ring, following: Ring) -> Program:
    begin_leading(leading)
    begin_following(following)

    def program() -> list[float]:
        stamps: list[int] = []
        pair.run(
            lambda: stamps.extend(lead(leading, rounds)),
            lambda: follow(following, rounds),
        )
        return handovers(stamps)

    return program


def handover(plan: Plan) -> Iterator[Row]:
    """Between two threads: through handles that both use, and from handle to handle."""
    names = ["a", "b", "c"]
    turns = 3 * plan.wakeups
    with connect("bench") as ls, Pair() as pair:
        plain = [threading.Lock() for _ in names]
        both = [ls.lock(name) for name in names]
        own = [[ls.lock(f"own {name}") for name in names] for _ in range(2)]
        for name, what, rings in (
            ("handover", "hand-over between two threads, one handle", (both, both)),
            ("handover.handles", "hand-over between two threads, a handle each", (own[0], own[1])),
        ):
            ours = _ping_pong(pair, turns, *rings)
            peer = _ping_pong(pair, turns, plain, plain)
            yield compared(
                name, what, compare(plan.rounds, ours, peer), "threading.Lock", at_most=1.2
            )
            for lock in plain:
                lock.release()
