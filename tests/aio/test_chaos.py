"""Tasks that acquire, convert, time out and are cancelled at random; then nothing is left.

Within, the modes that are held at the same time must be compatible, whoever was cancelled when.
"""

from __future__ import annotations

import asyncio
import random

import pytest
from tests.aio.case import Slow, free, lockspace_on, run

import pydlm
from pydlm import Mode, aio

MODES = [Mode.CR, Mode.PR, Mode.EX, Mode.EX]


async def worker(lk: aio.AsyncLock, held: list[Mode], rng: random.Random) -> None:
    """Use a handle that is this task's alone, until cancelled."""
    while True:
        mode = rng.choice(MODES)
        if not await lk.acquire(timeout=rng.choice([-1, -1, 0.0, 0.001]), mode=mode):
            continue
        assert all(mode.compatible(other) for other in held), (mode, held)
        held.append(mode)
        try:
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
        finally:
            held.remove(mode)
            lk.release()
        await asyncio.sleep(0)


async def converter(lk: aio.AsyncLock, rng: random.Random) -> None:
    while True:
        async with lk.held(Mode.CR):
            try:
                if await lk.convert(rng.choice(MODES), timeout=rng.choice([-1, 0.001])):
                    await asyncio.sleep(0)
            except pydlm.DeadlockError:
                pass
            assert lk.granted > Mode.NL
        await asyncio.sleep(0)


async def storm(spaces: list[aio.AsyncLockspace], rng: random.Random, rounds: int) -> None:
    held: list[Mode] = []
    handles = [ls.lock("r") for ls in spaces for _ in range(3)]
    tasks = [asyncio.create_task(worker(lk, held, rng)) for lk in handles]
    others = [ls.lock("converted") for ls in spaces for _ in range(2)]
    tasks += [asyncio.create_task(converter(lk, rng)) for lk in others]
    for _ in range(rounds):
        for _ in range(rng.randrange(4)):
            await asyncio.sleep(0)
        i = rng.randrange(len(tasks))
        for _ in range(rng.randrange(1, 3)):
            tasks[i].cancel()
        with pytest.raises(asyncio.CancelledError):
            await tasks[i]
        if i < len(handles):
            tasks[i] = asyncio.create_task(worker(handles[i], held, rng))
        else:
            tasks[i] = asyncio.create_task(converter(others[i - len(handles)], rng))
    for task in tasks:
        task.cancel()
    ended = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(found, asyncio.CancelledError) for found in ended), ended
    assert not held


@pytest.mark.parametrize("seed", range(4))
def test_two_connections(seed: int) -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls, aio.connect("tests") as other:
            await storm([ls, other], random.Random(seed), 300)
            assert free("r") and free("converted")

    run(main())


@pytest.mark.parametrize("seed", range(4))
def test_a_stack_that_takes_its_time(seed: int) -> None:
    rng = random.Random(seed)

    async def tells(stack: Slow) -> None:
        while True:
            stack.let(rng.randint(0, stack.fetch()))
            for _ in range(rng.randrange(3)):
                await asyncio.sleep(0)
            await asyncio.sleep(0)

    async def main() -> None:
        stack = Slow()
        async with lockspace_on(stack) as ls, aio.connect("tests") as other:
            teller = asyncio.create_task(tells(stack))
            await storm([ls, other], rng, 200)
            teller.cancel()
            with pytest.raises(asyncio.CancelledError):
                await teller
            stack.slow = False
            stack.let(stack.fetch())
            for _ in range(20):
                await asyncio.sleep(0)
            assert free("r") and free("converted")

    run(main())


@pytest.mark.parametrize("seed", range(4))
def test_uses_of_cached_locks(seed: int) -> None:
    rng = random.Random(seed)
    shared, exclusive = [0, 0], [0, 0]

    async def uses(lock: aio.AsyncCachedLock, node: int) -> None:
        while True:
            try:
                if rng.random() < 0.5:
                    async with lock.shared(timeout=rng.choice([-1, 0.001])):
                        assert not any(exclusive)
                        shared[node] += 1
                        try:
                            await asyncio.sleep(0)
                        finally:
                            shared[node] -= 1
                else:
                    async with lock.exclusive(timeout=rng.choice([-1, 0.001])):
                        assert not any(exclusive) and not any(shared)
                        exclusive[node] += 1
                        try:
                            await asyncio.sleep(0)
                        finally:
                            exclusive[node] -= 1
            except pydlm.LockTimeout:
                pass
            await asyncio.sleep(0)

    async def main() -> None:
        async def on_drop(lock: aio.AsyncCachedLock, mode: Mode) -> None:
            await asyncio.sleep(0)

        async with aio.connect("tests") as ls, aio.connect("tests") as other:
            locks = [ls.cached("r", on_drop=on_drop), other.cached("r", on_drop=on_drop)]
            tasks = [asyncio.create_task(uses(locks[n % 2], n % 2)) for n in range(6)]
            for _ in range(300):
                for _ in range(rng.randrange(6)):
                    await asyncio.sleep(0)
                i = rng.randrange(len(tasks))
                tasks[i].cancel()
                with pytest.raises(asyncio.CancelledError):
                    await tasks[i]
                tasks[i] = asyncio.create_task(uses(locks[i % 2], i % 2))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for lock in locks:
                async with lock.exclusive(timeout=10):
                    assert lock.exclusive_uses == 1 and not lock.shared_uses
        assert free("r")

    run(main())
