"""Every argument that cannot be is refused by type and errno, and nothing comes of it."""

from __future__ import annotations

import errno
import math
import threading
from typing import Any

import pytest

import pydlm
from pydlm import BadArgument, Busy, DlmError, LockFlag, Mode, NoSuchLock, WouldBlock, _core
from pydlm.types import ECANCEL, EUNLOCK

F = LockFlag


def refused(excinfo: pytest.ExceptionInfo[DlmError], number: int = errno.EINVAL) -> None:
    assert excinfo.value.errno == number
    assert str(excinfo.value)


# Names.


@pytest.mark.parametrize(
    "name", ["x", "x" * 64, b"\0", b"\xff" * 64, "a\0b", "é" * 32, b"r\0" * 12]
)
def test_names_that_are_taken(world: Any, name: str | bytes) -> None:
    ls = world.connect()
    raw = name.encode() if isinstance(name, str) else name
    with ls.lock(name) as lk:
        assert lk.name == raw
        assert [s.name for s in ls.dump(name)] == [raw]
        assert not ls.lock(raw).acquire(blocking=False)


def test_names_that_differ_only_at_their_end_are_different(world: Any) -> None:
    ls = world.connect()
    names = [b"x", b"x\0", b"x\0\0", b"x" * 23, b"x" * 24, b"x" * 25, b"x" * 63, b"x" * 64]
    locks = [ls.lock(name) for name in names]
    assert all(lk.acquire(blocking=False) for lk in locks)
    assert [lk.name for lk in locks] == names


@pytest.mark.parametrize(
    "name", ["", b"", "x" * 65, b"x" * 65, "é" * 33, "\ud800", "x\udcff", b"x" * 100_000]
)
def test_names_that_are_refused(world: Any, name: str | bytes) -> None:
    ls = world.connect()
    with pytest.raises(BadArgument) as excinfo:
        ls.lock(name)
    refused(excinfo)
    assert isinstance(excinfo.value, ValueError)
    assert world.usage() == (0, 0)


@pytest.mark.parametrize("name", [None, 5, 1.0, ["x"], object()])
def test_names_of_another_type(world: Any, name: Any) -> None:
    ls = world.connect()
    with pytest.raises(TypeError):
        ls.lock(name)
    with pytest.raises(TypeError):
        ls.stack.lock(name, Mode.NL)
    if name is not None:
        with pytest.raises(TypeError):
            ls.dump(name)
    assert world.usage() == (0, 0)


def test_the_raw_verbs_take_the_empty_name_as_the_kernel_does(world: Any) -> None:
    stack = world.connect().stack
    lkid = stack.lock(b"", Mode.EX)
    assert [s.lkid for s in stack.dump(b"")] == [lkid]
    with pytest.raises(BadArgument):
        stack.lock(b"x" * 65, Mode.EX)


@pytest.mark.parametrize("name", ["\ud800", "x" * 65])
def test_dump_of_a_name_that_cannot_be(world: Any, name: str) -> None:
    with pytest.raises(BadArgument):
        world.connect().dump(name)


# Modes.


@pytest.mark.parametrize("mode", [Mode.NL, -1, 6, 9, 1 << 40, -(1 << 70)])
def test_modes_that_are_refused(world: Any, mode: int) -> None:
    lk = world.connect().lock("x")
    calls = [lambda: lk.acquire(mode=mode), lambda: lk.held(mode)]
    for call in calls:
        with pytest.raises(BadArgument) as excinfo:
            call()
        refused(excinfo)
    with lk, pytest.raises(BadArgument):
        lk.convert(mode)
    assert not lk.locked()


@pytest.mark.parametrize("mode", [True, "EX", 3.0, None, b"EX"])
def test_modes_of_another_type(world: Any, mode: Any) -> None:
    lk = world.connect().lock("x")
    for call in (lambda: lk.acquire(mode=mode), lambda: lk.held(mode)):
        with pytest.raises(TypeError):
            call()
    with lk:
        with pytest.raises(TypeError):
            lk.convert(mode)
        assert lk.granted == Mode.EX


def test_a_mode_may_be_a_plain_number(world: Any) -> None:
    lk = world.connect().lock("x")
    assert lk.acquire(mode=3) and lk.granted is Mode.PR
    assert lk.convert(5) and lk.granted is Mode.EX


@pytest.mark.parametrize("mode", [-1, 6, 9, 1 << 40])
def test_modes_that_the_raw_verbs_refuse(world: Any, mode: int) -> None:
    stack = world.connect().stack
    with pytest.raises(BadArgument):
        stack.lock("x", mode)
    lkid = stack.lock("x", Mode.PR)
    with pytest.raises(BadArgument):
        stack.convert(lkid, mode)
    assert stack.lock_status(lkid).granted == Mode.PR


@pytest.mark.parametrize("number", [3.7, "3", None, b"3"])
def test_the_raw_verbs_take_whole_numbers(world: Any, number: Any) -> None:
    stack = world.connect().stack
    lkid = stack.lock("x", Mode.NL)
    calls = [
        lambda: stack.lock("x", number),
        lambda: stack.lock("x", Mode.NL, number),
        lambda: stack.convert(lkid, number),
        lambda: stack.unlock(number),
        lambda: stack.purge(number),
        lambda: stack.dispatch(number),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()


# Flags.

NEW_LOCK_REFUSES = [
    (Mode.PR, F.CANCEL),
    (Mode.PR, F.QUECVT),
    (Mode.PR, F.CONVDEADLK),
    (Mode.PR, F.EXPEDITE),
    (Mode.NL, F.EXPEDITE | F.NOQUEUE),
    (Mode.NL, F.EXPEDITE | F.QUECVT),
    (Mode.PR, 0x80000),
    (Mode.PR, 1 << 31),
    (Mode.PR, 1 << 40),
    (Mode.PR, -1),
]
CONVERSION_REFUSES = [
    (Mode.EX, F.CONVDEADLK | F.NOQUEUE),
    (Mode.NL, F.EXPEDITE),
    (Mode.EX, F.EXPEDITE),
    (Mode.CR, F.QUECVT),  # down
    (Mode.PR, F.QUECVT),  # to itself
    (Mode.EX, F.CANCEL),
    (Mode.EX, 0x80000),
    (Mode.EX, 1 << 40),
]
UNLOCK_REFUSES = [
    F.NOQUEUE,
    F.CONVERT,
    F.PERSISTENT,
    F.CANCEL | F.FORCEUNLOCK,
    0x80000,
    1 << 40,
    -1,
]


@pytest.mark.parametrize(("mode", "flags"), NEW_LOCK_REFUSES)
def test_flags_that_a_new_lock_refuses(world: Any, mode: Mode, flags: int) -> None:
    stack = world.connect().stack
    with pytest.raises(BadArgument) as excinfo:
        stack.lock("x", mode, flags)
    refused(excinfo)
    assert world.usage() == (0, 0) and stack.dispatch() == []


@pytest.mark.parametrize(("mode", "flags"), CONVERSION_REFUSES)
def test_flags_that_a_conversion_refuses(world: Any, mode: Mode, flags: int) -> None:
    stack = world.connect().stack
    lkid = stack.lock("x", Mode.PR)
    stack.dispatch()
    with pytest.raises(BadArgument) as excinfo:
        stack.convert(lkid, mode, flags)
    refused(excinfo)
    assert stack.lock_status(lkid).granted == Mode.PR and stack.dispatch() == []


@pytest.mark.parametrize("flags", UNLOCK_REFUSES)
def test_flags_that_an_unlock_refuses(world: Any, flags: int) -> None:
    stack = world.connect().stack
    lkid = stack.lock("x", Mode.PR)
    stack.dispatch()
    with pytest.raises(BadArgument) as excinfo:
        stack.unlock(lkid, flags)
    refused(excinfo)
    assert stack.lock_status(lkid).granted == Mode.PR and stack.dispatch() == []


# Lock ids.


@pytest.mark.parametrize("lkid", [1, 2, 77, 1 << 31, 1 << 40, (1 << 64) - 1, 1 << 70, -1])
def test_lock_ids_that_nobody_has(world: Any, lkid: int) -> None:
    stack = world.connect().stack
    calls = [
        lambda: stack.convert(lkid, Mode.EX),
        lambda: stack.lock("x", Mode.EX, F.CONVERT, lkid=lkid),
        lambda: stack.unlock(lkid),
        lambda: stack.unlock(lkid, F.CANCEL),
        lambda: stack.deadlock_cancel(lkid),
        lambda: stack.lock_status(lkid),
        lambda: stack.lvb(lkid),
        lambda: stack.lvb_valid(lkid),
    ]
    for call in calls:
        with pytest.raises(NoSuchLock) as excinfo:
            call()
        refused(excinfo, errno.ENOENT)
        assert isinstance(excinfo.value, LookupError)


def test_lock_id_0_is_no_lock(world: Any) -> None:
    stack = world.connect().stack
    for call in (stack.unlock, stack.deadlock_cancel):
        with pytest.raises(BadArgument):
            call(0)


def test_a_lock_id_dies_with_its_lock(world: Any) -> None:
    stack = world.connect().stack
    lkid = stack.lock("x", Mode.EX)
    stack.dispatch()
    stack.unlock(lkid)
    assert [e.status for e in stack.dispatch()] == [EUNLOCK]
    again = stack.lock("x", Mode.EX)  # most likely in the same slot
    assert again != lkid
    with pytest.raises(NoSuchLock):
        stack.unlock(lkid)
    with pytest.raises(NoSuchLock):
        stack.lock_status(lkid)


def test_the_lock_of_another_connection_is_no_lock_of_ours(world: Any) -> None:
    mine, theirs = world.connect().stack, world.connect().stack
    lkid = theirs.lock("x", Mode.EX)
    with pytest.raises(NoSuchLock):
        mine.unlock(lkid)
    with pytest.raises(NoSuchLock):
        mine.convert(lkid, Mode.PR)
    assert theirs.lock_status(lkid).granted == Mode.EX


def test_a_request_on_a_lock_that_waits_is_busy(world: Any) -> None:
    one, two = world.connect().stack, world.connect().stack
    one.lock("x", Mode.EX)
    waiting = two.lock("x", Mode.EX)
    with pytest.raises(Busy) as excinfo:
        two.convert(waiting, Mode.PR)
    refused(excinfo, errno.EBUSY)
    two.unlock(waiting, F.CANCEL)
    assert [e.status for e in two.dispatch()] == [ECANCEL]


def test_an_orphan_in_another_mode_would_block(world: Any) -> None:
    dying, heir = world.connect().stack, world.connect().stack
    with pytest.raises(NoSuchLock):
        heir.lock("x", Mode.PR, F.ORPHAN)
    keeper = heir.lock("x", Mode.NL)
    dying.lock("x", Mode.PR, F.PERSISTENT)
    dying.disconnect()
    with pytest.raises(WouldBlock) as excinfo:
        heir.lock("x", Mode.EX, F.ORPHAN)
    refused(excinfo, errno.EAGAIN)
    assert isinstance(excinfo.value, BlockingIOError)
    heir.unlock(keeper)
    heir.purge(0)


def test_the_raw_verbs_leave_a_handles_lock_alone(world: Any) -> None:
    # The handle lives on that lock; a raw unlock would take it away from under it.
    ls = world.connect()
    lk, other = ls.lock("x"), ls.lock("x")
    lk.acquire(mode=Mode.PR)
    calls = [
        lambda: ls.stack.unlock(lk.lkid),
        lambda: ls.stack.unlock(lk.lkid, F.FORCEUNLOCK),
        lambda: ls.stack.convert(lk.lkid, Mode.NL),
        lambda: ls.stack.lock("x", Mode.NL, F.CONVERT, lkid=lk.lkid),
    ]
    for call in calls:
        with pytest.raises(DlmError):
            call()
    assert lk.granted == Mode.PR
    assert ls.stack.lock_status(lk.lkid).granted == Mode.PR
    waiting = world.thread(other.acquire)
    world.queued(ls, "x")
    with pytest.raises(DlmError):
        ls.stack.unlock(other.lkid, F.CANCEL)
    with pytest.raises(DlmError):
        ls.stack.deadlock_cancel(other.lkid)
    lk.release()
    assert waiting.result()


# Lock value blocks.


@pytest.mark.parametrize("value", ["text", 5, None, [1, 2], 1.0])
def test_a_lock_value_block_is_bytes(world: Any, value: Any) -> None:
    ls = world.connect()
    with ls.lock("x") as lk:
        lk.lvb = b"good"
        with pytest.raises(TypeError):
            lk.lvb = value
        assert lk.lvb == b"good".ljust(64, b"\0")
    if value is not None:
        lkid = ls.stack.lock("y", Mode.EX, F.VALBLK)
        with pytest.raises(TypeError):
            ls.stack.convert(lkid, Mode.PR, F.VALBLK, lvb=value)
        with pytest.raises(TypeError):
            ls.stack.unlock(lkid, F.VALBLK, lvb=value)


@pytest.mark.parametrize("lvb_len", [8, 32, 64, 4096])
def test_a_lock_value_block_is_padded_and_not_cut(world: Any, lvb_len: int) -> None:
    ls = world.connect(lvb_len=lvb_len)
    full = bytes(i % 251 for i in range(lvb_len))
    with ls.lock("x") as lk:
        lk.lvb = full
        for short in (b"", b"s", full[:-1], bytearray(b"b"), memoryview(b"m")):
            lk.lvb = full
            lk.lvb = short
            assert lk.lvb == bytes(short).ljust(lvb_len, b"\0")
        lk.lvb = full
        with pytest.raises(BadArgument) as excinfo:
            lk.lvb = full + b"x"
        refused(excinfo)
        assert lk.lvb == full
    with pytest.raises(BadArgument):
        ls.stack.convert(ls.stack.lock("y", Mode.EX), Mode.PR, F.VALBLK, lvb=full + b"x")


def test_a_lock_value_block_of_words_is_taken_as_bytes(world: Any) -> None:
    with world.connect().lock("x") as lk:
        lk.lvb = memoryview(b"12345678").cast("I")
        assert lk.lvb[:9] == b"12345678\0"


# Time-outs: those of threading.Lock, and its errors.

TIMES = [
    (True, -2),
    (True, -0.5),
    (True, math.nan),
    (True, math.inf),
    (True, 1e100),
    (True, threading.TIMEOUT_MAX * 2),
    (False, 0),
    (False, 1),
    (False, -2),
    (True, "1"),
    (True, None),
]


@pytest.mark.parametrize(("blocking", "timeout"), TIMES)
def test_timeouts_that_threading_refuses_too(world: Any, blocking: bool, timeout: Any) -> None:
    lk = world.connect().lock("x")
    with pytest.raises((ValueError, OverflowError, TypeError)) as theirs:
        threading.Lock().acquire(blocking, timeout)
    kind = theirs.type
    for call in (lk.acquire, lambda *a: lk.held(Mode.EX, *a).__enter__()):
        with pytest.raises(kind) as ours:
            call(blocking, timeout)
        if kind is ValueError:
            assert isinstance(ours.value, BadArgument)
    assert not lk.locked()
    with lk, pytest.raises(kind):
        lk.convert(Mode.PR, blocking, timeout)


def test_the_longest_timeout_is_no_short_one(world: Any) -> None:
    ls = world.connect()
    lk, other = ls.lock("x"), ls.lock("x")
    assert lk.acquire(timeout=threading.TIMEOUT_MAX)
    waiting = world.thread(other.acquire, timeout=threading.TIMEOUT_MAX)
    world.queued(ls, "x")
    lk.release()
    assert waiting.result()


def test_arguments_that_are_not_there(world: Any) -> None:
    lk = world.connect().lock("x")
    for call in (
        lambda: lk.acquire(True, -1, Mode.PR),  # the mode only by its name
        lambda: lk.acquire(wait=True),
        lambda: lk.convert(),
        lambda: lk.release(1),
    ):
        with pytest.raises(TypeError):
            call()


# Connections.


@pytest.mark.parametrize(
    "options",
    [
        {"capacity": 0},
        {"capacity": 15},
        {"capacity": (1 << 30) + 1},
        {"capacity": 1 << 40},
        {"capacity": -1},
        {"lvb_len": 0},
        {"lvb_len": 7},
        {"lvb_len": 63},
        {"lvb_len": 4104},
        {"lvb_len": -8},
        {"lvb_len": 1 << 40},
        {"deadlock_wait": -1},
        {"deadlock_wait": math.nan},
    ],
)
def test_options_that_are_refused(world: Any, options: dict[str, Any]) -> None:
    with pytest.raises(BadArgument) as excinfo:
        pydlm.connect(world.name, stack="local", **options)
    refused(excinfo)
    world.connect(capacity=16)  # nothing of it is left


@pytest.mark.parametrize(
    "options", [{"capacity": "9"}, {"lvb_len": 8.5}, {"deadlock_wait": "1"}, {"size": 1}]
)
def test_options_of_another_type(world: Any, options: dict[str, Any]) -> None:
    with pytest.raises(TypeError):
        pydlm.connect(world.name, stack="local", **options)


@pytest.mark.parametrize("name", ["", "x" * 65, "a/b", "a\0b", "é" * 33, "\ud800"])
def test_lockspace_names_that_are_refused(name: str) -> None:
    with pytest.raises(BadArgument) as excinfo:
        pydlm.connect(name, stack="local")
    refused(excinfo)


def test_a_lockspace_has_one_size(world: Any) -> None:
    first = world.connect(capacity=100, lvb_len=32)
    assert first.lvb_len == 32
    world.connect()
    world.connect(capacity=100, lvb_len=32)
    for options in ({"capacity": 101}, {"lvb_len": 64}):
        with pytest.raises(BadArgument):
            pydlm.connect(world.name, stack="local", **options)


def test_a_lockspace_ends_with_its_last_connection(world: Any) -> None:
    # Not with the last object that somebody still has in hand.
    first, second = world.connect(capacity=100), world.connect()
    lk = first.lock("x")
    first.close()
    with pytest.raises(BadArgument):
        pydlm.connect(world.name, stack="local", capacity=200)
    second.close()
    again = world.connect(capacity=200)
    assert again.lock("x").acquire(blocking=False)
    with pytest.raises(pydlm.Closed):
        lk.acquire()


def test_how_long_to_wait_for_a_deadlock_can_be_any_time(world: Any) -> None:
    for wait in (0, 0.0, 5, 1e10, math.inf, None):
        ls = world.connect(f"wait-{wait}", deadlock_wait=wait)
        holder, other = ls.lock("x"), ls.lock("x")
        with holder:
            assert not world.thread(other.acquire, timeout=0.02).result(5)
            assert not world.thread(holder.acquire, timeout=0.02).result(5)


@pytest.mark.parametrize("wait", [-1, math.nan, "1"])
def test_how_long_to_wait_for_a_deadlock_is_checked_when_it_is_set(world: Any, wait: Any) -> None:
    ls = world.connect()
    with pytest.raises((BadArgument, TypeError)):
        ls.stack.deadlock_wait = wait
    assert ls.stack.deadlock_wait == 1.0


@pytest.mark.parametrize("args", [(Mode.PR,), (True, Mode.PR), (Mode.NL, Mode.EX)])
def test_a_mode_in_the_place_of_another_argument(world: Any, args: tuple[Any, ...]) -> None:
    lk = world.connect().lock("x")
    calls = [lambda: lk.acquire(*args), lambda: lk.held(Mode.PR, *args)]
    for call in calls:
        with pytest.raises(TypeError, match="mode is a keyword"):
            call()
    assert not lk.locked()
    lk.acquire()
    with pytest.raises(TypeError, match="mode is a keyword"):
        lk.convert(Mode.PR, *args)
    assert lk.granted is Mode.EX


def test_a_context_manager_checks_its_arguments_when_it_is_made(world: Any) -> None:
    lk = world.connect().lock("x")
    for blocking, timeout in ((True, float("nan")), (False, 2), (True, -2)):
        with pytest.raises(BadArgument):
            lk.held(Mode.PR, blocking, timeout)


class Liar(int):
    """Says that it is less than anything."""

    def __lt__(self, other: object) -> bool:
        return True

    __le__ = __gt__ = __ge__ = __lt__


def test_a_mode_is_what_it_is_and_not_what_it_says(world: Any) -> None:
    lk = world.connect().lock("x")
    with pytest.raises(BadArgument):
        lk.acquire(mode=Liar(100))
    assert lk.acquire(mode=Liar(3)) and lk.granted is Mode.PR


def test_a_name_of_a_subclass(world: Any) -> None:
    class Name(bytes):
        pass

    assert world.connect().lock(Name(b"x")).name == b"x"


@pytest.mark.parametrize("make", ["Client", "Arena", "Lock", "Held"])
def test_objects_are_made_whole_or_not_at_all(make: str) -> None:
    kind = getattr(_core, make)
    with pytest.raises(TypeError):
        kind.__new__(kind)


def test_to_be_made_again_changes_nothing(world: Any) -> None:
    ls = world.connect()
    lk = ls.lock("x")
    lk.acquire()
    ls.stack.__init__(ls.stack.arena)
    ls.stack.arena.__init__("y", capacity=16, lvb_len=8)
    assert lk.locked() and world.usage(ls) == (1, 1)


@pytest.mark.parametrize("how", ["release", "close", "leave"])
@pytest.mark.parametrize("mode", [None, Mode.PR])
def test_what_went_wrong_in_the_body_is_what_is_raised(
    world: Any, how: str, mode: Mode | None
) -> None:
    # And not that the lock was closed, or released, meanwhile.
    ls = world.connect()
    lk = ls.lock("x")
    end = {"release": lk.release, "close": lk.close, "leave": ls.close}[how]
    with pytest.raises(ZeroDivisionError), lk if mode is None else lk.held(mode):
        end()
        _ = 1 / 0
