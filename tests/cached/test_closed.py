"""Closing, under users and without; a child after fork; a stack that fails."""

from __future__ import annotations

import logging
import os
import traceback
from collections.abc import Callable

import pytest
from tests.core.conftest import World

from pydlm import CachedLock, Closed, DlmError, Forked, LVBInvalid, Mode

NL, PR, EX = Mode.NL, Mode.PR, Mode.EX


def test_close_publishes_and_unlocks(world: World) -> None:
    seen: list[Mode] = []
    ls, other = world.connect(), world.connect().cached("r")
    lock = ls.cached("r", on_drop=lambda lock, mode: seen.append(mode))
    with lock.exclusive():
        lock.lvb = b"value"
    lock.close()
    lock.close()
    assert seen == [NL] and len(list(ls.dump("r"))) == 1
    with pytest.raises(Closed):
        lock.shared().__enter__()
    assert "closed" in repr(lock)
    with other.shared():
        assert other.lvb.rstrip(b"\0") == b"value"


def test_close_under_users(world: World) -> None:
    ls = world.connect()
    lock = ls.cached("r")
    with lock.exclusive():
        waits = world.thread(lock.shared().__enter__)
        lock.close()
        assert isinstance(waits.error(), Closed)
        with pytest.raises(Closed):
            lock.shared().__enter__()
        lock.lvb = b"still mine"
        again = ls.cached("r")
        assert again is not lock
        reads = world.thread(again.shared().__enter__)
        world.queued(ls, "r")
    with reads.result().shared():
        assert again.lvb.rstrip(b"\0") == b"still mine"
    again.shared().__exit__(None, None, None)


def test_leaving_runs_on_drop_and_publishes(world: World) -> None:
    def flush(lock: CachedLock, mode: Mode) -> None:
        lock.lvb = b"flushed"

    other = world.connect().cached("r")
    with world.connect() as ls, ls.cached("r", on_drop=flush).exclusive():
        pass
    with other.shared():
        assert other.lvb.rstrip(b"\0") == b"flushed"
    with pytest.raises(Closed):
        ls.cached("r")


@pytest.mark.parametrize("exclusive", [False, True])
def test_leaving_under_users(world: World, exclusive: bool) -> None:
    other = world.connect().cached("r")
    ls = world.connect()
    lock = ls.cached("r")
    with lock.exclusive():
        lock.lvb = b"whole"
    use = lock.exclusive() if exclusive else lock.shared()
    with use:
        waits = world.thread(lock.exclusive().__enter__)
        ls.close()
        assert isinstance(waits.error(), Closed)
        with pytest.raises(Closed):
            _ = lock.lvb
    with other.shared():
        if exclusive:
            with pytest.raises(LVBInvalid):
                _ = other.lvb
        else:
            assert other.lvb.rstrip(b"\0") == b"whole"
    with pytest.raises(Closed):
        lock.drop()
    lock.close()


def test_waiting_for_another_node_when_leaving(world: World) -> None:
    ls, other = world.connect(), world.connect()
    lock = ls.cached("r")
    with other.cached("r").exclusive():
        waits = world.thread(lock.shared().__enter__)
        world.queued(other, "r")
        ls.close()
        assert isinstance(waits.error(), Closed)
        world.queued(other, "r", 0)


def test_descriptor(world: World) -> None:
    lock = world.connect().cached("r")
    assert lock.fileno() == lock.fileno()
    lock.close()
    with pytest.raises(Closed):
        lock.fileno()


USES: dict[str, Callable[[CachedLock], object]] = {
    "shared": lambda lock: lock.shared().__enter__(),
    "exclusive": lambda lock: lock.exclusive().__enter__(),
    "try": lambda lock: lock.shared(blocking=False).__enter__(),
    "exit": lambda lock: lock.shared().__exit__(None, None, None),
    "lvb": lambda lock: lock.lvb,
    "lvb=": lambda lock: setattr(lock, "lvb", b"child"),
    "lvb_valid": lambda lock: lock.lvb_valid,
    "drop": lambda lock: lock.drop(),
    "fileno": lambda lock: lock.fileno(),
}


def test_in_a_child_it_is_dead(world: World) -> None:
    ls = world.connect()
    lock = ls.cached("r")
    with lock.exclusive():
        lock.lvb = b"parent"
        child = os.fork()
        if child == 0:
            try:
                for use in USES.values():
                    with pytest.raises(Forked):
                        use(lock)
                with pytest.raises(Forked):
                    ls.cached("s")
                lock.close()
                ls.close()
                repr(lock)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert lock.lvb.rstrip(b"\0") == b"parent"
    assert lock.level is EX
    with world.connect().cached("r").shared(timeout=20) as other:
        assert other.lvb.rstrip(b"\0") == b"parent"


def test_the_stack_fails(
    world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for ever for a keeper that is no more."""
    ls, other = world.connect(), world.connect()
    lock = ls.cached("r")
    with other.cached("r").exclusive():
        waits = world.thread(lock.shared().__enter__)
        world.queued(other, "r")
        with caplog.at_level(logging.CRITICAL, logger="pydlm"):
            ls._cached._keeper.stack.disconnect()  # type: ignore[union-attr]
            lock.close()
        assert isinstance(waits.error(), DlmError)
    with pytest.raises(DlmError):
        lock.shared().__enter__()


def test_the_block_of_a_closed_lock(world: World) -> None:
    lock = world.connect().cached("r")
    with lock.exclusive():
        lock.close()
        lock.lvb = b"still mine"
    world.until(lambda: lock._kept.machine.gone)
    with pytest.raises(Closed):
        _ = lock.lvb
    with pytest.raises(Closed):
        lock.lvb = b"late"


def test_a_mode_is_refused(world: World) -> None:
    lock = world.connect().cached("r")
    for use in (lock.shared, lock.exclusive):
        for arguments in ((PR,), (True, PR)):
            with pytest.raises(TypeError, match="no mode"):
                use(*arguments)
