"""Taking, converting and giving up: what whoever implements the blocking lock has to do."""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from typing import Any

import pytest
from tests.blocking.stacks import MAKERS
from tests.blocking.threads import SOON, Thread, in_line, nothing_left, queued

import pydlm
from pydlm import Lock, Lockspace, Mode
from pydlm.blocking import StackLock
from pydlm.contract import NativeStack

pytestmark = pytest.mark.filterwarnings("ignore:.* was held when its last ref:ResourceWarning")

NL, CR, CW, PR, PW, EX = Mode


# Taking and giving up.


def test_is_the_implementation_that_is_meant(a: Lockspace, make: Any) -> None:
    assert isinstance(a.lock("r"), StackLock) == (make is not MAKERS["native"])
    assert isinstance(a.stack, NativeStack) == (make is MAKERS["native"])


def test_acquire_and_release(a: Lockspace) -> None:
    lk = a.lock("r")
    assert (lk.name, lk.granted, lk.requested, lk.locked()) == (b"r", NL, None, False)
    assert lk.acquire()
    assert (lk.granted, lk.requested, lk.locked()) == (EX, None, True)
    lk.release()
    assert (lk.granted, lk.locked()) == (NL, False)
    with lk as same:
        assert same is lk and lk.locked()
    with lk.held(PR) as same:
        assert same is lk and lk.granted is PR
    assert not lk.locked()
    nothing_left(a)


def test_text(a: Lockspace) -> None:
    lk = a.lock("r")
    assert repr(lk).startswith("<unlocked pydlm.Lock object b'r' NL at 0x")
    with lk:
        assert repr(lk).startswith("<locked pydlm.Lock object b'r' EX at 0x")
    lk.close()
    assert repr(lk).startswith("<closed pydlm.Lock object at 0x")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"blocking": False, "timeout": 1}, ValueError, "can't specify a timeout for a non-block"),
        ({"timeout": -2}, ValueError, "timeout value must be a non-negative number"),
        ({"timeout": float("nan")}, ValueError, "timeout value must be a non-negative number"),
        ({"timeout": 1e100}, OverflowError, "timeout value is too large"),
        ({"timeout": threading.TIMEOUT_MAX + 1}, OverflowError, "timeout value is too large"),
        ({"timeout": "1"}, TypeError, "str"),
        ({"mode": NL}, pydlm.BadArgument, "holds NL already"),
        ({"mode": 6}, pydlm.BadArgument, "none of CR, CW, PR, PW, EX"),
        ({"mode": -1}, pydlm.BadArgument, "none of CR, CW, PR, PW, EX"),
        ({"mode": "EX"}, TypeError, "mode is a pydlm.Mode, not str"),
        ({"mode": True}, TypeError, "mode is a pydlm.Mode, not bool"),
    ],
)
def test_bad_arguments(
    a: Lockspace, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    lk = a.lock("r")
    with pytest.raises(error, match=message):
        lk.acquire(**arguments)
    assert not lk.locked()
    with lk, pytest.raises(error, match=message):
        lk.convert(**{"mode": PR, **arguments})
    with pytest.raises(error, match=message), lk.held(**arguments):
        pass
    nothing_left(a)


@pytest.mark.parametrize("name", ["", b"", "x" * 65, "\N{EURO SIGN}" * 22, "\ud800"])
def test_bad_names(a: Lockspace, name: str | bytes) -> None:
    with pytest.raises(pydlm.BadArgument, match="resource name"):
        a.lock(name)


def test_names(a: Lockspace) -> None:
    assert a.lock("\N{EURO SIGN}").name == b"\xe2\x82\xac"
    assert a.lock(bytearray(b"\0")).name == b"\0"  # type: ignore[arg-type]
    assert a.lock("x" * 64).name == b"x" * 64
    with pytest.raises(TypeError, match="a resource name is str or bytes, not int"):
        a.lock(1)  # type: ignore[arg-type]


def test_release_of_what_is_not_held(a: Lockspace) -> None:
    lk = a.lock("r")
    with pytest.raises(pydlm.NotHeld, match="release unlocked lock"):
        lk.release()
    with lk:
        pass
    with pytest.raises(RuntimeError):
        lk.release()


@pytest.mark.parametrize("mine", [CR, CW, PR, PW, EX])
@pytest.mark.parametrize("other", [CR, CW, PR, PW, EX])
def test_two_handles_exclude_each_other(
    a: Lockspace, b: Lockspace, mine: Mode, other: Mode
) -> None:
    for ls in (a, b):
        one, two = a.lock("r"), ls.lock("r")
        with one.held(mine):
            assert two.acquire(False, mode=other) == mine.compatible(other) == two.locked()
            if two.locked():
                two.release()


def test_not_at_once_and_not_in_time(a: Lockspace) -> None:
    one, two = a.lock("r"), a.lock("r")
    one.acquire(mode=PR)
    assert not two.acquire(False) and not two.acquire(timeout=0)
    for lk in (one, two):  # in line for the handle, and in the lock manager's queue
        began = time.monotonic()
        assert not lk.acquire(timeout=0.1)
        assert 0.1 <= time.monotonic() - began < 1.0
    with pytest.raises(pydlm.WouldBlock, match=r"b'r' c.* be had in EX at once"):
        two.held(blocking=False).__enter__()
    with pytest.raises(pydlm.LockTimeout, match=r"b'r' could not be had in PW within 0\.01 s"):
        two.held(PW, timeout=0.01).__enter__()
    assert two.requested is None and two.acquire(timeout=threading.TIMEOUT_MAX, mode=PR)
    two.release()
    one.release()
    nothing_left(a)


def test_wait_ends_with_the_release(a: Lockspace, b: Lockspace) -> None:
    one, two = a.lock("r"), b.lock("r")
    one.acquire()
    waiter = Thread(two.acquire, timeout=SOON)
    queued(a, "r")
    assert (two.requested, two.granted, two.locked()) == (EX, NL, False)
    one.release()
    assert waiter.result() is True and two.locked() and two.requested is None
    assert two.token > one.token


def test_any_thread_may_release(a: Lockspace) -> None:
    lk = a.lock("r")
    Thread(lk.acquire).result()
    waiter = Thread(lk.acquire)
    Thread(lk.release).result()
    assert waiter.result() and lk.locked()


@pytest.mark.usefixtures("sleeps_first")
def test_first_come_first_served_through_one_handle(a: Lockspace) -> None:
    lk, came = a.lock("r"), []

    def take(i: int) -> None:
        with lk:
            came.append(i)

    lk.acquire()
    threads = [in_line(lk, take, i) for i in range(6)]
    assert not lk.acquire(timeout=0)  # stands in line behind them, and leaves at once
    lk.release()
    for thread in threads:
        thread.result()
    assert came == list(range(6))


def test_first_come_first_served_among_handles(a: Lockspace, b: Lockspace) -> None:
    came: list[int] = []

    def take(i: int, lk: Lock, mode: Mode) -> None:
        with lk.held(mode):
            came.append(i)

    first = a.lock("r")
    first.acquire(mode=PR)
    locks = [ls.lock("r") for ls in (a, b, a, b)]
    modes = [EX, PR, EX, PR]  # the PR could be granted at once, but for the EX before them
    threads = []
    for i, (lk, mode) in enumerate(zip(locks, modes, strict=True)):
        threads.append(Thread(take, i, lk, mode))
        queued(a, "r", i + 1)
    assert not came
    first.release()
    for thread in threads:
        thread.result()
    assert came == list(range(4))


# Conversions.


def test_convert(a: Lockspace, b: Lockspace) -> None:
    one, two = a.lock("r"), b.lock("r")
    with pytest.raises(pydlm.NotHeld, match="convert of a lock that is not held"):
        one.convert(PR)
    one.acquire(mode=PR)
    two.acquire(mode=PR)
    assert one.convert(EX, blocking=False) is False and one.granted is PR
    assert one.convert(EX, timeout=0.01) is False and one.granted is PR
    converter = Thread(one.convert, EX)
    queued(a, "r")
    assert one.locked() and one.granted is PR and one.requested is EX
    two.release()
    assert converter.result() is True and one.granted is EX
    assert one.convert(EX) and one.convert(PR)
    assert two.acquire(False, mode=PR)


def test_deadlock_of_two_conversions(a: Lockspace, b: Lockspace) -> None:
    one, two = a.lock("r"), b.lock("r")
    one.acquire(mode=PR)
    two.acquire(mode=PR)
    first = Thread(one.convert, EX)
    queued(a, "r")
    with pytest.raises(pydlm.DeadlockError, match="waits for EX on b'r'") as caught:
        two.convert(EX)
    assert caught.value.errno == errno.EDEADLK
    me, other = caught.value.cycle
    assert me[:3] == other[:3] == (b"r", EX, PR)
    assert me.owner == f"process {os.getpid()} thread {threading.get_native_id()}"
    assert two.granted is PR and two.locked()
    two.release()
    assert first.result() is True


# All at once.


@pytest.mark.parametrize("handles", ["one handle", "own handles"])
def test_many_threads(a: Lockspace, b: Lockspace, handles: str) -> None:
    shared = {ls: ls.lock("r") for ls in (a, b)}
    readers = writers = count = 0

    def work(i: int) -> None:
        nonlocal readers, writers, count
        ls = (a, b)[i % 2]
        lk = shared[ls] if handles == "one handle" else ls.lock("r")
        for n in range(150):
            if (n + i) % 3:
                if not lk.acquire(timeout=0.0005 if n % 7 == 0 else -1):
                    continue
                writers += 1
                assert (readers, writers) == (0, 1)
                value = int.from_bytes(lk.lvb, "big")
                assert value == count
                lk.lvb = (value + 1).to_bytes(64, "big")
                count += 1
                writers -= 1
            else:
                with contextlib.suppress(pydlm.Cancelled):
                    lk.acquire(mode=PR)
                    readers += 1
                    assert writers == 0
                    readers -= 1
                    if n % 5 == 0:
                        with contextlib.suppress(pydlm.DeadlockError, pydlm.Cancelled):
                            lk.convert(EX, timeout=0.001)
            lk.release() if lk.locked() else None

    threads = [Thread(work, i) for i in range(8)]
    for thread in threads:
        thread.result()
    nothing_left(a)
    with a.lock("r") as lk:
        assert int.from_bytes(lk.lvb, "big") == count
