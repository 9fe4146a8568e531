"""What a connection tells: who is in whose way, who has died."""

from __future__ import annotations

import asyncio

import pytest
from tests.aio.case import cancelled, run, turns, two_handles

import pydlm
from pydlm import Mode, aio


def test_wait_blocked() -> None:
    async def main() -> None:
        async with two_handles() as (lk, second):
            watchers = [asyncio.create_task(lk.wait_blocked()) for _ in range(2)]
            await lk.acquire()
            await turns()
            assert lk.blocked is None
            task = asyncio.create_task(second.acquire(mode=Mode.PR))
            assert await asyncio.gather(*watchers) == [Mode.PR] * 2
            assert await lk.wait_blocked() is Mode.PR and lk.blocked is Mode.PR
            lk.release()
            assert await task and lk.blocked is None

    run(main())


def test_blocked_by_another_process_like_thread() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            async with ls.lock("r") as lk:
                taken = asyncio.get_running_loop().run_in_executor(None, other_thread)
                assert await lk.wait_blocked() is Mode.EX
            await taken
        await asyncio.get_running_loop().shutdown_default_executor()

    def other_thread() -> None:
        with pydlm.connect("tests") as ls, ls.lock("r"):
            pass

    run(main())


def test_events_as_an_iterator() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            found = []

            async def reads() -> None:
                async for event in ls.events():
                    found.append(event)

            reader = asyncio.create_task(reads())
            await turns()
            async with aio.connect("tests") as other:
                async with ls.lock("r") as lk:
                    second = other.lock("r")
                    task = asyncio.create_task(second.acquire())
                    while not found:
                        await asyncio.sleep(0)
                    (event,) = found
                    assert isinstance(event, pydlm.Blocked) and isinstance(event, aio.Blocked)
                    assert event.lock is lk and event.mode is Mode.EX and event.lkid == lk.lkid
                await task
                second.close()
                node = other.node
                other.stack.abandon()  # type: ignore[attr-defined]
                while len(found) < 2:
                    await asyncio.sleep(0)
                assert found[1] == pydlm.NodeDown(node)
            ls.close()
            await reader  # ends with the connection

    run(main())


def test_only_the_strictest_notice_waits_and_none_that_is_over() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls, aio.connect("tests") as other:
            lk, gone = ls.lock("r"), ls.lock("gone")
            await lk.acquire()
            await gone.acquire()
            modes = (Mode.CR, Mode.EX, Mode.PR)
            others = [other.lock("r") for _ in modes]
            tasks = [
                asyncio.create_task(o.acquire(mode=m)) for o, m in zip(others, modes, strict=True)
            ]
            waits = other.lock("gone")
            over = asyncio.create_task(waits.acquire())
            await turns()
            assert gone.blocked is Mode.EX
            gone.release()
            events = ls.events()
            assert (await anext_of(events)).mode is Mode.EX  # type: ignore[union-attr]
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(anext_of(events), 0.02)
            for task in tasks:
                task.cancel()
                await cancelled(task)
            assert await over

    run(main())


async def anext_of(events: aio.Events) -> aio.Event:
    return await events.__anext__()


def test_an_event_is_not_lost_with_who_was_called_for_it() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls, aio.connect("tests") as other:
            first, second = (asyncio.create_task(anext_of(ls.events())) for _ in range(2))
            await turns()
            other.stack.abandon()  # type: ignore[attr-defined]
            ls._conn.pump()  # calls the first
            first.cancel()
            assert await cancelled(first)
            assert isinstance(await second, pydlm.NodeDown)

    run(main())


def test_requests_by_verbs() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls, aio.connect("tests") as other:
            lkid = ls.stack.lock(b"r", Mode.EX)
            events = ls.events()
            done = await anext_of(events)
            assert isinstance(done, pydlm.Completion) and done.lkid == lkid
            waits = other.lock("r")
            task = asyncio.create_task(waits.acquire())
            blocked = await anext_of(events)
            assert isinstance(blocked, aio.Blocked) and blocked.lock is None
            ls.stack.unlock(lkid)
            assert await task

    run(main())


def test_deaths_that_nobody_asks_about_are_not_kept_for_ever() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            died = []
            for _ in range(1005):
                with pydlm.connect("tests") as dies:
                    died.append(dies.node)
                    dies.stack.abandon()  # type: ignore[attr-defined]
                ls._conn.pump()
            assert len(ls._conn.kept._events) == 1000
            events = ls.events()
            found = [await anext(events) for _ in range(1000)]
            assert found == [pydlm.NodeDown(node) for node in died[5:]]

    run(main())
