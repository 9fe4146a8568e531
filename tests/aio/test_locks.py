"""Taking and giving up: what the blocking locks do, awaited."""

from __future__ import annotations

import asyncio

import pytest
from tests.aio.case import Slow, contended, free, lockspace_on, run, turns, two_handles
from tests.verbs import Verbs

import pydlm
from pydlm import Mode, aio


def test_acquire_and_release() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            lk = ls.lock("r")
            assert lk.granted is Mode.NL and not lk.locked() and lk.name == b"r"
            assert await lk.acquire()
            assert lk.granted is Mode.EX and lk.locked() and not free("r")
            token = lk.token
            lk.release()
            assert lk.granted is Mode.NL and free("r")
            async with lk as same:
                assert same is lk and lk.token > token
            async with lk.held(Mode.PR) as same:
                assert same is lk and lk.granted is Mode.PR
            assert free("r")

    run(main())


def test_what_is_refused() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            lk = ls.lock("r")
            with pytest.raises(pydlm.NotHeld):
                lk.release()
            with pytest.raises(pydlm.NotHeld):
                await lk.convert(Mode.PR)
            with pytest.raises(TypeError, match="keyword"):
                await lk.acquire(Mode.PR)  # type: ignore[arg-type]
            with pytest.raises(pydlm.BadArgument):
                await lk.acquire(False, 1.0)
            with pytest.raises(pydlm.BadArgument):
                ls.lock("")

    run(main())


def test_not_waiting_and_waiting_so_long() -> None:
    async def main() -> None:
        async with two_handles() as (lk, held):
            async with held:
                assert not await lk.acquire(blocking=False)
                assert not await lk.acquire(timeout=0)
                assert not await lk.acquire(timeout=0.02)
                with pytest.raises(pydlm.LockTimeout):
                    async with lk.held(timeout=0.01):
                        pass
                with pytest.raises(pydlm.WouldBlock):
                    async with lk.held(blocking=False):
                        pass
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(lk.acquire(), 0.02)
            assert free("r")
            assert await lk.acquire(timeout=5)
            # The same handle again: it is held by nobody else but itself.
            assert not await lk.acquire(blocking=False)
            assert not await lk.acquire(timeout=0.01)
            lk.release()
            assert free("r")

    run(main())


def test_a_waiter_gets_it_when_the_holder_lets_go() -> None:
    async def main() -> None:
        async with contended(timeout=20) as (lk, held, task):
            assert lk.requested is Mode.EX and not task.done()
            held.release()
            assert await task and lk.requested is None

    run(main())


@pytest.mark.parametrize("lacking", [(), ("convert",), ("modes6",)])
def test_one_handle_is_first_come_first_served(lacking: tuple[str, ...]) -> None:
    order = []

    async def main() -> None:
        async with lockspace_on(Verbs(*lacking)) as ls:
            lk = ls.lock("r")

            async def use(number: int) -> None:
                async with lk:
                    order.append(number)
                    await asyncio.sleep(0)

            await asyncio.gather(*map(use, range(50)))
            assert not lk.locked()
        assert order == list(range(50))

    run(main())


def test_any_task_may_release() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            lk = ls.lock("r")
            await asyncio.create_task(lk.acquire())
            waits = asyncio.create_task(lk.acquire())
            await turns()
            lk.release()
            assert await waits
            lk.release()

    run(main())


def test_convert() -> None:
    async def main() -> None:
        async with two_handles(Mode.PR) as (lk, second):
            assert not await lk.convert(Mode.EX, blocking=False)
            assert not await lk.convert(Mode.EX, timeout=0.01)
            assert lk.granted is Mode.PR
            task = asyncio.create_task(lk.convert(Mode.EX))
            await turns()
            with pytest.raises(pydlm.Busy):
                lk.release()
            with pytest.raises(pydlm.Busy):
                await lk.convert(Mode.PW)
            second.release()
            assert await task and lk.granted is Mode.EX
            assert await lk.convert(Mode.CR) and lk.granted is Mode.CR

    run(main())


def test_conversion_deadlock_is_told_at_once() -> None:
    async def main() -> None:
        async with two_handles(Mode.PR) as (lk, second):
            task = asyncio.create_task(lk.convert(Mode.EX))
            await turns()
            with pytest.raises(pydlm.DeadlockError) as caught:
                await second.convert(Mode.EX)
            assert len(caught.value.cycle) == 2
            assert second.granted is Mode.PR
            second.release()
            assert await task

    run(main())


def test_cancel_ends_all_waits() -> None:
    async def main() -> None:
        async with two_handles() as (lk, held):
            await held.acquire()
            assert not lk.cancel()
            tasks = [asyncio.create_task(lk.acquire()) for _ in range(3)]
            await turns()
            assert lk.cancel()
            for found in await asyncio.gather(*tasks, return_exceptions=True):
                assert isinstance(found, pydlm.Cancelled)
            held.release()
            assert free("r")

    run(main())


def test_a_stack_that_takes_its_time() -> None:
    async def main() -> None:
        stack = Slow()
        ls = lockspace_on(stack)
        lk = ls.lock("r")
        task = asyncio.create_task(lk.acquire())
        await turns()
        assert lk.requested is Mode.NL  # the handle is still being made
        stack.let()
        await turns()
        assert lk.requested is Mode.EX and not task.done()
        stack.let()
        assert await task
        lk.release()
        assert not lk.locked()
        with pytest.raises(pydlm.NotHeld):
            lk.release()
        again = asyncio.create_task(lk.acquire())
        await turns()
        stack.let()
        await turns()
        assert not again.done()
        stack.let()
        assert await again
        ls.close()

    run(main())


def test_closing_a_handle_ends_its_waits() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            lk = ls.lock("r")
            await lk.acquire()
            waits = asyncio.create_task(lk.acquire())
            blocked = asyncio.create_task(lk.wait_blocked())
            await turns()
            lk.close(), lk.close()
            for task in (waits, blocked):
                with pytest.raises(pydlm.Closed):
                    await task
            with pytest.raises(pydlm.Closed):
                await lk.acquire()
            assert "closed" in repr(lk) and free("r")

    run(main())


def test_abilities_that_lack() -> None:
    async def main() -> None:
        async with lockspace_on(Verbs("cancel", "trylock", "lvb", "fencing", "bast")) as ls:
            lk = ls.lock("r")
            for awaitable in (lk.acquire(False), lk.acquire(timeout=1), lk.wait_blocked()):
                with pytest.raises(pydlm.Unsupported):
                    await awaitable
            async with lk:
                for name in ("lvb", "lvb_valid", "token", "blocked"):
                    with pytest.raises(pydlm.Unsupported):
                        getattr(lk, name)
        async with lockspace_on(Verbs("modes6")) as ls:
            with pytest.raises(pydlm.Unsupported):
                await ls.lock("r").acquire(mode=Mode.CW)

    run(main())
