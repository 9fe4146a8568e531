"""on_drop: when it runs, what it may do, and what becomes of its errors."""

from __future__ import annotations

import logging
import threading

import pytest
from tests.core.conftest import World

from pydlm import Busy, CachedLock, LockTimeout, Mode, NotHeld

NL, PR, EX = Mode.NL, Mode.PR, Mode.EX


def test_it_runs_before_letting_go(world: World) -> None:
    seen: list[tuple[Mode, Mode, int]] = []

    def on_drop(lock: CachedLock, mode: Mode) -> None:
        seen.append((lock.level, mode, b.shared_uses + b.exclusive_uses))

    a = world.connect().cached("r", on_drop=on_drop)
    b = world.connect().cached("r")
    with a.exclusive():
        pass
    with b.shared():
        assert seen == [(EX, PR, 0)]
    with b.exclusive():
        assert seen[1:] == [(PR, NL, 0)]
    assert len(seen) == 2


def test_it_flushes_into_the_lock_value_block(world: World) -> None:
    def flush(lock: CachedLock, mode: Mode) -> None:
        lock.value = lock.value + len(dirty)
        dirty.clear()

    dirty: list[str] = []
    a = world.connect().cached("r", on_drop=flush, codec="<Q")
    b = world.connect().cached("r", codec="<Q")
    with a.exclusive():
        dirty.append("change")
    with a.exclusive():
        dirty.append("change")
    with b.shared():
        assert b.value == 2 and not dirty


def test_below_ex_it_may_only_read(world: World) -> None:
    errors: list[Exception] = []

    def on_drop(lock: CachedLock, mode: Mode) -> None:
        try:
            assert lock.lvb
            lock.lvb = b"late"
        except NotHeld as error:
            errors.append(error)

    a = world.connect().cached("r", on_drop=on_drop)
    with a.shared():
        pass
    a.drop()
    assert len(errors) == 1


def test_errors_are_logged_and_the_lock_is_let_go(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(lock: CachedLock, mode: Mode) -> None:
        raise SystemExit("no way")

    a = world.connect().cached("r", on_drop=fail)
    with a.exclusive():
        a.lvb = b"kept"
    other = world.connect().cached("r")
    with caplog.at_level(logging.ERROR, logger="pydlm"), other.shared():
        assert other.lvb.rstrip(b"\0") == b"kept"
    (record,) = caplog.records
    assert "b'r'" in record.getMessage() and record.exc_info


def test_a_slow_one_keeps_no_other_lock_waiting(world: World) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(lock: CachedLock, mode: Mode) -> None:
        begun.set()
        go_on.wait(20)

    ls, other = world.connect(), world.connect()
    a = ls.cached("r", on_drop=slow)
    with a.exclusive(), ls.cached("s").exclusive():
        pass
    reader = world.worker(other.cached("r").shared().__enter__)
    assert begun.wait(20)
    # Other locks, and a time-out on this one, are seen to.
    with other.cached("s").exclusive(timeout=20):
        pass
    with a.shared(timeout=20):  # compatible with the drop to PR: goes on
        assert a.level is EX and a.blocked is PR
    with pytest.raises(LockTimeout):
        a.exclusive(timeout=0.01).__enter__()
    assert not reader.done
    go_on.set()
    reader.result().shared().__exit__(None, None, None)


def test_what_it_cannot_wait_for_is_refused(world: World) -> None:
    outcome: list[tuple[Mode, str]] = []

    def on_drop(lock: CachedLock, mode: Mode) -> None:
        try:
            with lock.shared():
                outcome.append((mode, "had"))
        except Busy:
            outcome.append((mode, "Busy"))
        lock.drop()  # under way; does not wait

    a = world.connect().cached("r", on_drop=on_drop)
    with a.exclusive():
        pass
    with world.connect().cached("r").shared():
        pass
    a.drop()
    assert outcome == [(PR, "had"), (NL, "Busy")]


def test_it_may_use_other_locks(world: World) -> None:
    ls = world.connect()
    index = ls.cached("index", codec="<Q")

    def on_drop(lock: CachedLock, mode: Mode) -> None:
        with index.exclusive(timeout=20):
            index.value = 7

    a = ls.cached("r", on_drop=on_drop)
    with a.exclusive():
        pass
    with world.connect().cached("r").shared():
        pass
    with world.connect().cached("index", codec="<Q").shared() as seen:
        assert seen.value == 7


def test_drop_by_hand(world: World) -> None:
    seen: list[Mode] = []
    a = world.connect().cached("r", on_drop=lambda lock, mode: seen.append(mode))
    a.drop()
    with a.shared():
        a.drop()  # does not wait: it might be for itself
        assert a.level is PR and a.blocked is EX
        with pytest.raises(LockTimeout):
            a.shared(timeout=0.01).__enter__()
    world.until(lambda: a.level is NL)
    with a.exclusive():
        pass
    a.drop()
    assert a.level is NL and seen == [NL, NL]
