"""The end of cached locks in a loop: what on_drop may do there, and that nobody cuts it off."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from tests.aio import case
from tests.aio.case import cancelled, lockspace_on, run, turns
from tests.verbs import Verbs

import pydlm
from pydlm import Mode, aio


class Flush:
    """An on_drop that takes its time, and whose work can be seen."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()
        self.begun = asyncio.Event()

    async def __call__(self, lock: aio.AsyncCachedLock, mode: Mode) -> None:
        self.begun.set()
        await self.may_end.wait()
        lock.lvb = b"flushed"


async def dirty(ls: aio.AsyncLockspace, name: str, on_drop: Any) -> aio.AsyncCachedLock:
    """Return a cached lock that is kept in EX."""
    lock = ls.cached(name, on_drop=on_drop)
    async with lock.exclusive():
        pass
    return lock


async def found(lk: aio.AsyncLock) -> bytes:
    async with lk:
        return lk.lvb.rstrip(b"\0")


async def close_twice(ls: aio.AsyncLockspace, lock: aio.AsyncCachedLock) -> None:
    await ls.aclose()


async def close_the_lock(ls: aio.AsyncLockspace, lock: aio.AsyncCachedLock) -> None:
    await lock.close()


async def drop_the_lock(ls: aio.AsyncLockspace, lock: aio.AsyncCachedLock) -> None:
    await lock.drop()


@pytest.mark.parametrize("leaves", [False, True])
@pytest.mark.parametrize("before", [close_twice, close_the_lock, drop_the_lock])
def test_an_on_drop_under_way_is_waited_for(
    before: Callable[[aio.AsyncLockspace, aio.AsyncCachedLock], Awaitable[None]], leaves: bool
) -> None:
    async def main() -> None:
        async with aio.connect("tests") as other:
            reads, flush = other.lock("r"), Flush()
            ls = aio.connect("tests")
            lock = await dirty(ls, "r", flush)
            first = asyncio.ensure_future(before(ls, lock))
            await flush.begun.wait()
            if leaves and before is not close_twice:
                first.cancel()
                assert await cancelled(first)
            second = asyncio.create_task(ls.aclose())
            await turns()
            assert not second.done()
            flush.may_end.set()
            await second
            assert await found(reads) == b"flushed"
            if not first.cancelled():
                await first

    run(main())


def test_an_on_drop_at_the_end_may_use_other_locks() -> None:
    async def main() -> None:
        async with aio.connect("tests") as other:
            reads = other.lock("journal")
            async with aio.connect("tests") as ls:
                dropped = []

                async def note(lock: aio.AsyncCachedLock, mode: Mode) -> None:
                    dropped.append(lock.name)
                    async with journal.exclusive():
                        journal.lvb = b"dropped"

                journal = await dirty(ls, "journal", lambda lock, mode: dropped.append(lock.name))
                await dirty(ls, "r", note)
            assert await found(reads) == b"dropped"
            assert dropped == [b"journal", b"r", b"journal"]  # the last for what r's has left

    run(main())


def test_others_are_turned_away_meanwhile() -> None:
    async def main() -> None:
        ls, flush = aio.connect("tests"), Flush()
        lock = await dirty(ls, "r", flush)
        plain = ls.cached("plain")
        async with plain.exclusive():
            waits = asyncio.create_task(plain.shared().__aenter__())  # type: ignore[arg-type]
            await turns()
            end = asyncio.create_task(ls.aclose())
            await flush.begun.wait()
            with pytest.raises(pydlm.Closed):
                await waits
        with pytest.raises(pydlm.Closed):
            async with lock.exclusive():
                pass
        with pytest.raises(pydlm.Closed):
            ls.cached("another")
        flush.may_end.set()
        await end

    run(main())


def test_one_that_cannot_be_unlocked_cuts_no_other_off() -> None:
    class Refuses(Verbs):
        refused = 0

        def unlock(self, lkid: int, *args: Any, **kwargs: Any) -> None:
            if lkid == self.refused:
                raise pydlm.DlmError("not this one")
            super().unlock(lkid, *args, **kwargs)

    async def main() -> None:
        async with aio.connect("tests") as other:
            reads, flush, stack = other.lock("r"), Flush(), Refuses()
            ls = lockspace_on(stack)
            stays = await dirty(ls, "stays", None)
            await dirty(ls, "r", flush)
            stack.refused = stays._kept.lkid
            end = asyncio.create_task(ls.aclose())
            await flush.begun.wait()
            flush.may_end.set()
            with pytest.raises(pydlm.DlmError, match="not this one"):
                await end
            assert await found(reads) == b"flushed"

    run(main())


async def at_once(wait: Awaitable[None]) -> None:
    await wait


async def by_wait_for(wait: Awaitable[None]) -> None:
    await asyncio.wait_for(wait, 20)


async def by_gather(wait: Awaitable[None]) -> None:
    await asyncio.gather(wait)


@pytest.mark.parametrize("through", [at_once, by_wait_for, by_gather])
@pytest.mark.parametrize("what", ["close", "drop", "use", "aclose"])
def test_nothing_in_an_on_drop_waits_for_it(
    what: str, through: Callable[[Awaitable[None]], Awaitable[None]]
) -> None:
    ended = []

    async def main() -> None:
        async with aio.connect("tests") as ls:

            async def use(lock: aio.AsyncCachedLock) -> None:
                async with lock.exclusive():
                    pass

            async def on_drop(lock: aio.AsyncCachedLock, mode: Mode) -> None:
                if what in ("close", "drop"):
                    await through(getattr(lock, what)())
                else:
                    with pytest.raises(pydlm.Busy):
                        await through(use(lock) if what == "use" else ls.aclose())
                ended.append(mode)

            lock = await dirty(ls, "r", on_drop)
            await lock.drop()
            assert ended == [Mode.NL] and lock.level is Mode.NL

    run(main(), 10)
    assert ended == [Mode.NL]


def test_a_task_that_outlives_the_on_drop_may_use_the_lock() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            tasks = []

            async def refresh(lock: aio.AsyncCachedLock) -> Mode:
                async with lock.shared(timeout=20):
                    return lock.level

            def on_drop(lock: aio.AsyncCachedLock, mode: Mode) -> None:
                if not tasks:
                    tasks.append(asyncio.create_task(refresh(lock)))

            lock = await dirty(ls, "r", on_drop)
            await lock.drop()
            assert await tasks[0] is Mode.PR

    run(main())


def test_one_that_was_lost_is_made_anew() -> None:
    class Refuses(Verbs):
        def convert(self, *args: Any, **kwargs: Any) -> None:
            self._may_fail("convert")
            self.inner.convert(*args, **kwargs)

    async def main() -> None:
        stack = Refuses()
        async with lockspace_on(stack) as ls:
            lock = ls.cached("r")
            async with lock.shared():
                pass
            stack.failing["convert"] = pydlm.DlmError("not now")
            with pytest.raises(pydlm.DlmError, match="not now"):
                await lock.drop()
            stack.failing.clear()
            again = ls.cached("r")
            assert again is not lock
            async with again.shared(timeout=5):
                pass
            await lock.close()
            assert ls.cached("r") is again

    run(main())


def test_no_time_at_all_makes_nobody_let_go() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls, aio.connect("tests") as other:
            mine, theirs = ls.cached("r"), await dirty(other, "r", None)
            with pytest.raises(pydlm.LockTimeout):
                async with mine.shared(timeout=0):
                    pass
            await turns()
            assert theirs.level is Mode.EX
            async with theirs.exclusive(timeout=0):
                pass

    run(main())


def test_the_loop_was_closed_first(caplog: pytest.LogCaptureFixture) -> None:
    kept: list[Any] = []

    async def main() -> None:
        ls = aio.connect("tests")
        await dirty(ls, "kept", lambda lock, mode: None)
        lk = ls.lock("written")
        await lk.acquire()
        lk.lvb = b"by the holder"
        kept.extend([lk, ls])

    loop = case.new_loop()
    loop.run_until_complete(main())
    loop.close()
    with pydlm.connect("tests") as other:
        reads = other.lock("written")
        other.stack.lock(b"kept", Mode.EX)  # what on_drop would be run for, had it a loop
        kept.pop().close()
        with reads:
            assert reads.lvb.startswith(b"by the holder")
    gc.collect()
    assert not caplog.text


def test_close_without_waiting_begins_no_on_drop() -> None:
    async def main() -> None:
        ls, flush = aio.connect("tests"), Flush()
        await dirty(ls, "r", flush)
        with pydlm.connect("tests") as other:
            other.stack.lock(b"r", Mode.EX)
            ls.close()
            await turns()
            assert not flush.begun.is_set()

    run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Python has no eager tasks before 3.12")
def test_on_drop_in_a_task_that_begins_while_it_is_made() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        if type(loop).__module__.startswith("uvloop") and sys.version_info >= (3, 13):
            pytest.skip("uvloop tells task factories more than asyncio's own one takes")
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        async with aio.connect("tests") as ls:

            async def on_drop(lock: aio.AsyncCachedLock, mode: Mode) -> None:
                lock.lvb = b"at once"
                await lock.drop()
                with pytest.raises(pydlm.Busy):
                    async with lock.exclusive():
                        pass

            lock = await dirty(ls, "r", on_drop)
            await lock.drop()
            async with lock.shared():
                assert lock.lvb.startswith(b"at once")

    run(main(), 10)
