"""Ten thousand on one resource, and what one more costs then.

Beside holders: one more takes PR and gives it up. Before waiters: a queue of EX requests that goes
round. The holder gives the lock up, the first in the queue gets it, and the one that gave it up
asks again, at the tail: one release, one grant and one new waiter, with the queue as long as
before. That takes no ten thousand threads, for it is done with the asynchronous verbs.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import perf_counter_ns

from pydlm.cli.bench.row import Row, compared
from pydlm.cli.bench.sampling import Plan, Program, compare, sampled
from pydlm.lockspace import Lockspace, connect
from pydlm.types import LockFlag, Mode

__all__ = ["holders", "waiters"]

#: Turns of the queue between two calls of dispatch().
_TURNS = 10


def _beside_holders(plan: Plan, ls: Lockspace, number: int) -> Program:
    others = [ls.lock(f"{number} holders") for _ in range(number)]
    for other in others:
        other.acquire(mode=Mode.PR)
    one_more = ls.lock(f"{number} holders")
    statement = "l.acquire(mode=m); l.release()"
    # `others` stay open as long as the program does
    return sampled(plan, statement, l=one_more, m=Mode.PR, others=others)


def holders(plan: Plan) -> Iterator[Row]:
    """One more PR beside many."""
    with connect("bench") as ls:
        many = _beside_holders(plan, ls, plan.crowd)
        few = _beside_holders(plan, ls, plan.quiet)
        yield compared(
            "crowd.holders",
            f"acquire+release PR beside {plan.crowd:,} holders in PR",
            compare(plan.rounds, many, few),
            f"pydlm, beside {plan.quiet}",
            at_most=2.0,
        )


def _queue(plan: Plan, ls: Lockspace, number: int) -> Program:
    stack = ls.stack
    name = b"%d waiters" % number
    ring = [stack.lock(name, Mode.NL) for _ in range(number + 1)]
    for lkid in ring:
        stack.convert(lkid, Mode.EX, LockFlag.QUECVT)  # the first gets it, the others wait
    stack.dispatch()
    NL, EX, QUECVT = Mode.NL, Mode.EX, LockFlag.QUECVT
    at = 0

    def sample() -> float:
        nonlocal at
        rounds = max(1, plan.batch // _TURNS)
        turns = [ring[(at + i) % len(ring)] for i in range(rounds * _TURNS)]
        at = (at + len(turns)) % len(ring)
        begin = perf_counter_ns()
        for start in range(0, len(turns), _TURNS):
            for lkid in turns[start : start + _TURNS]:
                stack.convert(lkid, NL)
                stack.convert(lkid, EX, QUECVT)
            stack.dispatch()
        return (perf_counter_ns() - begin) / len(turns)

    return lambda: [sample() for _ in range(plan.samples)]


def waiters(plan: Plan) -> Iterator[Row]:
    """One release and one more waiter, with many waiting."""
    with connect("bench") as ls:
        many = _queue(plan, ls, plan.crowd)
        few = _queue(plan, ls, plan.quiet)
        yield compared(
            "crowd.waiters",
            f"release, grant the next, queue again; {plan.crowd:,} waiters for EX",
            compare(plan.rounds, many, few),
            f"pydlm, {plan.quiet} waiters",
            at_most=2.0,
        )
