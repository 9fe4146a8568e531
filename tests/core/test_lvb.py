"""The lock value block, as the handle keeps its rules."""

from __future__ import annotations

from typing import Any

import pytest

from pydlm import LockFlag, LVBInvalid, Mode, NotHeld
from pydlm.types import StatusFlag

F = LockFlag
WRITERS = [Mode.PW, Mode.EX]
READERS = [Mode.CR, Mode.CW, Mode.PR]


def write(lk: Any, value: bytes) -> None:
    with lk:
        lk.lvb = value


def read(lk: Any, mode: Mode = Mode.CR) -> bytes:
    with lk.held(mode):
        return bytes(lk.lvb).rstrip(b"\0")


def invalidate(world: Any, name: str = "x") -> None:
    dying = world.connect()
    lk = dying.lock(name)
    lk.acquire()
    dying.stack.abandon()


def test_a_new_resource_has_zeros(world: Any) -> None:
    ls = world.connect()
    with ls.lock("x") as lk:
        assert lk.lvb_valid and lk.lvb == bytes(ls.lvb_len) == bytes(64)


@pytest.mark.parametrize("mode", WRITERS)
def test_a_writer_publishes_when_it_releases(world: Any, mode: Mode) -> None:
    lk, other = world.handles("x", 2)
    lk.acquire(mode=mode)
    lk.lvb = b"one"
    lk.lvb = b"two"
    assert lk.lvb[:4] == b"two\0"
    lk.release()
    for reader in (*READERS, *WRITERS):
        assert read(other, reader) == b"two"


@pytest.mark.parametrize("mode", READERS)
def test_readers_cannot_write(world: Any, mode: Mode) -> None:
    lk, other = world.handles("x", 2)
    write(other, b"kept")
    with lk.held(mode):
        with pytest.raises(NotHeld) as excinfo:
            lk.lvb = b"no"
        assert isinstance(excinfo.value, RuntimeError)
        assert lk.lvb[:5] == b"kept\0"
    assert read(other) == b"kept"


def test_who_does_not_hold_sees_nothing(world: Any) -> None:
    lk = world.connect().lock("x")
    for use in (
        lambda: lk.lvb,
        lambda: lk.lvb_valid,
        lambda: setattr(lk, "lvb", b""),
    ):
        with pytest.raises(NotHeld):
            use()


def test_a_reader_beside_a_writer_sees_the_old_until_it_is_published(world: Any) -> None:
    lk, reader = world.handles("x", 2)
    write(lk, b"old")
    reader.acquire(mode=Mode.CR)
    lk.acquire(mode=Mode.PW)
    lk.lvb = b"new"
    assert reader.lvb[:3] == b"old"
    lk.convert(Mode.CR)
    assert reader.lvb[:3] == b"new" == lk.lvb[:3]


@pytest.mark.parametrize("down", [Mode.CR, Mode.CW, Mode.PR, Mode.PW])
def test_a_conversion_down_publishes(world: Any, down: Mode) -> None:
    lk, other = world.handles("x", 2)
    lk.acquire()
    lk.lvb = b"new"
    lk.convert(down)
    assert lk.lvb[:3] == b"new"
    with other.held(Mode.CR):
        assert other.lvb[:3] == b"new"
    if down == Mode.PW:
        lk.lvb = b"more"
        with other.held(Mode.CR):
            assert other.lvb[:3] == b"new"
    lk.release()
    assert read(other) == (b"more" if down == Mode.PW else b"new")


def test_a_conversion_up_keeps_what_was_written(world: Any) -> None:
    lk, other = world.handles("x", 2)
    write(other, b"old")
    lk.acquire(mode=Mode.PW)
    lk.lvb = b"new"
    lk.convert(Mode.EX)
    assert lk.lvb[:3] == b"new"
    lk.release()
    assert read(other) == b"new"


def test_a_conversion_up_that_fails_keeps_it_too(world: Any) -> None:
    lk, other = world.handles("x", 2)
    write(other, b"old")
    other.acquire(mode=Mode.CR)
    lk.acquire(mode=Mode.PW)
    lk.lvb = b"new"
    assert lk.convert(Mode.EX, timeout=0.01) is False
    assert lk.convert(Mode.EX, blocking=False) is False
    assert lk.lvb[:3] == b"new" and other.lvb[:3] == b"old"
    lk.release()
    assert other.lvb[:3] == b"new"


def test_a_conversion_to_the_same_mode_publishes_as_the_kernels_table_says(world: Any) -> None:
    lk, other = world.handles("x", 2)
    lk.acquire()
    lk.lvb = b"new"
    assert lk.convert(Mode.EX) and lk.lvb[:3] == b"new"
    lk.release()
    assert read(other) == b"new"


@pytest.mark.parametrize("mode", WRITERS)
def test_who_does_not_write_changes_no_byte(world: Any, mode: Mode) -> None:
    lk, other = world.handles("x", 2)
    block = bytes(range(64))
    write(other, block)
    with lk.held(mode):
        pass
    with lk.held(mode):
        assert lk.lvb == block
        lk.convert(Mode.PR)
        lk.convert(Mode.EX)
    with other.held(Mode.PR):
        assert other.lvb == block


@pytest.mark.parametrize("mode", WRITERS)
def test_who_does_not_write_leaves_an_invalid_block_invalid(world: Any, mode: Mode) -> None:
    lk, other = world.handles("x", 2)
    write(other, b"old")
    invalidate(world)
    for _ in range(3):
        with lk.held(mode):
            assert lk.lvb_valid is False
            with pytest.raises(LVBInvalid):
                lk.lvb  # noqa: B018
            lk.convert(Mode.CR)
            assert lk.lvb_valid is False
    for reader in READERS:
        with other.held(reader):
            assert other.lvb_valid is False


@pytest.mark.parametrize("mode", WRITERS)
def test_a_writer_makes_it_valid_again(world: Any, mode: Mode) -> None:
    lk, other = world.handles("x", 2)
    write(other, b"old")
    invalidate(world)
    other.acquire(mode=Mode.CR)
    with lk.held(mode if mode == Mode.PW else Mode.PW):
        if mode == Mode.EX:
            other.release()
            lk.convert(Mode.EX)
        lk.lvb = b"rebuilt"
        assert lk.lvb_valid and lk.lvb[:7] == b"rebuilt"
        if mode == Mode.PW:
            assert other.lvb_valid is False  # not yet
    assert read(other if mode == Mode.EX else world.connect().lock("x")) == b"rebuilt"


def test_bytes_that_are_invalid_are_never_given(world: Any) -> None:
    lk, other = world.handles("x", 2)
    write(other, b"stale")
    invalidate(world)
    with lk:
        with pytest.raises(LVBInvalid):
            lk.lvb  # noqa: B018
        lk.lvb = b""  # zeros, and valid
        assert lk.lvb == bytes(64)
    with other.held(Mode.PR):
        assert other.lvb_valid and other.lvb == bytes(64)


def test_a_resource_without_locks_is_forgotten(world: Any) -> None:
    ls = world.connect()
    lk, keeper = ls.lock("x"), ls.lock("x")
    write(lk, b"kept")
    lk.close()
    lk = ls.lock("x")
    assert read(lk) == b"kept"  # somebody had it open
    lk.close()
    keeper.close()
    assert world.usage() == (0, 0)
    with ls.lock("x") as lk:
        assert lk.lvb_valid and lk.lvb == bytes(64)


def test_that_it_was_invalid_is_forgotten_too(world: Any) -> None:
    ls = world.connect()
    keeper = ls.lock("x")
    write(keeper, b"old")
    invalidate(world)
    keeper.close()
    with ls.lock("x") as lk:
        assert lk.lvb_valid


@pytest.mark.parametrize("lvb_len", [8, 32, 64, 128, 4096])
def test_every_length(world: Any, lvb_len: int) -> None:
    one = world.connect(lvb_len=lvb_len)
    two = world.connect()
    assert one.lvb_len == two.lvb_len == lvb_len
    block = bytes(255 - i % 256 for i in range(lvb_len))
    for i in range(50):
        write(one.lock(f"r{i}"), block)
    keep = [one.lock(f"s{i}") for i in range(50)]
    for lk in keep:
        write(lk, block)
    for i in range(50):
        assert read(two.lock(f"s{i}")) == block.rstrip(b"\0")


def test_the_raw_verbs_and_the_handles_see_the_same(world: Any) -> None:
    ls, other = world.connect(), world.connect()
    stack, lk = other.stack, ls.lock("x")
    lkid = stack.lock("x", Mode.NL, F.VALBLK)
    write(lk, b"handle")
    stack.dispatch()
    stack.convert(lkid, Mode.EX, F.VALBLK)
    (event,) = stack.dispatch()
    assert event.lvb[:6] == b"handle" and stack.lvb_valid(lkid)
    stack.convert(lkid, Mode.NL, F.VALBLK, lvb=b"raw")
    assert read(lk) == b"raw"
    stack.convert(lkid, Mode.EX, F.VALBLK)
    stack.convert(lkid, Mode.NL, F.VALBLK | F.IVVALBLK)
    with lk:
        assert lk.lvb_valid is False
        lk.lvb = b"again"
    stack.dispatch()
    stack.convert(lkid, Mode.PR, F.VALBLK)
    (event,) = stack.dispatch()
    assert event.lvb[:5] == b"again" and not event.flags & StatusFlag.VALNOTVALID


def test_a_close_publishes(world: Any) -> None:
    ls, other = world.connect(), world.connect()
    lk, heir = ls.lock("x"), other.lock("x")
    lk.acquire()
    lk.lvb = b"closed"
    lk.close()
    assert read(heir) == b"closed"
    lk = ls.lock("x")
    lk.acquire(mode=Mode.PW)
    lk.lvb = b"left"
    ls.close()
    assert read(heir) == b"left"


def test_a_value_that_is_written_while_it_is_read(world: Any) -> None:
    # A reader in CR beside a writer in PW sees one of the values, never a mixture.
    writer, reader = world.handles("x", 2)
    stop: list[None] = []
    write(writer, b"a" * 64)

    def work() -> None:
        i = 0
        while not stop:
            with writer.held(Mode.PW):
                i += 1
                writer.lvb = bytes([97 + i % 26]) * 64

    task = world.worker(work)
    seen = set()

    def look() -> bool:
        value = reader.lvb
        assert value == value[:1] * 64
        seen.add(value[0])
        return len(seen) == 26

    with reader.held(Mode.CR):
        for _ in range(20_000):
            look()
        world.until(look, "each value to be read")
    stop.append(None)
    task.result()
