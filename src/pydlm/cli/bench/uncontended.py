"""Nobody in the way: an open handle, and a lock never seen before."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import count
from time import perf_counter_ns
from typing import Any

from pydlm.cli.bench.row import Row, compared
from pydlm.cli.bench.sampling import Plan, Program, compare, sampled
from pydlm.contract import Lock
from pydlm.lockspace import Lockspace, connect
from pydlm.types import Mode

__all__ = ["acquire", "fresh", "shared", "with_statement"]

_PAIR = "l.acquire(); l.release()"
_WITH = "with l:\n    pass"


def _open_written(ls: Lockspace, name: str) -> Lock:
    """Open a lock whose lock value block has been written."""
    lock = ls.lock(name)
    with lock:
        lock.lvb = bytes(ls.lvb_len)
    return lock


def acquire(plan: Plan) -> Iterator[Row]:
    """Take EX through an open handle, and give it up."""
    with connect("bench") as ls:
        ours = sampled(plan, _PAIR, l=_open_written(ls, "acquire"))
        yield compared(
            "acquire",
            "acquire+release EX, open handle, uncontended",
            compare(plan.rounds, ours, sampled(plan, _PAIR, l=threading.Lock())),
            "threading.Lock",
            at_most=1.0,
        )


def with_statement(plan: Plan) -> Iterator[Row]:
    """The same by `with`."""
    with connect("bench") as ls:
        ours = sampled(plan, _WITH, l=_open_written(ls, "with"))
        yield compared(
            "with",
            "the same by `with`",
            compare(plan.rounds, ours, sampled(plan, _WITH, l=threading.Lock())),
            "threading.Lock by `with`",
            at_most=1.0,
        )


def shared(plan: Plan) -> Iterator[Row]:
    """PR while others hold PR, beside EX on a resource of its own."""
    with connect("bench") as ls:
        lock = _open_written(ls, "shared")
        others = [ls.lock("shared") for _ in range(plan.quiet)]
        for other in others:
            other.acquire(mode=Mode.PR)
        ours = sampled(plan, "l.acquire(mode=m); l.release()", l=lock, m=Mode.PR)
        alone = sampled(plan, _PAIR, l=_open_written(ls, "alone"))
        yield compared(
            "shared",
            f"acquire+release PR while {plan.quiet} other handles hold PR",
            compare(plan.rounds, ours, alone),
            "pydlm, EX uncontended",
            at_most=1.2,
        )
        in_pr = lock.held(Mode.PR)
        yield compared(
            "shared.with",
            "the same by `with`, through one held(Mode.PR)",
            compare(
                plan.rounds,
                sampled(plan, _WITH, l=in_pr),
                sampled(plan, _WITH, l=_open_written(ls, "alone")),
            ),
            "pydlm, EX by `with`",
            at_most=1.2,
        )


def fresh(plan: Plan) -> Iterator[Row]:
    """A lock never seen before, from the name to nothing left of it."""
    table: dict[str, AbstractContextManager[Any]] = {}
    new_lock = threading.Lock
    with connect("bench") as ls:
        open_lock = ls.lock

        def ours(names: list[str]) -> None:
            for name in names:
                lock = open_lock(name)
                lock.acquire()
                lock.release()
                lock.close()

        def peer(names: list[str]) -> None:
            for name in names:
                lock = table[name] = new_lock()
                lock.acquire()
                lock.release()
                del table[name]

        serial = count()
        yield compared(
            "fresh",
            "lock never seen before: open, acquire, release, close",
            compare(
                plan.rounds,
                _each_name_once(plan, serial, ours),
                _each_name_once(plan, serial, peer),
            ),
            "threading.Lock in a dict",
            at_most=2000.0,
            target_is="value",
        )


def _each_name_once(plan: Plan, serial: Iterator[int], use: Callable[[list[str]], None]) -> Program:
    def program() -> list[float]:
        samples = []
        for _ in range(plan.samples):
            names = [f"resource:{next(serial)}" for _ in range(plan.batch)]
            begin = perf_counter_ns()
            use(names)
            samples.append((perf_counter_ns() - begin) / plan.batch)
        return samples

    return program
