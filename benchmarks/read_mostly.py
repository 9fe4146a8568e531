"""Read-mostly work under one cached lock, by one process and by two: what the lock costs them.

Each use computes; 1 in 100 is exclusive and writes the lock value block, the others are shared.
Beside it the same work without a lock. `python benchmarks/read_mostly.py`

A use is over when it has had so much time of the processor, not when it has done so many loops: how
fast a core is changes from second to second on shared machines, and that is none of the lock's.
What the scheduler takes from the two, whoever it gives it to, counts.
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
from time import perf_counter, thread_time
from typing import Any

import pydlm

LENGTHS = (20e-6, 50e-6, 200e-6, 1e-3)


class Worker:
    """A process that does uses when it is told to, with the lock or without."""

    def __init__(self, stack: str, writes: float) -> None:
        self.link, theirs = Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                with pydlm.connect("bench", stack=stack) as ls:
                    serve(theirs, ls.cached("config", codec="<Q"), writes)
            finally:
                os._exit(0)

    def end(self) -> None:
        self.link.send(None)
        os.waitpid(self.pid, 0)


def serve(link: Any, lock: Any, writes: float) -> None:
    chance = random.Random(os.getpid())
    with lock.exclusive():
        lock.value = 0
    while (order := link.recv()) is not None:
        seconds, length, locked = order
        if locked:
            with lock.exclusive():  # what others did before it is of no account
                pass
        link.send(None)
        link.recv()
        link.send(uses(lock, seconds, length, locked, writes, chance))


def uses(
    lock: Any, seconds: float, length: float, locked: bool, writes: float, chance: random.Random
) -> tuple[float, float]:
    """Do uses for some seconds; return how many a second, and the 99th percentile of their time."""
    shared = lock.shared() if locked else nullcontext()
    exclusive = lock.exclusive() if locked else nullcontext()
    times = []
    begin = now = perf_counter()
    while now < begin + seconds:
        before = now
        if chance.random() < writes:
            with exclusive:
                work(length)
                if locked:
                    lock.value = lock.value + 1
        else:
            with shared:
                work(length)
        now = perf_counter()
        times.append(now - before)
    return len(times) / (now - begin), statistics.quantiles(times, n=100)[98]


def work(seconds: float) -> None:
    end = thread_time() + seconds
    while thread_time() < end:
        pass


def at_once(
    workers: list[Worker], seconds: float, length: float, locked: bool
) -> tuple[float, float]:
    """Have them work; return the sum of their uses a second, and the mean of their p99."""
    for worker in workers:
        worker.link.send((seconds, length, locked))
    for worker in workers:
        worker.link.recv()
    for worker in workers:
        worker.link.send(None)
    rates, p99s = zip(*(worker.link.recv() for worker in workers), strict=True)
    return sum(rates), statistics.mean(p99s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=0.25)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--writes", type=float, default=0.01)
    options = parser.parse_args()
    print("| a use | two processes to one, no lock | with one | with to without | p99 of a use |")
    print("|---|---|---|---|---|")
    for length in LENGTHS:
        free, locked, share, p99 = scaling(options, length)
        figures = f"{free:.2f} | {locked:.2f} | {share:.2f} | {p99 * 1e6:.0f} us"
        print(f"| {length * 1e6:.0f} us | {figures} |", flush=True)


def scaling(options: argparse.Namespace, length: float) -> tuple[float, float, float, float]:
    """Return how much more two processes do than one: without the lock, and with it.

    And what the two do with it, as a share of what they do without; and the 99th percentile of
    their uses. Medians of short turns, side by side.
    """
    done: dict[tuple[int, bool], list[float]] = defaultdict(list)
    p99s = []
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        workers = [Worker(f"host:{directory}", options.writes) for _ in range(2)]
        for turn in range(options.rounds):
            for locked in (False, True):
                for some in (workers[turn % 2 :][:1], workers):
                    rate, p99 = at_once(some, options.seconds, length, locked)
                    done[len(some), locked].append(rate)
            p99s.append(p99)
        for worker in workers:
            worker.end()
    rate_of = {who: statistics.median(rates) for who, rates in done.items()}
    return (
        rate_of[2, False] / rate_of[1, False],
        rate_of[2, True] / rate_of[1, True],
        rate_of[2, True] / rate_of[2, False],
        statistics.median(p99s),
    )


if __name__ == "__main__":
    main()
