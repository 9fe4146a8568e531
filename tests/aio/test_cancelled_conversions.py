"""A conversion that is cancelled goes back, whatever it has met."""

from __future__ import annotations

import asyncio

import pytest
from tests.aio.case import Slow, cancelled, free, lockspace_on, run, turns, two_handles

import pydlm
from pydlm import Mode, aio


@pytest.mark.parametrize("when", ["waiting", "in the arena", "dispatched"])
def test_a_conversion_goes_back(when: str) -> None:
    async def main() -> None:
        async with two_handles(Mode.PR) as (lk, held):
            task = asyncio.create_task(lk.convert(Mode.EX))
            await turns()
            if when != "waiting":
                held.release()
            if when == "dispatched":
                assert lk.blocked is None and lk.granted is Mode.EX
            task.cancel()
            assert await cancelled(task)
            assert lk.granted is Mode.PR and lk.locked()
            lk.release()
            if when == "waiting":
                held.release()
            assert free("r")

    run(main())


def test_a_conversion_that_ended_well_is_nobody_elses_to_undo() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            lk = ls.lock("r")
            await lk.acquire(mode=Mode.PR)

            async def converts() -> None:
                await lk.convert(Mode.EX)
                await asyncio.sleep(60)

            task = asyncio.create_task(converts())
            await turns()
            task.cancel()
            assert await cancelled(task)
            assert lk.granted is Mode.EX

    run(main())


@pytest.mark.parametrize("granted", [False, True])
def test_a_hold_that_ends_while_its_conversion_is_taken_back(granted: bool) -> None:
    async def main() -> None:
        stack = Slow()
        with pydlm.connect("tests") as other:
            held = other.lock("r")
            held.acquire(mode=Mode.PR)
            async with lockspace_on(stack) as ls:
                lk = ls.lock("r")
                stack.let()

                async def converts() -> None:
                    async with lk.held(Mode.PR):
                        await lk.convert(Mode.EX)

                task = asyncio.create_task(converts())
                await turns()
                stack.let()
                await turns()
                assert lk.requested is Mode.EX
                if granted:
                    held.release()
                task.cancel()
                assert await cancelled(task)
                # Released as far as anybody can tell, though the stack has not answered.
                assert not lk.locked()
                for use in (lk.release, lambda: lk.lvb):
                    with pytest.raises(pydlm.NotHeld):
                        use()
                again = asyncio.create_task(lk.acquire(mode=Mode.PR))
                await turns()
                assert not again.done()
                for _ in range(3):
                    stack.let()
                    await turns()
                assert await again
                stack.slow = False
                lk.release()
                if not granted:
                    held.release()
                assert free("r")

    run(main())
