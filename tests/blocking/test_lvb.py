"""The lock value block of the blocking lock."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.blocking.threads import SOON

import pydlm
from pydlm import Lockspace, Mode

pytestmark = pytest.mark.filterwarnings("ignore:.* was held when its last ref:ResourceWarning")

NL, CR, CW, PR, PW, EX = Mode


def block(text: bytes) -> bytes:
    return text.ljust(64, b"\0")


def test_lvb(a: Lockspace, b: Lockspace) -> None:
    one, two = a.lock("r"), b.lock("r")
    assert a.lvb_len == 64
    with one:
        assert one.lvb_valid and one.lvb == block(b"")
        one.lvb = b"1"
        assert one.lvb == block(b"1")
    with two.held(PR):
        assert two.lvb_valid and two.lvb == block(b"1")
        with pytest.raises(pydlm.NotHeld, match="written in PW or EX"):
            two.lvb = b"2"
    with two:  # nobody writes: it stays
        pass
    with two.held(PW):
        two.lvb = bytearray(b"2" * 64)
        two.convert(PR)  # this publishes
        assert one.acquire(timeout=SOON, mode=PR) and one.lvb == b"2" * 64 == two.lvb
        one.release()
    with two:
        for wrong, error in ((b"x" * 65, pydlm.BadArgument), ("x", TypeError), (None, TypeError)):
            with pytest.raises(error):
                two.lvb = wrong  # type: ignore[assignment]
    for use in (lambda: one.lvb, lambda: one.lvb_valid, lambda: setattr(one, "lvb", b"")):
        with pytest.raises(pydlm.NotHeld):
            use()


def test_what_was_written_in_pw_survives_the_conversion_to_ex(a: Lockspace, b: Lockspace) -> None:
    one, two = a.lock("r"), b.lock("r")
    with one:
        one.lvb = b"old"
    with one.held(PW):
        one.lvb = b"new"
        one.convert(EX)  # reads the block
        assert one.lvb == block(b"new")
    with two:
        assert two.lvb == block(b"new")
    with one.held(PW):
        one.convert(EX)
        one.convert(EX)
        one.lvb = b"newer"
        one.convert(EX)  # writes
        one.convert(PW)
    with two:
        assert two.lvb == block(b"newer")


@pytest.mark.parametrize("how", ["release", "close", "disconnect"])
def test_what_was_written_is_published(a: Lockspace, b: Lockspace, how: str) -> None:
    one, two = a.lock("r"), b.lock("r")
    one.acquire(mode=PW)
    one.lvb = b"written"
    {"release": one.release, "close": one.close, "disconnect": a.close}[how]()
    assert two.acquire(timeout=SOON) and two.lvb == block(b"written")


def test_invalid_stays_invalid_until_somebody_writes(connect: Callable[[], Lockspace]) -> None:
    dying, a, b = connect(), connect(), connect()
    one, two, dead = a.lock("r"), b.lock("r"), dying.lock("r")
    with one:
        one.lvb = b"old"
    dead.acquire()
    dead.lvb = b"half"
    dying.stack.abandon()  # type: ignore[attr-defined]
    with two.held(PR):
        assert not two.lvb_valid
        with pytest.raises(pydlm.LVBInvalid, match="is invalid"):
            _ = two.lvb
    for lk in (one, two):
        with lk:
            assert not lk.lvb_valid
            assert lk.convert(EX) and not lk.lvb_valid
            assert lk.convert(PW) and not lk.lvb_valid
            assert lk.convert(EX) and not lk.lvb_valid
            assert lk.convert(PR) and not lk.lvb_valid
    three = a.lock("r")
    three.acquire()
    three.close()
    c = connect()
    four = c.lock("r")
    four.acquire(mode=PW)
    c.close()
    with one:
        assert not one.lvb_valid
        one.lvb = b"rebuilt"
        assert one.lvb_valid and one.lvb == block(b"rebuilt")
    with two.held(PR):
        assert two.lvb == block(b"rebuilt")
