"""A million resources with one lock each, and what an operation costs among them.

Three programs. Two take and give up locks that are open already, in the order they were opened
or at random, and differ only in how well the machine's caches can follow. The third opens one
more resource among all the others.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from itertools import count, cycle, islice
from random import Random
from time import perf_counter_ns
from typing import Any

from pydlm.cli.bench.row import Row, compared
from pydlm.cli.bench.sampling import Plan, Program, compare
from pydlm.lockspace import Lockspace, connect

__all__ = ["million"]


def _walk(plan: Plan, locks: Sequence[Any]) -> Program:
    """Walk through `locks` in their order, over and over; nothing touches them beforehand."""
    endless = cycle(locks)

    def sample() -> float:
        begin = perf_counter_ns()
        for lock in islice(endless, plan.batch):
            lock.acquire()
            lock.release()
        return (perf_counter_ns() - begin) / plan.batch

    return lambda: [sample() for _ in range(plan.samples)]


def _one_more(plan: Plan, ls: Lockspace) -> Program:
    serial = count()

    def program() -> list[float]:
        samples = []
        for _ in range(plan.samples):
            names = [f"one more {next(serial)}" for _ in range(plan.batch)]
            begin = perf_counter_ns()
            for name in names:
                lock = ls.lock(name)
                lock.acquire()
                lock.release()
                lock.close()
            samples.append((perf_counter_ns() - begin) / plan.batch)
        return samples

    return program


def _shuffled(locks: Sequence[Any]) -> list[Any]:
    mixed = list(locks)
    Random(0).shuffle(mixed)
    return mixed


def million(plan: Plan) -> Iterator[Row]:
    """The cost of an operation among many resources, and among few."""
    few_name = f"pydlm, {plan.few:,} resources"
    many = f"{plan.many:,} resources"
    with (
        connect("bench few") as small,
        connect("bench many", capacity=plan.many + 2 * plan.batch) as large,
    ):
        few_locks = [_written(small, number) for number in range(plan.few)]
        many_locks = [_written(large, number) for number in range(plan.many)]
        yield compared(
            "million.in_turn",
            f"{many}: acquire+release, one after the other",
            compare(plan.rounds, _walk(plan, many_locks), _walk(plan, few_locks)),
            few_name,
            at_most=1.5,
        )
        at_random = _walk(plan, _shuffled(many_locks))
        yield compared(
            "million.random",
            f"{many}: acquire+release, at random",
            compare(plan.rounds, at_random, _walk(plan, _shuffled(few_locks))),
            few_name,
            at_most=1.5,
        )
        plain = _walk(plan, _shuffled([threading.Lock() for _ in range(plan.many)]))
        yield compared(
            "million.random.peer",
            "the same, beside locks that have neither names nor modes",
            compare(plan.rounds, at_random, plain),
            f"{plan.many:,} threading.Lock at random",
        )
        yield compared(
            "million.new",
            f"{many}: open, acquire, release, close one more",
            compare(plan.rounds, _one_more(plan, large), _one_more(plan, small)),
            few_name,
            at_most=1.5,
        )


def _written(ls: Lockspace, number: int) -> Any:
    lock = ls.lock(f"resource:{number}")
    with lock:
        lock.lvb = number.to_bytes(8, "big")
    return lock
