"""Read-mostly work under one cached lock, by one process and by two: what the lock costs them.

Each use does some work; 1 in 100 is exclusive and writes the lock value block, the others are
shared and read it. Beside it the same work without a lock. `python benchmarks/read_mostly.py`

How much more two processes do than one depends on the machine too: two cores of a virtual machine
are seldom worth two. The last column does not: the share of their time that the two spend in taking
and leaving the lock, hand-overs and waiting for writers included.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
from collections import defaultdict
from contextlib import nullcontext
from multiprocessing import Pipe
from time import perf_counter
from typing import Any

import pydlm


def work(rounds: int) -> None:
    for _ in range(rounds):
        pass


class Worker:
    """A process that does uses when it is told to, with the lock or without."""

    def __init__(self, stack: str, rounds: int, writes: float) -> None:
        self.link, theirs = Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                with pydlm.connect("bench", stack=stack) as ls:
                    serve(theirs, ls.cached("config", codec="<Q"), rounds, writes)
            finally:
                os._exit(0)

    def end(self) -> None:
        self.link.send(None)
        os.waitpid(self.pid, 0)


def serve(link: Any, lock: Any, rounds: int, writes: float) -> None:
    chance = random.Random(os.getpid())
    with lock.exclusive():
        lock.value = 0
    while (order := link.recv()) is not None:
        seconds, locked = order
        if locked:
            with lock.exclusive():  # what others did before it is of no account
                pass
        link.send(None)
        link.recv()
        link.send(uses(lock, seconds, locked, rounds, writes, chance))


def uses(
    lock: Any, seconds: float, locked: bool, rounds: int, writes: float, chance: random.Random
) -> tuple[float, float]:
    """Do uses for some seconds; return how many a second, and the share of the time not worked."""
    shared = lock.shared() if locked else nullcontext()
    exclusive = lock.exclusive() if locked else nullcontext()
    done, worked = 0, 0.0
    begin = now = perf_counter()
    while now < begin + seconds:
        if chance.random() < writes:
            with exclusive:
                begun = perf_counter()
                work(rounds)
                if locked:
                    lock.value = lock.value + 1
                ended = perf_counter()
        else:
            with shared:
                begun = perf_counter()
                work(rounds)
                ended = perf_counter()
        worked += ended - begun
        done += 1
        now = perf_counter()
    return done / (now - begin), 1 - worked / (now - begin)


def at_once(workers: list[Worker], seconds: float, locked: bool) -> tuple[float, float]:
    """Have them work; return the sum of their uses a second, and the mean of what was lost."""
    for worker in workers:
        worker.link.send((seconds, locked))
    for worker in workers:
        worker.link.recv()
    for worker in workers:
        worker.link.send(None)
    rates, lost = zip(*(worker.link.recv() for worker in workers), strict=True)
    return sum(rates), statistics.mean(lost)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.25)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--writes", type=float, default=0.01)
    options = parser.parse_args()
    print(
        "| work in a use | 2 to 1 processes, without a lock | with | with to without | time lost |"
    )
    print("|---|---|---|---|---|")
    for loops in (500, 2_000, 10_000, 50_000):
        begin = perf_counter()
        work(loops * 10)
        each = (perf_counter() - begin) / 10
        free, locked, lost = scaling(options, loops)
        figures = f"{free:.2f} | {locked:.2f} | {locked / free:.2f} | {lost:.1%}"
        print(f"| {each * 1e6:.0f} us | {figures} |", flush=True)


def scaling(options: argparse.Namespace, loops: int) -> tuple[float, float, float]:
    """Return how much more two processes do than one: without the lock, and with it.

    And the share of the time that the lock takes from the two, more than no lock does. Medians of
    short turns, side by side: the speed of the machine changes from second to second.
    """
    done: dict[tuple[int, bool], list[float]] = defaultdict(list)
    lost: dict[tuple[int, bool], list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        workers = [Worker(f"host:{directory}", loops, options.writes) for _ in range(2)]
        for turn in range(options.rounds):
            for locked in (False, True):
                for one in (workers[turn % 2 :][:1], workers):
                    rate, idle = at_once(one, options.seconds, locked)
                    done[len(one), locked].append(rate)
                    lost[len(one), locked].append(idle)
        for worker in workers:
            worker.end()
    free, with_ = (
        statistics.median(done[2, locked]) / statistics.median(done[1, locked])
        for locked in (False, True)
    )
    return free, with_, statistics.median(lost[2, True]) - statistics.median(lost[2, False])


if __name__ == "__main__":
    main()
