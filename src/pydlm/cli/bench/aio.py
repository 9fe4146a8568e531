"""Cached locks in asyncio, and ten thousand tasks that wait for one lock."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Iterator, Sequence
from time import perf_counter_ns
from typing import Protocol

from pydlm import aio
from pydlm.cli.bench.memory import resident
from pydlm.cli.bench.row import Row, compared
from pydlm.cli.bench.sampling import Figures, Plan, Program, compare, sampled
from pydlm.errors import DlmError

__all__ = ["aio_cached", "aio_memory", "aio_waiters"]

_WITH = "async with l:\n    pass"


class _Awaited(Protocol):
    def acquire(self) -> Awaitable[bool]: ...

    def release(self) -> None: ...


def aio_cached(plan: Plan) -> Iterator[Row]:
    """Begin a use and end it, in an EX that is kept, beside an `asyncio.Lock`."""

    async def main() -> list[Row]:
        rows = []
        async with aio.connect("bench") as ls:
            lock = ls.cached("cached")
            async with lock.exclusive():
                lock.lvb = bytes(ls.lvb_len)
            for way in ("shared", "exclusive"):
                statement = f"async with l.{way}():\n    pass"
                ours = sampled(plan, statement, in_coroutine=True, l=lock)
                peer = sampled(plan, _WITH, in_coroutine=True, l=asyncio.Lock())
                rows.append(
                    compared(
                        f"aio.cached.{way}",
                        f"`async with lock.{way}()`, cached lock, level suffices",
                        compare(plan.rounds, ours, peer),
                        "asyncio.Lock by `async with`",
                        at_most=1.0,
                    )
                )
        return rows

    yield from asyncio.run(main())


async def _queue(locks: Sequence[_Awaited]) -> tuple[_Awaited, list[asyncio.Task[None]]]:
    """Take the first lock, and have a task wait for each of the others."""

    async def use(lock: _Awaited) -> None:
        await lock.acquire()
        lock.release()

    await locks[0].acquire()
    tasks = [asyncio.create_task(use(lock)) for lock in locks[1:]]
    await asyncio.sleep(0)
    return locks[0], tasks


def _grants(loop: asyncio.AbstractEventLoop, locks: Sequence[_Awaited]) -> Program:
    """Measure how long it takes until each has had it, from the first release to the last."""

    async def sample() -> float:
        holder, tasks = await _queue(locks)
        begin = perf_counter_ns()
        holder.release()
        await asyncio.gather(*tasks)
        return (perf_counter_ns() - begin) / len(tasks)

    return lambda: [loop.run_until_complete(sample())]


async def _connected() -> aio.AsyncLockspace:
    return aio.connect("bench")


def aio_waiters(plan: Plan) -> Iterator[Row]:
    """Hand one lock through a crowd of tasks that wait for it, beside an `asyncio.Lock`."""
    loop = asyncio.new_event_loop()
    ls = loop.run_until_complete(_connected())
    try:
        number = plan.crowd + 1
        one = [ls.lock("crowd")] * number
        each = [ls.lock("crowd") for _ in range(number)]
        peer = [asyncio.Lock()] * number
        for name, what, locks in (
            ("aio.waiters", "through one handle", one),
            ("aio.waiters.handles", "each with its own handle", each),
        ):
            yield compared(
                name,
                f"grant to one of {plan.crowd:,} waiting tasks, {what}",
                compare(plan.rounds, _grants(loop, locks), _grants(loop, peer)),
                "asyncio.Lock",
            )
    finally:
        ls.close()
        loop.close()


async def _measure(kind: str, number: int) -> float:
    async with aio.connect("bench") as ls, ls.lock("another") as first:
        locks: list[_Awaited] = [asyncio.Lock() if kind == "asyncio" else first] * (number + 1)
        before = sum(resident())
        if kind == "one":
            locks = [ls.lock("crowd")] * (number + 1)
        elif kind == "each":
            for i in range(number + 1):
                locks[i] = ls.lock("crowd")
        holder, tasks = await _queue(locks)
        grown = sum(resident()) - before
        holder.release()
        await asyncio.gather(*tasks)
        return grown / number


def _report(kind: str, number: int) -> None:
    sys.stdout.write(json.dumps(asyncio.run(_measure(kind, number))))


def aio_memory(plan: Plan) -> Iterator[Row]:
    """What a task that waits costs in memory; each kind in a process of its own."""
    found = {}
    for kind in ("asyncio", "one", "each"):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                f"from {__name__} import _report; _report({kind!r}, {plan.crowd})",
            ],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise DlmError(f"the process that measures memory failed: {done.stderr.strip()}")
        found[kind] = max(1.0, json.loads(done.stdout))
    for name, kind, what in (
        ("aio.memory", "one", "through one handle"),
        ("aio.memory.handles", "each", "with its own handle and lock"),
    ):
        yield Row(
            name,
            f"memory for one of {plan.crowd:,} waiting tasks, {what}",
            Figures(found[kind], found[kind]),
            unit="bytes",
            note=f"the task included; with an asyncio.Lock {found['asyncio']:.0f} B",
        )
