"""The threads of a connection: how they begin, what may befall them, who must not wait for them."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.core.conftest import World

from pydlm import (
    BadArgument,
    Busy,
    CachedLock,
    DlmError,
    LockTimeout,
    LVBInvalid,
    Mode,
    StackUnavailable,
)

NL, PR, EX = Mode.NL, Mode.PR, Mode.EX


class Struck(Exception):
    pass


class Raising(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise Struck


@pytest.fixture
def raising() -> Iterator[None]:
    handler, log = Raising(), logging.getLogger("pydlm")
    log.addHandler(handler)
    yield
    log.removeHandler(handler)


@pytest.mark.usefixtures("raising")
def test_logging_may_fail(world: World) -> None:
    def on_drop(lock: CachedLock, mode: Mode) -> None:
        raise Struck

    ls = world.connect()
    lock, other = ls.cached("r", on_drop=on_drop), world.connect().cached("r")
    for _ in range(2):
        with lock.exclusive():
            lock.lvb = b"kept"
        with other.exclusive(timeout=20):
            assert other.lvb.rstrip(b"\0") == b"kept"
    ls.close()


def test_no_thread_for_on_drop(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens the lock is told; the other locks are well."""
    ls = world.connect()
    plain = ls.cached("plain")
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", _no_thread)
        with pytest.raises(RuntimeError, match="no thread"):
            ls.cached("r", on_drop=lambda lock, mode: None)
    with plain.exclusive(timeout=20):
        pass
    seen: list[Mode] = []
    with ls.cached("r", on_drop=lambda lock, mode: seen.append(mode)).exclusive():
        pass
    ls.close()
    assert seen == [NL]


def _no_thread(self: threading.Thread) -> None:
    raise RuntimeError("no thread")


@pytest.mark.usefixtures("raising")
def test_what_a_keeper_that_fails_owes_on_drop_is_invalid(world: World) -> None:
    ls, other = world.connect(), world.connect()
    lock, flushed = ls.cached("r", on_drop=lambda lock, mode: None), ls.cached("plain")
    seen, plain = other.cached("r"), other.cached("plain")
    for each in (lock, flushed):
        with each.exclusive():
            each.lvb = b"value"
    keeper = ls._cached._keeper
    assert keeper is not None
    keeper.post((None, lambda: 1 / 0, ()))
    world.until(lambda: not keeper._worker.thread.is_alive())  # type: ignore[union-attr]
    ls.close()
    with seen.shared(timeout=20), pytest.raises(LVBInvalid):
        _ = seen.lvb
    with plain.shared(timeout=20):
        assert plain.lvb.rstrip(b"\0") == b"value"


def test_a_finalizer_in_the_keepers_thread(world: World) -> None:
    """Python runs finalizers in any thread. There they get what is at hand, or Busy."""
    ls = world.connect()
    kept, other = ls.cached("kept"), ls.cached("other")
    with kept.exclusive():
        pass
    outcome: list[object] = []

    def finalizer() -> list[Any]:
        with kept.exclusive():
            outcome.append("had")
        uses: tuple[Callable[[], object], ...] = (
            other.exclusive().__enter__,
            other.shared(timeout=20).__enter__,
            lambda: ls.cached("new"),
            ls.close,
        )
        for use in uses:
            try:
                use()
            except Busy:
                outcome.append(Busy)
        other.drop()
        return []

    keeper = ls._cached._keeper
    assert keeper is not None
    keeper._see_to(finalizer, [])
    assert outcome == ["had", Busy, Busy, Busy, Busy]
    with ls.cached("new").exclusive(timeout=20), other.exclusive(timeout=20):
        pass


@pytest.mark.parametrize("exclusive", [False, True])
def test_no_time_at_all(world: World, exclusive: bool) -> None:
    """What is free is had, as with a raw lock."""
    a, b = world.connect().cached("r"), world.connect().cached("r")
    for _ in range(50):
        with a.exclusive(timeout=0) if exclusive else a.shared(timeout=0):
            pass
        a.drop()
    with b.exclusive(), pytest.raises(LockTimeout):
        (a.exclusive(timeout=0) if exclusive else a.shared(timeout=0)).__enter__()


def test_opened_in_a_signal_handler(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of another opening, and of the very same lock."""
    ls = world.connect()
    found: list[CachedLock] = []

    def handler(*_: object) -> None:
        found.extend((ls.cached("other"), ls.cached("r")))

    original = CachedLock._await
    armed = [True]

    def strike(self: CachedLock, *args: Any, **options: Any) -> None:
        if armed and threading.current_thread() is threading.main_thread():
            armed.pop()
            signal.raise_signal(signal.SIGALRM)
        original(self, *args, **options)

    monkeypatch.setattr(CachedLock, "_await", strike)
    before = signal.signal(signal.SIGALRM, handler)
    try:
        lock = ls.cached("r")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert found == [ls.cached("other"), lock]
    with lock.exclusive(timeout=20):
        pass


def test_opened_in_many_threads(world: World) -> None:
    for _ in range(20):
        ls, at_once = world.connect(), threading.Barrier(4)

        def opens(ls: Any = ls, at_once: threading.Barrier = at_once) -> CachedLock:
            at_once.wait(20)
            lock: CachedLock = ls.cached("r")
            with lock.exclusive(timeout=20):
                return lock

        workers = [world.worker(opens) for _ in range(4)]
        assert len({id(worker.result()) for worker in workers}) == 1
        ls.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_struck_in_the_first_opening(world: World) -> None:
    """No thread and no descriptor is left."""

    def strike(*_: object) -> None:
        raise Struck

    def opened() -> int:
        return len(os.listdir("/proc/self/fd"))

    world.connect().close()
    threads, descriptors, struck = threading.active_count(), opened(), 0
    before = signal.signal(signal.SIGALRM, strike)
    try:
        for n in range(250):
            ls = world.connect()
            try:
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + n % 100 * 1e-5)
                for _ in range(10000):  # a strike in a finalizer is lost
                    ls.cached("r")
            except Struck:
                struck += 1
            with ls.cached("r").exclusive(timeout=20):
                pass
            ls.close()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert struck > 200
    assert threading.active_count() <= threads
    assert opened() <= descriptors


def test_the_first_cannot_connect(world: World) -> None:
    ls = world.connect()
    cached = ls._cached
    connect, error = cached._connect, StackUnavailable("not now")

    def fails() -> Any:
        raise error

    cached._connect = fails
    for _ in range(2):
        with pytest.raises(StackUnavailable, match="not now"):
            ls.cached("r")
    cached._connect = connect
    with ls.cached("r").exclusive(timeout=20):
        pass
    ls.close()


def test_exclusion_left_out(world: World) -> None:
    ls = world.connect()
    lock = ls.cached("r", exclusion=False)
    assert ls.cached("r") is lock and not lock.exclusion and ls.cached("s").exclusion
    with pytest.raises(BadArgument):
        ls.cached("r", exclusion=True)


@pytest.mark.parametrize(
    ("codec", "error"),
    [
        (5, TypeError),
        (b"<Q", TypeError),
        ((1, 2), TypeError),
        ((bytes,), TypeError),
        ("zz", BadArgument),
        ("<", BadArgument),
        ("100Q", BadArgument),
    ],
)
def test_bad_codecs(world: World, codec: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        world.connect().cached("r", codec=codec)


def test_a_lost_lock_is_opened_anew(world: World) -> None:
    ls = world.connect()
    lock = ls.cached("r")
    keeper = ls._cached._keeper
    assert keeper is not None
    lost = DlmError("gone")
    keeper._see_to(lambda: keeper._do(lock._kept, lock._kept.machine.lost(lost)) or [], [])  # type: ignore[func-returns-value]
    assert ls.cached("r") is not lock
