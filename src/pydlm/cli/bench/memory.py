"""Bytes for one resource with one lock on it, held, its lock value block written.

Measured in a process of its own, as what /proc says is resident. What pydlm maps for itself it
maps without reserving memory, which smaps shows as the flag `nr`; so the arena can be told from
the rest, which is the Python handles.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from pydlm.cli.bench.row import Row
from pydlm.cli.bench.sampling import Figures, Plan
from pydlm.errors import DlmError
from pydlm.lockspace import connect

__all__ = ["memory", "resident"]


def resident() -> tuple[int, int]:
    """Return the bytes resident in mappings without reserve, and in all others."""
    totals = {True: 0, False: 0}
    size = 0
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if line.startswith("Rss:"):
            size = int(line.split()[1]) * 1024
        elif line.startswith("VmFlags:"):
            totals["nr" in line.split()] += size
    return totals[True], totals[False]


def _measure(number: int) -> dict[str, float]:
    names = [f"resource:{i}" for i in range(number)]
    with connect("bench", capacity=number + 1024) as ls:
        first = ls.lock("first")
        handles = [first] * number
        arena, rest = resident()
        for i, name in enumerate(names):
            lock = ls.lock(name)
            lock.acquire()
            lock.lvb = bytes(ls.lvb_len)
            lock.release()
            lock.acquire()
            handles[i] = lock
        arena_then, rest_then = resident()
        return {
            "arena": (arena_then - arena) / number,
            "handle": (rest_then - rest) / number,
        }


def _report(number: int) -> None:
    sys.stdout.write(json.dumps(_measure(number)))


def memory(plan: Plan) -> Iterator[Row]:
    """What a lock costs in memory, and what its Python handle adds."""
    done = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import _report; _report({plan.many})"],
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise DlmError(f"the process that measures memory failed: {done.stderr.strip()}")
    found = json.loads(done.stdout)
    each = f"each of {plan.many:,} resources with one lock, LVB 64 written"
    arena, handle = found["arena"], found["handle"]
    if arena > 0:  # where memory cannot be overcommitted, there is no such flag
        yield Row(
            "memory",
            f"memory for {each}",
            Figures(arena, arena),
            unit="bytes",
            at_most=320.0,
            target_is="value",
            note="what pydlm has mapped: the arena, and 8 bytes for the way to the handle",
        )
    yield Row(
        "memory.handle",
        "the same with its Python handle",
        Figures(arena + handle, arena + handle),
        unit="bytes",
    )
