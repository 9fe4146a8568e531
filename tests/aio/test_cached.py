"""Cached locks in a loop: uses, the hand-over, on_drop, cancellation, the end."""

from __future__ import annotations

import asyncio
import gc
import weakref
from typing import Any

import pytest
from tests.aio.case import Slow, cancelled, lockspace_on, run, turns, until
from tests.verbs import Verbs

import pydlm
from pydlm import Mode, aio
from pydlm._core import AsyncGate


def test_uses_and_levels() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            lock = ls.cached("r", codec="<Q")
            assert ls.cached("r") is lock and lock.level is Mode.NL
            with pytest.raises(pydlm.BadArgument):
                ls.cached("r", exclusion=False)
            async with lock.shared() as same:
                assert same is lock and lock.level is Mode.PR and lock.shared_uses == 1
                async with lock.shared():
                    assert lock.shared_uses == 2
            async with lock.exclusive() as same:
                assert same is lock and lock.level is Mode.EX and lock.exclusive_uses == 1
                lock.value = 7
            assert lock.level is Mode.EX and not lock.exclusive_uses
            async with lock.shared(timeout=1), lock.shared(blocking=False):
                assert lock.value == 7
            with pytest.raises(pydlm.NotHeld):
                lock.lvb  # noqa: B018
            with pytest.raises(pydlm.NotHeld):
                await lock.shared().__aexit__(None, None, None)

    run(main())


def test_entering_what_is_there_takes_no_turn() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            lock = ls.cached("r")
            async with lock.exclusive():
                pass
            entering = lock.shared().__aenter__()
            assert next(iter_of(entering), "ended") == "ended"
            leaving = lock.shared().__aexit__(None, None, None)
            assert await leaving is None  # type: ignore[func-returns-value]
            assert await lock.shared().__aenter__() is lock
            await lock.shared().__aexit__(None, None, None)

    def iter_of(awaitable: Any) -> Any:
        return awaitable.__await__()

    run(main())


def test_uses_exclude_each_other() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            lock = ls.cached("r")
            inside: list[str] = []

            async def reads() -> None:
                async with lock.shared():
                    assert "w" not in inside
                    inside.append("r")
                    await turns(2)
                    inside.remove("r")

            async def writes() -> None:
                async with lock.exclusive():
                    assert not inside
                    inside.append("w")
                    await turns(2)
                    inside.remove("w")

            await asyncio.gather(*(reads() if n % 3 else writes() for n in range(40)))
            async with lock.exclusive():
                with pytest.raises(pydlm.WouldBlock):
                    async with lock.shared(blocking=False):
                        pass
                with pytest.raises(pydlm.LockTimeout):
                    async with lock.exclusive(timeout=0.01):
                        pass

    run(main())


@pytest.mark.parametrize("coroutine", [False, True])
def test_hand_over(coroutine: bool) -> None:
    dropped: list[Mode] = []

    async def main() -> None:
        def plain(lock: aio.AsyncCachedLock, mode: Mode) -> None:
            lock.lvb = b"flushed"
            dropped.append(mode)

        async def slow(lock: aio.AsyncCachedLock, mode: Mode) -> None:
            await turns(3)
            plain(lock, mode)

        async with aio.connect("tests") as ls, aio.connect("tests") as other:
            mine = ls.cached("r", on_drop=slow if coroutine else plain)
            theirs = other.cached("r")
            async with mine.exclusive():
                task = asyncio.create_task(theirs.shared().__aenter__())  # type: ignore[arg-type]
                await turns()
                assert mine.blocked is Mode.PR and not task.done()
            await task
            assert dropped == [Mode.PR] and mine.level is theirs.level is Mode.PR
            assert theirs.lvb.startswith(b"flushed")
            await theirs.shared().__aexit__(None, None, None)
            async with mine.exclusive():
                assert theirs.level is Mode.NL
            await mine.drop()
            assert dropped == [Mode.PR, Mode.NL] and mine.level is Mode.NL

    run(main())


def test_with_threads_of_another_connection() -> None:
    def other() -> None:
        with pydlm.connect("tests") as ls:
            lock = ls.cached("r", codec="<Q")
            for _ in range(100):
                with lock.exclusive():
                    lock.value += 1

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with aio.connect("tests") as ls:
            lock = ls.cached("r", codec="<Q")
            thread = loop.run_in_executor(None, other)
            for _ in range(100):
                async with lock.exclusive():
                    lock.value += 1
                await asyncio.sleep(0)
            await thread
            async with lock.shared():
                assert lock.value == 200
        await loop.shutdown_default_executor()

    run(main())


def test_on_drop_that_fails_is_cancelled_or_asks_for_its_own_lock(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        async def fails(lock: aio.AsyncCachedLock, mode: Mode) -> None:
            raise ValueError("not flushed")

        refused = []

        async def asks(lock: aio.AsyncCachedLock, mode: Mode) -> None:
            with pytest.raises(pydlm.Busy):
                async with lock.exclusive():
                    pass
            refused.append(mode)

        async def hangs(lock: aio.AsyncCachedLock, mode: Mode) -> None:
            await asyncio.sleep(60)

        async with aio.connect("tests") as ls:
            for number, on_drop in enumerate((fails, asks)):
                lock = ls.cached(f"r{number}", on_drop=on_drop)
                async with lock.exclusive():
                    pass
                await lock.drop()
                assert lock.level is Mode.NL
            assert refused == [Mode.NL]
            for begun in (0, 3):
                lock = ls.cached(f"hangs {begun}", on_drop=hangs)
                async with lock.exclusive():
                    pass
                dropping = asyncio.create_task(lock.drop())
                await turns(1)
                await turns(begun)
                for on_drop_run in ls._conn.keeper._running.values():  # type: ignore[union-attr]
                    on_drop_run.task.cancel()  # type: ignore[union-attr]
                await dropping
                assert lock.level is Mode.NL

    run(main())
    assert caplog.text.count("ValueError: not flushed") == 1
    assert caplog.text.count("was cancelled; it is let go all the same") == 2


@pytest.mark.parametrize("when", ["waiting", "in the arena", "told"])
def test_a_cancelled_use_leaves_nothing(when: str) -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls, aio.connect("tests") as other:
            mine, held = ls.cached("r"), other.lock("r")
            await held.acquire()

            async def uses() -> None:
                async with mine.exclusive():
                    pass

            task = asyncio.create_task(uses())
            await turns()
            if when != "waiting":
                held.release()
            if when == "told":
                ls._conn.pump()
                assert mine.exclusive_uses == 1
            task.cancel()
            assert await cancelled(task)
            assert not mine.exclusive_uses and not mine.shared_uses
            if when == "waiting":
                held.release()
            async with mine.exclusive(timeout=5):
                pass

    run(main())


def test_a_cancelled_use_on_a_stack_that_takes_its_time() -> None:
    async def main() -> None:
        stack = Slow()
        async with lockspace_on(stack) as ls:
            lock = ls.cached("r")

            async def uses() -> None:
                async with lock.exclusive():
                    pass

            task = asyncio.create_task(uses())
            await turns()
            stack.let()
            await turns()
            task.cancel(), task.cancel()
            assert await cancelled(task)
            stack.slow = False
            stack.let()  # granted all the same
            await turns()
            assert not lock.exclusive_uses
            async with lock.exclusive(timeout=5):
                pass

    run(main())


def test_the_end() -> None:
    dropped: list[bytes] = []

    async def main() -> None:
        async def on_drop(lock: aio.AsyncCachedLock, mode: Mode) -> None:
            await asyncio.sleep(0)
            dropped.append(lock.name)

        async with aio.connect("tests") as ls:
            for name in "abc":
                async with ls.cached(name, on_drop=on_drop).exclusive():
                    pass
            lock = ls.cached("a")
            await lock.close()
            await lock.close()
            with pytest.raises(pydlm.Closed):
                async with lock.shared():
                    pass
            assert dropped == [b"a"] and ls.cached("a") is not lock
        assert sorted(dropped) == [b"a", b"b", b"c"]
        with pytest.raises(pydlm.Closed):
            async with lock.shared():
                pass

    run(main())


def test_close_without_waiting() -> None:
    async def main() -> None:
        ls = aio.connect("tests")
        lock = ls.cached("r")
        async with lock.exclusive():
            waits = asyncio.create_task(lock.shared().__aenter__())  # type: ignore[arg-type]
            await turns()
            ls.close()
            with pytest.raises(pydlm.Closed):
                await waits
        async with aio.connect("tests") as other, other.lock("r") as lk:
            assert lk.locked()

    run(main())


def test_what_was_under_way_exclusively_is_invalid_after_a_death() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            lock = ls.cached("r")
            dying = aio.connect("tests")
            async with dying.cached("r").exclusive():
                pass
            dying.stack.abandon()  # type: ignore[attr-defined]
            dying.close()
            async with lock.exclusive():
                assert not lock.lvb_valid
                lock.lvb = b"rebuilt"
            async with lock.shared():
                assert lock.lvb_valid

    run(main())


def test_a_stack_without_what_it_takes() -> None:
    async def main() -> None:
        async with lockspace_on(Verbs("bast")) as ls:
            with pytest.raises(pydlm.Unsupported):
                ls.cached("r")

    run(main())


def test_a_stack_that_is_lost() -> None:
    async def main() -> None:
        stack = Verbs()
        ls = lockspace_on(stack)
        lock = ls.cached("r")
        async with lock.exclusive():
            waits = asyncio.create_task(lock.shared().__aenter__())  # type: ignore[arg-type]
            await turns()
            stack.failing["dispatch"] = pydlm.DlmError("no more events")
            with pydlm.connect("tests") as other:
                asker = other.stack.lock(b"r", Mode.EX)
                await until(lambda: not ls._conn.alive)
                assert asker
            with pytest.raises(pydlm.DlmError, match="no more events"):
                await waits
        ls.close()

    run(main())


def test_what_is_made_beforehand_goes_with_the_gate() -> None:
    class Mine(AsyncGate):
        pass

    async def main() -> weakref.ref[Mine]:
        gate = Mine(True, lambda gate: None)
        gate.allow(True, True, False)
        async with gate.shared() as same:
            assert same is gate
        return weakref.ref(gate)

    gone = run(main())
    gc.collect()
    assert gone() is None
