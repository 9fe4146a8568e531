"""The blocking lock. One body of tests, for whoever implements it: the native lock, the one made of
a stack's verbs where they take effect at once, and where they travel to somebody else first.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import itertools
import os
import select
import signal
import sys
import threading
import time
import warnings
from _thread import _count as thread_count
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import pydlm
from pydlm import Blocked, Completion, Lock, Lockspace, Mode, NodeDown
from pydlm.blocking import StackLock
from pydlm.contract import NativeStack
from pydlm.stacks.local import LocalStack
from pydlm.types import Event, LockStatus, Queue

# Most tests end with a lock that is held.
pytestmark = pytest.mark.filterwarnings("ignore:.* was held when its last ref:ResourceWarning")

NL, CR, CW, PR, PW, EX = Mode
SOON = 10.0  # seconds until a test gives up on what has to happen


# Stacks without native locks.


class Verbs:
    """A LocalStack without its native locks."""

    name = "verbs"

    def __init__(self, inner: LocalStack) -> None:
        self.inner = inner
        self.capabilities = inner.capabilities - {"native"}

    def __getattr__(self, verb: str) -> Any:
        return getattr(self.inner, verb)


class Remote(Verbs):
    """The same at the far end of a line: requests and events travel, in a thread."""

    name = "remote"

    def __init__(self, inner: LocalStack) -> None:
        super().__init__(inner)
        self.ids = itertools.count(1)
        self.far: dict[int, int] = {}  # lkid there
        self.near: dict[int, int] = {}
        self.state: dict[int, LockStatus] = {}
        self.requests: deque[Callable[[], None]] = deque()
        self.events: deque[Event] = deque()
        self.fd, self.posted = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in "12")
        self.over = False
        self.line = threading.Thread(target=self.travel)
        self.line.start()

    def travel(self) -> None:
        poll = select.poll()
        poll.register(self.posted, select.POLLIN)
        poll.register(self.inner.fileno(), select.POLLIN)
        while not self.over:
            poll.poll()
            clear(self.posted)
            while self.requests:
                self.requests.popleft()()
            with contextlib.suppress(pydlm.Closed):  # abandoned
                for event in self.inner.dispatch():
                    if not isinstance(event, NodeDown):
                        event = event._replace(lkid=self.near[event.lkid])
                    self.events.append(event)
                    os.eventfd_write(self.fd, 1)

    def post(self, request: Callable[[], None]) -> None:
        if not self.inner.connected:
            raise pydlm.Closed("the connection to the lockspace is closed")
        self.requests.append(request)
        os.eventfd_write(self.posted, 1)

    def disconnect(self) -> None:
        if not self.over:
            self.requests.append(lambda: setattr(self, "over", True))
            os.eventfd_write(self.posted, 1)
            self.line.join()
            self.inner.disconnect()
            os.close(self.fd)
            os.close(self.posted)

    def lock(self, name: bytes, mode: Mode, flags: int = 0) -> int:
        lkid = next(self.ids)
        self.state[lkid] = LockStatus(lkid, name, 0, Queue.NONE, None, mode, 0, 0, 0)

        def there() -> None:
            self.far[lkid] = far = self.inner.lock(name, mode, flags)
            self.near[far] = lkid

        self.post(there)
        return lkid

    def convert(self, lkid: int, mode: Mode, flags: int = 0, *, lvb: bytes | None = None) -> None:
        if self.state[lkid].requested is not None:
            raise pydlm.Busy("a request on this lock is under way")
        self.state[lkid] = self.state[lkid]._replace(requested=mode)
        self.post(lambda: self.inner.convert(self.far[lkid], mode, flags, lvb=lvb))

    def unlock(self, lkid: int, flags: int = 0, *, lvb: bytes | None = None) -> None:
        self.post(lambda: self.inner.unlock(self.far[lkid], flags, lvb=lvb))

    def lock_status(self, lkid: int) -> LockStatus:
        return self.state[lkid]

    def fileno(self) -> int:
        return self.fd

    def dispatch(self, limit: int = 0) -> Sequence[Event]:
        if not self.inner.connected:
            raise pydlm.Closed("the connection to the lockspace is closed")
        clear(self.fd)
        events = []
        while self.events:
            events.append(event := self.events.popleft())
            if isinstance(event, Completion):
                state = self.state[event.lkid]
                self.state[event.lkid] = state._replace(granted=event.granted, requested=None)
        return events


def clear(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(fd)


MAKERS: dict[str, Callable[[LocalStack], Any]] = {
    "native": lambda inner: inner,
    "verbs": Verbs,
    "remote": Remote,
}


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[[LocalStack], Any]:
    return MAKERS[request.param]


@pytest.fixture
def connect(make: Callable[[LocalStack], Any]) -> Iterator[Callable[[], Lockspace]]:
    """Join one lockspace, as often as called."""
    connections: list[Lockspace] = []
    threads = thread_count()

    def connect() -> Lockspace:
        stack = make(LocalStack.connect("tests", deadlock_wait=None))
        connections.append(Lockspace("tests", stack))
        return connections[-1]

    yield connect
    for ls in connections:
        ls.close()
    until(lambda: thread_count() <= threads)


@pytest.fixture
def a(connect: Callable[[], Lockspace]) -> Lockspace:
    return connect()


@pytest.fixture
def b(connect: Callable[[], Lockspace]) -> Lockspace:
    return connect()


# How interleavings are forced.


def until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < give_up, "what was waited for does not come"
        time.sleep(0.0005)


def queued(ls: Lockspace, name: str, n: int = 1) -> None:
    """Wait until `n` requests stand in the lock manager's queues for `name`."""
    until(lambda: sum(k.requested is not None for k in ls.dump(name)) == n)


class Thread(threading.Thread):
    """A thread whose result, or exception, is asked for."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(daemon=True)
        self.run_this = lambda: function(*args, **kwargs)
        self.outcome: Any = None
        self.error: BaseException | None = None
        self.begun = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            self.begun.set()
            self.outcome = self.run_this()
        except BaseException as error:
            self.error = error

    def result(self) -> Any:
        self.join(SOON)
        assert not self.is_alive(), "it waits for ever"
        if self.error is not None:
            raise self.error
        return self.outcome


@pytest.fixture
def sleeps_first() -> Iterator[None]:
    """From here on, a thread gives up the GIL when it sleeps, not before."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    yield
    sys.setswitchinterval(before)


def in_line(lk: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Thread:
    """Start a thread that comes to wait for the handle. Needs `sleeps_first`."""
    before = len(lk._line) if isinstance(lk, StackLock) else 0
    thread = Thread(function, *args, **kwargs)
    thread.begun.wait()
    if isinstance(lk, StackLock):  # the native lock shows no line, but it stands in it by now
        until(lambda: len(lk._line) > before)
    return thread


def readable(thing: Any, seconds: float = 0) -> bool:
    return bool(select.select([thing], [], [], seconds)[0])


def nothing_left(ls: Lockspace, name: str = "r") -> None:
    """Nobody holds or waits for `name`: neither does the lock manager know of anybody."""
    until(lambda: all(k.granted is NL and k.requested is None for k in ls.dump(name)))


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


# Cancelling, signals, closing.


@pytest.mark.usefixtures("sleeps_first")
def test_cancel(a: Lockspace, b: Lockspace) -> None:
    one, two = a.lock("r"), b.lock("r")
    one.acquire()
    assert one.cancel() is False and one.locked()
    waits = Thread(two.acquire)
    queued(a, "r")
    waits_in_line = in_line(two, two.acquire, timeout=2 * SOON)
    assert two.cancel() is True
    for thread in (waits, waits_in_line):
        with pytest.raises(pydlm.Cancelled):
            thread.result()
    assert one.locked() and two.cancel() is False
    one.release()
    nothing_left(a)
    assert two.acquire(timeout=SOON)


def test_cancel_of_a_conversion(a: Lockspace, b: Lockspace) -> None:
    one, two = a.lock("r"), b.lock("r")
    one.acquire(mode=PR)
    two.acquire(mode=PR)
    converter = Thread(two.convert, EX)
    queued(a, "r")
    with pytest.raises(pydlm.Busy):
        two.release()
    with pytest.raises(pydlm.Busy):
        two.convert(PW)
    assert two.cancel()
    with pytest.raises(pydlm.Cancelled):
        converter.result()
    assert two.granted is PR and two.locked()


class Interrupt(Exception):
    """What the signal handler raises."""


@pytest.fixture
def interrupt() -> Iterator[Callable[..., None]]:
    """Have the main thread interrupted once something is so, after `first` in its handler."""
    threads: list[Thread] = []
    does: list[Any] = []
    main, struck = threading.get_ident(), threading.Event()

    def handler(*_: object) -> None:
        if not struck.is_set():
            struck.set()
            first, raises = does
            first()
            if raises:
                raise Interrupt

    def strike(when: Callable[[], object]) -> None:
        until(when)
        # Once is not enough: a signal that comes just before the main thread goes to sleep is
        # not acted upon before it wakes up.
        while not struck.is_set():
            signal.pthread_kill(main, signal.SIGUSR1)
            struck.wait(0.05)

    def interrupt(
        when: Callable[[], object], first: Callable[[], object] = lambda: None, raises: bool = True
    ) -> None:
        does[:] = first, raises
        threads.append(Thread(strike, when))

    old = signal.signal(signal.SIGUSR1, handler)
    yield interrupt
    for thread in threads:
        thread.result()
    signal.signal(signal.SIGUSR1, old)


def test_interrupted_in_the_queue(
    a: Lockspace, b: Lockspace, interrupt: Callable[..., None]
) -> None:
    one, two = a.lock("r"), b.lock("r")
    one.acquire()
    interrupt(lambda: two.requested is not None and any(k.requested for k in a.dump("r")))
    with pytest.raises(Interrupt):
        two.acquire()
    assert (two.requested, two.locked()) == (None, False)
    assert not any(k.requested for k in a.dump("r"))
    one.release()
    nothing_left(a)
    assert two.acquire(timeout=SOON)


def test_interrupted_when_just_granted(
    a: Lockspace, b: Lockspace, interrupt: Callable[..., None]
) -> None:
    """The grant is faster than the signal handler's exception: it is given back."""
    one, two = a.lock("r"), b.lock("r")
    one.acquire()
    interrupt(lambda: any(k.requested for k in a.dump("r")), first=one.release)
    with pytest.raises(Interrupt):
        two.acquire()
    assert not two.locked()
    nothing_left(a)
    assert one.acquire(timeout=SOON)


@pytest.mark.usefixtures("sleeps_first")
def test_interrupted_in_line(a: Lockspace, interrupt: Callable[..., None]) -> None:
    lk, asleep = a.lock("r"), threading.Event()
    lk.acquire()
    interrupt(asleep.is_set)
    asleep.set()
    with pytest.raises(Interrupt):
        lk.acquire()
    assert lk.locked() and lk.cancel() is False
    lk.release()
    assert lk.acquire(timeout=0)


@pytest.mark.usefixtures("sleeps_first")
def test_interrupted_when_just_called(a: Lockspace, interrupt: Callable[..., None]) -> None:
    """It was its turn to use the handle: now it is the next one's."""
    lk, asleep, behind = a.lock("r"), threading.Event(), []
    lk.acquire()
    interrupt(
        lambda: asleep.is_set() and (behind.append(in_line(lk, lk.acquire)) or True),
        first=lk.release,
    )
    asleep.set()
    with pytest.raises(Interrupt):
        lk.acquire()
    assert behind[0].result() is True and lk.locked()


def test_interrupted_conversion_keeps_the_lock(
    a: Lockspace, b: Lockspace, interrupt: Callable[..., None]
) -> None:
    one, two = a.lock("r"), b.lock("r")
    one.acquire(mode=PR)
    two.acquire(mode=PR)
    interrupt(lambda: any(k.requested for k in a.dump("r")))
    with pytest.raises(Interrupt):
        two.convert(EX)
    assert two.granted is PR and two.locked() and two.requested is None
    one.release()
    assert two.convert(EX, timeout=SOON)


# The verbs of Remote are Python, and no more atomic than that is.
@pytest.mark.parametrize("make", ["native", "verbs"], indirect=True)
def test_storm_of_signals(a: Lockspace, b: Lockspace) -> None:
    """Wherever a signal handler's exception strikes, the next one finds the lock in order."""
    mine, theirs = [b.lock("r"), b.lock("s")], [ls.lock(name) for ls in (a, b) for name in "rs"]
    stop = threading.Event()

    def others(lk: Lock) -> int:
        n = 0
        while not stop.is_set():
            with lk:
                n += 1
        return n

    def strike(*_: object) -> None:
        raise Interrupt

    threads = [Thread(others, lk) for lk in theirs]
    old = signal.signal(signal.SIGALRM, strike)
    hits = 0
    ended = time.monotonic() + 2.0
    while time.monotonic() < ended:
        for lk in mine:
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.00001 + hits % 97 * 0.00001)
                while True:
                    lk.acquire()
                    lk.release()
            except Interrupt:
                hits += 1
            if lk.locked():
                lk.release()
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old)
    stop.set()
    assert hits > 100 and all(thread.result() for thread in threads)
    nothing_left(a, "r")
    nothing_left(a, "s")


def test_signal_handler_that_uses_locks(
    a: Lockspace, b: Lockspace, interrupt: Callable[..., None]
) -> None:
    """It does not raise: the wait that it interrupted goes on."""
    one, two, three = a.lock("r"), a.lock("r"), a.lock("s")

    def use_them() -> None:
        with three:
            assert not three.acquire(timeout=0.01)
        one.release()

    one.acquire()
    interrupt(lambda: any(k.requested for k in a.dump("r")), first=use_them, raises=False)
    assert two.acquire(timeout=SOON) and not one.locked() and not three.locked()


@pytest.mark.usefixtures("sleeps_first")
@pytest.mark.parametrize("what", ["lock", "lockspace"])
def test_close_while_others_wait(a: Lockspace, b: Lockspace, what: str) -> None:
    one, two = a.lock("r"), b.lock("r")
    one.acquire()
    waits = Thread(two.acquire, timeout=2 * SOON)
    queued(a, "r")
    waits_in_line = in_line(two, two.acquire)
    (two if what == "lock" else b).close()
    for thread in (waits, waits_in_line):
        with pytest.raises(pydlm.Closed):
            thread.result()
    one.release()
    nothing_left(a)
    assert len(list(a.dump("r"))) == 1


@pytest.mark.usefixtures("sleeps_first")
@pytest.mark.parametrize("what", ["lock", "lockspace"])
def test_close_when_just_called(a: Lockspace, b: Lockspace, what: str) -> None:
    lk = b.lock("r")
    lk.acquire()
    called = in_line(lk, lk.acquire)
    lk.release()
    (lk if what == "lock" else b).close()
    with contextlib.suppress(pydlm.Closed):
        assert called.result() is True  # it came before
    assert not lk.locked()
    until(lambda: not list(a.dump("r")))


def test_closed(a: Lockspace, b: Lockspace) -> None:
    one, two, three = a.lock("r"), b.lock("r"), a.lock("r")
    one.acquire()
    one.close()
    one.close()
    assert two.acquire(timeout=SOON)
    b.close()
    for lk, text in ((one, "the lock is closed"), (two, "the connection .*is closed")):
        assert lk.locked() is False
        for use in (lk.acquire, lk.release, lk.cancel, lk.fileno, lambda lk=lk: lk.convert(PR)):
            with pytest.raises(pydlm.Closed, match=text):
                use()
        for what in ("name", "lkid", "granted", "requested", "blocked", "token", "lvb"):
            with pytest.raises(pydlm.Closed, match=text):
                getattr(lk, what)
    two.close()
    with pytest.raises(pydlm.Closed):
        b.lock("r")
    with pytest.raises(pydlm.Closed):
        b.dispatch()
    assert three.acquire(timeout=0)


def test_collected(a: Lockspace, b: Lockspace) -> None:
    lk, held, other = a.lock("r"), a.lock("r"), b.lock("r")
    held.acquire()
    held.lvb = b"written"
    locks = [held]
    del held
    with pytest.warns(ResourceWarning, match="b'r' EX at .* was held when its last reference"):
        locks.clear()
    assert other.acquire(timeout=SOON)
    assert other.lvb.startswith(b"written")
    other.release()
    del lk
    a.lock("s").close()
    until(lambda: len(list(b.dump("r"))) == 1)


def test_fork(a: Lockspace, b: Lockspace) -> None:
    lk, idle, other = a.lock("r"), a.lock("s"), b.lock("r")
    lk.acquire()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forks with threads: Python 3.12
        pid = os.fork()
    if pid == 0:
        code = 1
        try:
            for use in (lk.release, lk.acquire, idle.acquire, lk.cancel, lambda: a.lock("x")):
                with pytest.raises(pydlm.Forked):
                    use()
            assert not lk.locked() and repr(lk).startswith("<closed")
            lk.close()
            a.close()
            del lk, idle
            gc.collect()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(pid, 0)[1] == 0
    assert lk.locked() and not other.acquire(False)
    lk.release()
    assert other.acquire(timeout=SOON)


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


# The lock value block.


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


# Who is in the way.


def test_blocked(a: Lockspace, b: Lockspace) -> None:
    one, two, three = a.lock("r"), b.lock("r"), b.lock("r")
    one.acquire()
    assert one.blocked is None and not readable(one)
    reader = Thread(two.acquire, mode=PR)
    assert readable(one, SOON) and readable(one)  # though no thread of `a` waits for anything
    assert one.blocked is PR and two.blocked is None
    writer = Thread(three.acquire, mode=PW)
    until(lambda: one.blocked is PW)
    one.convert(PR)  # this lets the reader in, but not the writer
    assert reader.result() is True
    until(lambda: one.blocked is two.blocked is PW)
    assert readable(one, SOON)
    one.release()
    assert one.blocked is None and not readable(one)
    two.release()
    assert writer.result() is True and two.blocked is None
    assert one.fileno() == one.fileno()


def test_blocked_by_a_request_that_does_not_wait(a: Lockspace, b: Lockspace) -> None:
    one, two = a.lock("r"), b.lock("r")
    one.acquire()
    assert not two.acquire(False)
    assert one.blocked is None and not readable(one)


def test_events(a: Lockspace, b: Lockspace) -> None:
    one, two, three = a.lock("r"), b.lock("r"), a.lock("s")
    assert a.dispatch() == [] and not readable(a)
    one.acquire()
    three.acquire(mode=PR)
    waiting = Thread(two.acquire, mode=PR)
    assert readable(a, SOON)
    until(lambda: one.blocked)
    assert a.dispatch() == [Blocked(one.lkid, PR, one)]
    assert a.dispatch() == [] and not readable(a)
    other = Thread(b.lock("s").acquire)
    assert readable(a, SOON)
    until(lambda: three.blocked)
    assert a.dispatch(1) == [Blocked(three.lkid, EX, three)]
    one.release()
    three.release()
    assert waiting.result() and other.result()
    assert [e for e in b.dispatch() if isinstance(e, Completion)] == []
    lkid = b.stack.lock(b"t", EX)
    assert readable(b, SOON)
    (event,) = b.dispatch()
    assert isinstance(event, Completion) and event[:2] == (lkid, 0)
    died = b.node
    b.stack.abandon()  # type: ignore[attr-defined]
    assert readable(a, SOON)
    until(lambda: a.dispatch() == [NodeDown(died)])


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
