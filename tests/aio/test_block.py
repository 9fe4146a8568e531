"""The lock value block: as the blocking locks have it."""

from __future__ import annotations

import pytest
from tests.aio.case import run, two_handles

import pydlm
from pydlm import Mode, aio


async def die_in_ex(lockspace: str, name: str) -> None:
    """Leave as one that was changing the block."""
    dying = aio.connect(lockspace)
    lk = dying.lock(name)
    await lk.acquire()
    dying.stack.abandon()  # type: ignore[attr-defined]
    dying.close()


def test_it_travels() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls, aio.connect("tests") as other:
            lk, second = ls.lock("r"), other.lock("r")
            with pytest.raises(pydlm.NotHeld):
                lk.lvb  # noqa: B018
            async with lk:
                assert lk.lvb == bytes(ls.lvb_len)
                lk.lvb = b"one"
                assert lk.lvb == b"one".ljust(ls.lvb_len, b"\0")
                with pytest.raises(pydlm.BadArgument):
                    lk.lvb = bytes(ls.lvb_len + 1)
            async with second.held(Mode.PR):
                assert second.lvb.startswith(b"one")
                with pytest.raises(pydlm.NotHeld):
                    second.lvb = b"two"
            with pydlm.connect("tests") as blocking, blocking.lock("r") as third:
                assert third.lvb.startswith(b"one")

    run(main())


def test_a_down_conversion_publishes() -> None:
    async def main() -> None:
        async with two_handles() as (lk, second), lk:
            lk.lvb = b"one"
            await lk.convert(Mode.PR)
            async with second.held(Mode.PR):
                assert second.lvb.startswith(b"one")

    run(main())


def test_invalid_until_somebody_writes() -> None:
    async def main() -> None:
        async with two_handles() as (lk, second):
            async with lk:
                lk.lvb = b"one"
            await die_in_ex("tests", "r")
            for handle in (lk, second, lk):
                async with handle:  # who does not write leaves it invalid
                    assert not handle.lvb_valid
                    with pytest.raises(pydlm.LVBInvalid):
                        handle.lvb  # noqa: B018
            async with second:
                second.lvb = b"two"
                assert second.lvb_valid
            async with lk.held(Mode.PR):
                assert lk.lvb.startswith(b"two")

    run(main())


def test_closing_says_that_it_is_invalid_still() -> None:
    async def main() -> None:
        async with aio.connect("tests") as ls:
            lk = ls.lock("r")
            async with lk:
                lk.lvb = b"one"
            await die_in_ex("tests", "r")
            for way in ("handle", "connection", "collected"):
                other = aio.connect("tests")
                handle = other.lock("r")
                await handle.acquire()
                assert not handle.lvb_valid
                if way == "handle":
                    handle.close()
                elif way == "collected":
                    with pytest.warns(ResourceWarning):
                        del handle
                other.close()
            async with lk:
                assert not lk.lvb_valid

    run(main())
