"""The end of a connection: by close, with its loop, in a child, by a stack that fails."""

from __future__ import annotations

import asyncio
import gc
import os
import threading

import pytest
from tests.aio import case
from tests.aio.case import free, lockspace_on, run, turns
from tests.verbs import Verbs

import pydlm
from pydlm import aio


def test_close_ends_all_waits() -> None:
    async def main() -> None:
        ls = aio.connect("tests")
        lk, other = ls.lock("r"), ls.lock("r")
        await lk.acquire()
        tasks = [
            asyncio.create_task(awaitable)
            for awaitable in (lk.acquire(), other.acquire(), lk.wait_blocked())
        ]
        await turns()
        ls.close(), ls.close()
        *ended, blocked = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in ended] == [pydlm.Closed, pydlm.Closed]
        assert blocked is pydlm.Mode.EX  # what `other` wanted, before the end
        for use in (lambda: lk.granted, lk.release, lambda: ls.lock("r")):
            with pytest.raises(pydlm.Closed):
                use()
        with pytest.raises(pydlm.Closed):
            await lk.acquire()
        assert [event async for event in ls.events()] == []
        assert free("r")

    run(main())


def test_the_loop_was_closed_first() -> None:
    kept = []

    async def main() -> None:
        ls = aio.connect("tests")
        lk = ls.lock("r")
        await lk.acquire()
        waits = asyncio.ensure_future(lk.acquire())
        await turns()
        kept.extend([ls, lk, waits])

    loop = case.new_loop()
    loop.run_until_complete(main())
    ls, lk, waits = kept
    kept.clear()
    waits._log_destroy_pending = False
    loop.close()
    assert lk.locked() and not free("r")
    ls.close()
    assert free("r")


def test_a_task_that_is_destroyed_after_its_loop_was_closed() -> None:
    kept = []

    async def main() -> None:
        ls = aio.connect("tests")
        lk = ls.lock("r")
        await lk.acquire()
        task = asyncio.ensure_future(lk.acquire())
        task._log_destroy_pending = False  # type: ignore[attr-defined]
        await turns()
        kept.extend([ls, lk])

    loop = case.new_loop()
    loop.run_until_complete(main())
    loop.close()
    gc.collect()
    ls, lk = kept
    lk.release()
    gc.collect()
    ls.close()
    assert free("r")


def test_no_running_loop_or_another_one() -> None:
    with pytest.raises(RuntimeError):
        aio.connect("tests")

    async def opens() -> aio.AsyncLockspace:
        return aio.connect("tests")

    async def uses(ls: aio.AsyncLockspace) -> None:
        lk = ls.lock("r")
        await lk.acquire()
        with pytest.raises(RuntimeError, match="another event loop"):
            await asyncio.wait_for(lk.acquire(), 5)
        lk.release()
        assert free("r")

    first, second = case.new_loop(), case.new_loop()
    ls = first.run_until_complete(opens())
    second.run_until_complete(uses(ls))
    ls.close()
    first.close(), second.close()


def test_two_loops_in_two_threads() -> None:
    seen = []

    async def main() -> None:
        async with aio.connect("tests") as ls:
            lk = ls.lock("r")
            for _ in range(200):
                async with lk:
                    seen.append(1)
                    assert len(seen) == 1
                    seen.pop()

    threads = [threading.Thread(target=run, args=(main(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert free("r")


def test_a_child_has_nothing() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            lk = ls.lock("r")
            await lk.acquire()
            pid = os.fork()
            if pid == 0:
                left = 1
                try:
                    for use in (lk.release, lambda: lk.granted, lambda: ls.lock("r")):
                        with pytest.raises(pydlm.Forked):
                            use()
                    assert not lk.locked()
                    lk.close()
                    ls.close()  # must not touch the parent's epoll
                    left = 0
                finally:
                    os._exit(left)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            async with aio.connect("tests") as other:
                waits = other.lock("r")
                task = asyncio.create_task(waits.acquire())
                assert await lk.wait_blocked() is pydlm.Mode.EX  # events still come
                lk.release()
                await task

    run(main())


def test_a_stack_that_fails_to_tell_its_events(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        stack = Verbs()
        ls = lockspace_on(stack)
        lk, other = ls.lock("r"), ls.lock("r")
        await lk.acquire()
        task = asyncio.create_task(other.acquire())
        await turns()
        stack.failing["dispatch"] = pydlm.DlmError("no more events")
        lk.release()
        for use in (lambda: task, other.acquire, lk.acquire):
            with pytest.raises(pydlm.DlmError, match="no more events"):
                await use()
        ls.close()
        assert free("r")

    run(main())
    assert "is lost" in caplog.text


def test_a_stack_that_fails_to_leave() -> None:
    async def main() -> None:
        stack = Verbs()
        ls = lockspace_on(stack)
        stack.failing["disconnect"] = pydlm.DlmError("not now")
        with pytest.raises(pydlm.DlmError, match="not now"):
            ls.close()
        stack.failing.clear()
        ls.close()

    run(main())


def test_a_stack_that_fails_to_unlock() -> None:
    async def main() -> None:
        stack = Verbs()
        async with lockspace_on(stack) as ls:
            lk = ls.lock("r")
            await lk.acquire()
            other = ls.lock("r")
            waits = asyncio.create_task(other.acquire())
            await turns()
            stack.failing["unlock"] = pydlm.DlmError("not now")
            waits.cancel()  # the request cannot be taken back: the error is not what is raised
            with pytest.raises(asyncio.CancelledError):
                await waits
            stack.failing.clear()
            lk.release()

    run(main())


def test_a_held_handle_that_is_forgotten() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            lk = ls.lock("r")
            await lk.acquire()
            with pytest.warns(ResourceWarning, match="was held"):
                del lk
            await turns()
            assert free("r")
            for _ in range(10):
                ls.lock("r")
            await turns()
            assert not list(ls.dump("r")) and not ls._conn._owners

    run(main())


def test_who_waits_for_a_notice_without_a_lock_on_the_stack() -> None:
    async def main() -> None:
        ls = lockspace_on(Verbs("convert", "modes6"))  # a handle that is idle has none there
        lk = ls.lock("r")
        waits = asyncio.create_task(lk.wait_blocked())
        await turns()
        ls.close()
        with pytest.raises(pydlm.Closed):
            await asyncio.wait_for(waits, 5)
        assert not ls._conn.watched

    run(main())


def test_each_waiter_gets_an_error_of_its_own() -> None:
    async def main() -> None:
        ls = aio.connect("tests")
        lk = ls.lock("r")
        await lk.acquire()
        waits = [asyncio.create_task(lk.acquire()) for _ in range(20)]
        waits += [asyncio.create_task(lk.wait_blocked()) for _ in range(20)]  # type: ignore[misc]
        await turns()
        ls.close()
        found = await asyncio.gather(*waits, return_exceptions=True)
        assert len({id(error) for error in found}) == 40
        for error in found:
            assert isinstance(error, pydlm.Closed)

    run(main())
