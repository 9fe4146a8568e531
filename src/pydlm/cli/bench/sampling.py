"""How a figure comes about: loops without overhead of their own, samples, rounds, ratios.

A sample is the mean over one batch of operations, in nanoseconds; nothing is subtracted. A round
takes samples of the one program, then of the other, and each round begins with the other one than
the round before. So what the machine does meanwhile falls on both, and the median of the rounds'
ratios forgets the rounds on which it did not.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from statistics import median
from textwrap import indent
from time import perf_counter_ns
from typing import Any

__all__ = ["Comparison", "Figures", "Plan", "Program", "compare", "loop", "quantile", "sampled"]

#: One round of one program; returns its samples.
Program = Callable[[], list[float]]


@dataclass(frozen=True)
class Plan:
    """How much is measured. The defaults are those of `pydlm bench`."""

    rounds: int = 15
    samples: int = 40  #: per round
    batch: int = 1000  #: operations in a sample; a multiple of 10
    few: int = 1_000  #: resources
    many: int = 1_000_000
    quiet: int = 10  #: holders or waiters on one resource
    crowd: int = 10_000
    wakeups: int = 100  #: per round, where each operation is a sample of its own


@dataclass(frozen=True)
class Figures:
    """What all samples of a program come to."""

    median: float
    p99: float


@dataclass(frozen=True)
class Comparison:
    """Two programs, measured round by round."""

    ours: Figures
    peer: Figures
    ratios: list[float]  #: ours to peer, of each round

    @property
    def ratio(self) -> float:
        """The median of the rounds' ratios."""
        return median(self.ratios)


def quantile(samples: list[float], share: float) -> float:
    """Return the smallest sample that `share` of all samples do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _figures(samples: list[float]) -> Figures:
    """Sum samples up."""
    return Figures(median(samples), quantile(samples, 0.99))


@contextmanager
def _without_gc() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def compare(rounds: int, ours: Program, peer: Program) -> Comparison:
    """Measure two programs in turn."""
    ours(), peer()  # the first time is another time
    our_rounds: list[list[float]] = []
    peer_rounds: list[list[float]] = []
    with _without_gc():
        for number in range(rounds):
            if number % 2 == 0:
                our_rounds.append(ours())
                peer_rounds.append(peer())
            else:
                peer_rounds.append(peer())
                our_rounds.append(ours())
    return Comparison(
        _figures([sample for samples in our_rounds for sample in samples]),
        _figures([sample for samples in peer_rounds for sample in samples]),
        [median(mine) / median(other) for mine, other in zip(our_rounds, peer_rounds, strict=True)],
    )


def loop(statement: str, *, in_coroutine: bool = False, **names: Any) -> Callable[[int], float]:
    """Compile a loop over `statement`; called with a number, it runs it that often.

    Returns nanoseconds for each. As in timeit the statement stands in the loop itself, ten
    times, and what it names are local variables, so that a lock costs what it costs in a function.
    `in_coroutine`, the statement may await, but must not wait.
    """
    unrolled = 10
    source = (
        f"{'async ' if in_coroutine else ''}def run(times, clock, repeat, {', '.join(names)}):\n"
        "    begin = clock()\n"
        "    for _ in repeat(None, times):\n"
        + indent(f"{statement}\n" * unrolled, "        ")
        + "    return clock() - begin\n"
    )
    scope: dict[str, Any] = {}
    exec(compile(source, f"<benchmark {statement!r}>", "exec"), scope)
    run = scope["run"]

    def timed(operations: int) -> float:
        times = max(1, operations // unrolled)
        done = run(times, perf_counter_ns, repeat, **names)
        elapsed: int = _result_of(done) if in_coroutine else done
        return elapsed / (times * unrolled)

    return timed


def _result_of(coroutine: Coroutine[Any, Any, int]) -> int:
    """Run a coroutine that does not wait."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        return int(end.value)
    coroutine.close()
    raise RuntimeError("a statement to be measured has waited")


def sampled(plan: Plan, statement: str, *, in_coroutine: bool = False, **names: Any) -> Program:
    """Return the program that runs `statement` over and over; see `loop`."""
    timed = loop(statement, in_coroutine=in_coroutine, **names)

    def program() -> list[float]:
        return [timed(plan.batch) for _ in range(plan.samples)]

    return program
