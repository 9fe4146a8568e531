"""Read-mostly work under one cached lock, by one process and by two: what the lock costs them.

Each use does some work; 1 in 100 is exclusive and writes the lock value block, the others are
shared and read it. Beside it the same work without a lock. `python benchmarks/read_mostly.py`
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
from contextlib import nullcontext
from time import perf_counter
from typing import Any

import pydlm


def work(rounds: int) -> None:
    for _ in range(rounds):
        pass


def run(stack: str, seconds: float, rounds: int, locked: bool, writes: float) -> int:
    """Do uses for some seconds; return how many."""
    done, chance = 0, random.Random(os.getpid())
    with pydlm.connect("bench", stack=stack) as ls:
        lock: Any = ls.cached("config", codec="<Q")
        shared = lock.shared() if locked else nullcontext()
        exclusive = lock.exclusive() if locked else nullcontext()
        with lock.exclusive():
            lock.value = 0
        end = perf_counter() + seconds
        while perf_counter() < end:
            for _ in range(20):
                if chance.random() < writes:
                    with exclusive:
                        work(rounds)
                        if locked:
                            lock.value = lock.value + 1
                else:
                    with shared:
                        work(rounds)
                done += 1
    return done


def processes(n: int, *how: Any) -> int:
    """Run it in `n` processes at once; return the sum."""
    pipes = []
    for _ in range(n):
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, str(run(*how)).encode())
            os._exit(0)
        os.close(write)
        pipes.append(read)
    total = sum(int(os.read(read, 100)) for read in pipes)
    for read in pipes:
        os.close(read)
        os.wait()
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--writes", type=float, default=0.01)
    options = parser.parse_args()
    print("| work in a use | 2 to 1 processes, without a lock | with | with to without |")
    print("|---|---|---|---|")
    for loops in (500, 2_000, 10_000, 50_000):
        begin = perf_counter()
        work(loops * 10)
        each = (perf_counter() - begin) / 10
        rounds = [scaling(options, loops) for _ in range(options.rounds)]
        free, locked = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(with_ / without for without, with_ in rounds)
        print(f"| {each * 1e6:.0f} us | {free:.2f} | {locked:.2f} | {ratio:.2f} |", flush=True)


def scaling(options: argparse.Namespace, loops: int) -> tuple[float, float]:
    """Return how much more two processes do than one: without the lock, and with it."""
    done = {}
    for n in (1, 2):
        for locked in (False, True):  # side by side: the machine changes from second to second
            with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
                how = (f"host:{directory}", options.seconds, loops, locked, options.writes)
                done[n, locked] = processes(n, *how)
    return done[2, False] / done[1, False], done[2, True] / done[1, True]


if __name__ == "__main__":
    main()
