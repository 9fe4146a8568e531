"""The lock value block: checked at each read, rebuilt by who writes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tests.core.conftest import World

from pydlm import BadArgument, CachedLock, Lockspace, LVBInvalid, Mode, NotHeld

PR, EX = Mode.PR, Mode.EX


def die(ls: Lockspace) -> None:
    """End the client that the cached locks are on, as its process's death would."""
    keeper: Any = ls._cached._keeper
    keeper.stack.abandon()


@pytest.fixture
def orphaned(world: World) -> CachedLock:
    """A lock whose last writer died while it kept EX, used or not."""
    survivor = world.connect().cached("r")
    dying = world.connect()
    with dying.cached("r").exclusive() as lock:
        lock.lvb = b"lost"
    die(dying)
    return survivor


def test_invalid_until_somebody_writes(world: World, orphaned: CachedLock) -> None:
    other = world.connect().cached("r")
    for lock in (orphaned, other):
        with lock.shared():
            assert not lock.lvb_valid
            with pytest.raises(LVBInvalid):
                _ = lock.lvb
    with orphaned.exclusive():  # one that does not write
        assert not orphaned.lvb_valid
    with other.shared():
        assert not other.lvb_valid, "left as it was"
    with orphaned.exclusive():
        orphaned.lvb = b"anew"
        assert orphaned.lvb_valid
    with orphaned.shared():
        assert orphaned.lvb.rstrip(b"\0") == b"anew"
    with other.shared():
        assert other.lvb.rstrip(b"\0") == b"anew"


def test_a_use_that_does_not_write_leaves_it(world: World) -> None:
    a, b = (world.connect().cached("r") for _ in range(2))
    with a.exclusive():
        a.lvb = b"value"
    with b.exclusive():
        pass
    with a.exclusive():
        assert a.lvb.rstrip(b"\0") == b"value"


def test_written_again_before_it_was_let_go(world: World) -> None:
    a, b = (world.connect().cached("r") for _ in range(2))
    for value in (b"one", b"two"):
        with a.exclusive():
            a.lvb = value
    with b.shared():
        assert b.lvb.rstrip(b"\0") == b"two"
    with a.shared():
        assert a.lvb.rstrip(b"\0") == b"two"


def test_who_may_touch_it(world: World) -> None:
    lock = world.connect().cached("r")
    with pytest.raises(NotHeld):
        _ = lock.lvb
    with lock.shared():
        assert lock.lvb == bytes(64)
        with pytest.raises(NotHeld):
            lock.lvb = b"x"
    with lock.exclusive():
        with pytest.raises(BadArgument):
            lock.lvb = bytes(65)
        with pytest.raises(TypeError):
            lock.lvb = "text"  # type: ignore[assignment]
    assert lock.level is EX
    with lock.shared(), pytest.raises(NotHeld):
        lock.lvb = b"kept in EX, but the use is a shared one"
    for use in (lambda: lock.lvb, lambda: lock.lvb_valid):
        with pytest.raises(NotHeld):
            use()


def test_values(world: World) -> None:
    pair = (lambda value: json.dumps(value).encode(), lambda b: json.loads(b.rstrip(b"\0")))
    ls = world.connect()
    with ls.cached("number", codec="<Q").exclusive() as lock:
        lock.value = 1 << 40
        assert lock.value == 1 << 40
    with ls.cached("fields", codec="<QH").exclusive() as lock:
        lock.value = (1, 2)
        assert lock.value == (1, 2)
    with ls.cached("json", codec=pair).exclusive() as lock:
        lock.value = {"v": 3}
        assert lock.value == {"v": 3}
    with ls.cached("none").exclusive() as lock, pytest.raises(BadArgument, match="codec"):
        lock.value = 1
    for codec, value in (("<Q", "text"), ("<B", 256), ("<QH", 7), ("<QH", (1,)), ("<f", 1e300)):
        with ls.cached(f"wrong {codec}", codec=codec).exclusive() as lock:
            before = lock.lvb
            with pytest.raises(BadArgument, match="does not go into the codec"):
                lock.value = value
            assert lock.lvb == before
    for codec in ("no format", "<65B", "4x", ""):
        with pytest.raises(BadArgument):
            ls.cached("bad", codec=codec)
