"""Each way in which a cancellation and a grant can meet. Nothing may be left of any."""

from __future__ import annotations

import asyncio
from time import monotonic, process_time

import pytest
from tests.aio.case import Slow, cancelled, contended, free, run, turns, until, waits
from tests.verbs import Verbs

from pydlm import Mode, aio


def test_before_it_is_granted() -> None:
    async def main() -> None:
        async with contended() as (lk, held, task):
            task.cancel()
            assert await cancelled(task)
            assert lk.requested is None and not waits("r")
            held.release()
            assert free("r")
            async with lk:
                pass

    run(main())


def test_before_it_has_begun() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            lk = ls.lock("r")
            task = asyncio.create_task(lk.acquire())
            task.cancel()
            assert await cancelled(task)
            assert free("r")

    run(main())


def test_granted_in_the_arena_but_not_dispatched() -> None:
    async def main() -> None:
        async with contended() as (lk, held, task):
            held.release()  # granted to the task, which the loop has not heard of
            task.cancel()
            assert await cancelled(task)
            assert lk.granted is Mode.NL and free("r")

    run(main())


def test_cancelled_then_granted_before_the_task_runs() -> None:
    async def main() -> None:
        async with contended() as (lk, held, task):
            task.cancel()
            held.release()
            assert lk.blocked is None  # takes the events in: the handle holds EX now
            assert lk.granted is Mode.EX
            assert await cancelled(task)
            assert lk.granted is Mode.NL and free("r")

    run(main())


def test_dispatched_but_the_task_has_not_run() -> None:
    async def main() -> None:
        async with contended() as (lk, held, task):
            held.release()
            assert lk.blocked is None  # takes the events in
            assert lk.granted is Mode.EX and not task.done()
            task.cancel()
            assert await cancelled(task)
            assert lk.granted is Mode.NL and free("r")

    run(main())


def test_granted_and_used_by_another_task_before_this_one_was_run() -> None:
    """The hold is the handle's: who has released it and holds it again keeps it."""

    async def main() -> None:
        async with contended() as (lk, held, task):
            second = asyncio.create_task(lk.acquire())
            await turns()
            held.release()
            assert lk.blocked is None and lk.granted is Mode.EX
            lk.release()  # what `task` was to have; it goes to `second`
            assert lk.granted is Mode.EX
            task.cancel()
            assert await cancelled(task)
            assert await second and lk.locked()
            lk.release()
            assert free("r")

    run(main())


@pytest.mark.parametrize("place", [0, 1, 2])
def test_in_the_line_of_one_handle(place: int) -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            lk = ls.lock("r")
            await lk.acquire()
            tasks = [asyncio.create_task(lk.acquire()) for _ in range(3)]
            await turns()
            tasks[place].cancel()
            assert await cancelled(tasks[place])
            for task in tasks:
                if task is not tasks[place]:
                    assert not task.done()
                    lk.release()
                    assert await task
            lk.release()
            assert free("r")

    run(main())


def test_called_from_the_line_but_not_run() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            lk = ls.lock("r")
            await lk.acquire()
            first, second = (asyncio.create_task(lk.acquire()) for _ in range(2))
            await turns()
            lk.release()  # granted to the first, which has not run
            first.cancel()
            assert await cancelled(first)
            assert await second
            lk.release()
            assert free("r")

    run(main())


def test_while_the_cancel_is_under_way_and_again() -> None:
    async def main() -> None:
        stack = Slow()
        async with contended(stack) as (lk, held, task):
            for _ in range(3):
                task.cancel()
            assert await cancelled(task)
            assert lk.requested is Mode.EX  # the stack has not answered
            # Who comes meanwhile stands in line, and may be cancelled too.
            second, third = (asyncio.create_task(lk.acquire()) for _ in range(2))
            await turns()
            second.cancel()
            assert await cancelled(second)
            assert stack.fetch() == 1
            stack.let()
            await turns()
            assert not third.done() and lk.requested is Mode.EX
            held.release()
            stack.let()
            assert await third
            stack.slow = False
            lk.release()
            assert free("r")

    run(main())


def test_granted_though_the_cancel_was_on_its_way() -> None:
    async def main() -> None:
        stack = Slow()
        async with contended(stack) as (lk, held, task):
            held.release()  # granted; the stack has not told
            task.cancel()
            assert await cancelled(task)
            assert not free("r")
            stack.let()
            await turns()
            assert lk.requested is Mode.NL  # is given back
            assert free("r")
            stack.let()
            await turns()
            assert lk.requested is None and not lk.locked()

    run(main())


def test_a_stack_that_cannot_cancel() -> None:
    async def main() -> None:
        async with contended(Verbs("cancel")) as (lk, held, task):
            task.cancel()
            assert await cancelled(task)
            held.release()
            await turns(20)
            assert lk.granted is Mode.NL and free("r")

    run(main())


def test_release_is_not_to_be_cancelled() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            lk = ls.lock("r")

            async def uses() -> None:
                async with lk:
                    try:
                        await asyncio.sleep(60)
                    finally:
                        task.cancel()  # again, and it strikes at the next await

            task = asyncio.create_task(uses())
            await turns()
            task.cancel()
            assert await cancelled(task)
            assert free("r")

    run(main())


@pytest.mark.parametrize("first", ["the grant", "the end of its time"])
def test_a_time_out_and_the_grant_at_once(first: str) -> None:
    """The loop hears of both in the same turn: what has been granted counts."""

    async def main() -> None:
        async with contended(timeout=0.02) as (lk, held, task):
            over = monotonic() + 0.02
            if first == "the grant":
                held.release()
            while monotonic() <= over:  # nothing else runs meanwhile
                pass
            if first != "the grant":
                held.release()
            assert not task.done()
            assert await task and lk.locked()
            lk.release()
            assert free("r")

    run(main())


def test_a_time_out_then_the_grant() -> None:
    async def main() -> None:
        async with contended(timeout=0.01) as (lk, held, task):
            assert not await task and not lk.locked() and not waits("r")
            held.release()
            assert lk.blocked is None  # takes the events in
            assert not lk.locked() and free("r")

    run(main())


def test_a_time_out_and_a_cancellation() -> None:
    async def main() -> None:
        stack = Slow()
        async with contended(stack, timeout=0.01) as (lk, held, task):
            await until(stack.fetch)  # the answer to its being taken back
            assert not task.done()
            task.cancel()
            assert await cancelled(task)
            stack.slow = False
            stack.let()
            await turns()
            assert lk.requested is None
            held.release()
            assert free("r")

    run(main())


def test_wait_blocked_is_cancelled() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            lk = ls.lock("r")
            task = asyncio.create_task(lk.wait_blocked())
            await turns()
            task.cancel()
            assert await cancelled(task)
            assert not lk._watchers

    run(main())


@pytest.mark.slow
def test_at_every_turn_of_the_loop() -> None:
    """A holder that lets go and a cancellation, so many turns of the loop apart."""

    async def main() -> None:
        async with aio.connect("tests") as ls, aio.connect("tests") as other:
            for first in range(6):
                for second in range(6):
                    lk, held = ls.lock("r"), other.lock("r")
                    await held.acquire()
                    task = asyncio.create_task(lk.acquire())

                    async def lets_go(held: aio.AsyncLock = held, first: int = first) -> None:
                        await turns(first)
                        held.release()

                    async def cancels(
                        task: asyncio.Task[bool] = task, second: int = second
                    ) -> None:
                        await turns(second)
                        task.cancel()

                    await asyncio.gather(lets_go(), cancels())
                    if not await cancelled(task):
                        assert lk.locked()
                        lk.release()
                    assert free("r"), (first, second)
                    lk.close(), held.close()

    run(main())


def test_ten_thousand_in_line_leave_in_any_order() -> None:
    """The last first was quadratic: as many steps as all the pairs of them."""
    number = 10_000

    async def main() -> None:
        async with aio.connect("tests") as ls:
            lk = ls.lock("r")
            await lk.acquire()
            seconds = []
            for order in (1, -1):
                tasks = [asyncio.create_task(lk.acquire()) for _ in range(number)]
                await turns()
                begun = process_time()
                for task in tasks[::order]:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                seconds.append(process_time() - begun)
                assert all(task.cancelled() for task in tasks)
            lk.release()
            assert seconds[1] < 5 * seconds[0] + 0.2, seconds

    run(main())
