"""Read-mostly work under one cached lock, by one process and by two: what the lock costs them.

Each use does some work; 1 in 100 is exclusive and writes the lock value block, the others are
shared and read it. Beside it the same work without a lock. `python benchmarks/read_mostly.py`

How much more two processes do than one depends on the machine too: two cores of a virtual machine
are seldom worth two. The last column does not: the share of their time that the two spend in taking
and leaving the lock, hand-overs and waiting for writers included.
"""

from __future__ import annotations

import argparse
import json
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


def run(stack: str, seconds: float, rounds: int, locked: bool, writes: float) -> tuple[int, float]:
    """Do uses for some seconds; return how many, and the share of the time not spent on work."""
    done, chance, worked = 0, random.Random(os.getpid()), 0.0
    with pydlm.connect("bench", stack=stack) as ls:
        lock: Any = ls.cached("config", codec="<Q")
        shared = lock.shared() if locked else nullcontext()
        exclusive = lock.exclusive() if locked else nullcontext()
        with lock.exclusive():
            lock.value = 0
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
    return done, 1 - worked / (now - begin)


def processes(n: int, *how: Any) -> tuple[int, float]:
    """Run it in `n` processes at once; return the sum of uses, and the mean of what was lost."""
    pipes = []
    for _ in range(n):
        read, write = os.pipe()
        if os.fork() == 0:
            os.write(write, json.dumps(run(*how)).encode())
            os._exit(0)
        os.close(write)
        pipes.append(read)
    done, lost = zip(*(json.loads(os.read(read, 100)) for read in pipes), strict=True)
    for read in pipes:
        os.close(read)
        os.wait()
    return sum(done), statistics.mean(lost)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--rounds", type=int, default=5)
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
        rounds = [scaling(options, loops) for _ in range(options.rounds)]
        free, locked, lost = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(with_ / without for without, with_, _ in rounds)
        figures = f"{free:.2f} | {locked:.2f} | {ratio:.2f} | {lost:.1%}"
        print(f"| {each * 1e6:.0f} us | {figures} |", flush=True)


def scaling(options: argparse.Namespace, loops: int) -> tuple[float, float, float]:
    """Return how much more two processes do than one: without the lock, and with it.

    And the share of the time that the lock takes from the two, more than no lock does.
    """
    done, lost = {}, {}
    for n in (1, 2):
        for locked in (False, True):  # side by side: the machine changes from second to second
            with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
                how = (f"host:{directory}", options.seconds, loops, locked, options.writes)
                done[n, locked], lost[n, locked] = processes(n, *how)
    without, with_ = (done[2, locked] / done[1, locked] for locked in (False, True))
    return without, with_, lost[2, True] - lost[2, False]


if __name__ == "__main__":
    main()
