#!/usr/bin/env python3
"""What other locks of the standard library cost, beside pydlm's: uncontended acquire+release.

    python benchmarks/peers.py [--rounds N]

Not all of them do the same. A threading lock ends at the process, multiprocessing's at the
processes that inherited it, flock's at the host or the file system; none of them has modes in
between, a value block, or a way to learn that somebody waits.
"""

from __future__ import annotations

import argparse
import fcntl
import multiprocessing
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pydlm
from pydlm.cli.bench.sampling import Plan, Program, compare, sampled

PAIR = "l.acquire(); l.release()"


def peers(plan: Plan, cleanup: ExitStack) -> Iterator[tuple[str, Program]]:
    yield "threading.Lock", sampled(plan, PAIR, l=threading.Lock())
    yield "threading.RLock", sampled(plan, PAIR, l=threading.RLock())
    yield "threading.Semaphore", sampled(plan, PAIR, l=threading.Semaphore())
    yield "multiprocessing.Lock", sampled(plan, PAIR, l=multiprocessing.Lock())
    file = tempfile.TemporaryFile()  # noqa: SIM115
    cleanup.callback(file.close)
    yield (
        "fcntl.flock",
        sampled(
            plan,
            "flock(f, EX); flock(f, UN)",
            flock=fcntl.flock,
            f=file.fileno(),
            EX=fcntl.LOCK_EX,
            UN=fcntl.LOCK_UN,
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    plan = Plan(rounds=parser.parse_args().rounds)
    with ExitStack() as cleanup:
        ls = cleanup.enter_context(pydlm.connect("peers"))
        ours = sampled(plan, PAIR, l=ls.lock("peers"))
        print(f"{'':22} {'pydlm':>9} {'peer':>9} {'ratio':>6}")
        for name, peer in peers(plan, cleanup):
            found = compare(plan.rounds, ours, peer)
            print(
                f"{name:22} {found.ours.median:6.1f} ns {found.peer.median:6.1f} ns "
                f"{found.ratio:6.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
