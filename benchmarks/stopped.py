#!/usr/bin/env python3
"""How likely is it that a SIGSTOP meets a process in a critical section, and who is delayed by it?

    python benchmarks/stopped.py [--stops 5000]

One process takes and gives up a lock at full speed. It is stopped at random moments, for 20 ms.
Meanwhile another asks for the state of a handle of its own on that resource, which takes the mutex
of the shard and nothing else. The stop met a critical section if that took more than 5 ms.
Elsewhere, as with any other shard, nobody is delayed.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import statistics
import tempfile
import threading
import time

import pydlm

DELAYED = 0.005  # seconds
STOP = 0.02
ROUNDS = 200_000


def hammer(stack: str, pipe: int) -> None:
    with pydlm.connect("stopped", stack=stack) as ls:
        lk = ls.lock("busy")
        acquire, release = lk.acquire, lk.release
        begin = time.perf_counter()
        for _ in range(ROUNDS):
            acquire()
            release()
        os.write(pipe, str((time.perf_counter() - begin) / ROUNDS).encode())
        while True:
            acquire()
            release()


def is_stopped(pid: int) -> bool:
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"


def delays_of(stops: int, pid: int, ls: pydlm.Lockspace) -> list[float]:
    """Stop the process so often; return the delays, in seconds."""
    lk = ls.lock("busy")
    ask, lkid = ls.stack.lock_status, lk.lkid  # type: ignore[attr-defined]
    found = []
    for _ in range(stops):
        time.sleep(random.uniform(0.0005, 0.003))
        os.kill(pid, signal.SIGSTOP)
        while not is_stopped(pid):
            pass
        resume = threading.Timer(STOP, os.kill, (pid, signal.SIGCONT))
        resume.start()
        begin = time.perf_counter()
        ask(lkid)
        delay = time.perf_counter() - begin
        resume.join()
        if delay > DELAYED:
            found.append(delay)
    return found


def measure(stops: int) -> None:
    directory = tempfile.mkdtemp(prefix="pydlm-stopped-", dir="/dev/shm")
    stack = f"host:{directory}"
    out, pipe = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            hammer(stack, pipe)
        finally:
            os._exit(1)
    try:
        took = float(os.read(out, 100))
        with pydlm.connect("stopped", stack=stack) as ls:
            delays = delays_of(stops, pid, ls)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(out)
        os.close(pipe)
        shutil.rmtree(directory)
    share = len(delays) / stops
    print(f"{len(delays)} of {stops} stops met a critical section: {share:.1%}")
    print(
        f"an acquire and release take {took * 1e9:.0f} ns, {share * took * 1e9:.0f} of them inside"
    )
    print(f"at 1,000 of them a second: {share * took * 1000:.4%} of the stops")
    if delays:
        print(
            f"a stop of {STOP * 1e3:.0f} ms that did delayed the other by "
            f"{statistics.median(delays) * 1e3:.1f} ms (median), {max(delays) * 1e3:.1f} ms (worst)"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--stops", type=int, default=5000)
    measure(parser.parse_args().stops)
