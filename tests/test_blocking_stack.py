"""What the lock made of verbs asks of its stack, and what it does when the answers take their time.

What the user sees of it is tested, with the native lock, in test_blocking.py.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
import threading
import time
import warnings
import weakref
from _thread import _count as thread_count
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

import pydlm
from pydlm import Blocked, Completion, LockFlag, Mode
from pydlm.blocking import BlockingLocks, StackLock
from pydlm.stacks.local import LocalStack
from pydlm.types import Event

NL, CR, CW, PR, PW, EX = Mode
NOQUEUE, CANCEL, VALBLK, QUECVT, IVVALBLK, EXPEDITE, FORCEUNLOCK = (
    LockFlag[name]
    for name in ("NOQUEUE", "CANCEL", "VALBLK", "QUECVT", "IVVALBLK", "EXPEDITE", "FORCEUNLOCK")
)
SOON = 10.0

pytestmark = pytest.mark.filterwarnings("ignore:.* was held when its last ref:ResourceWarning")


class TestStack:
    """A LocalStack without its native locks.

    It may lack more, writes down what it is asked, and hands its events out when told to.
    """

    __test__ = False
    name = "test"

    def __init__(self, *lacking: str) -> None:
        self.inner = LocalStack.connect("tests", deadlock_wait=None)
        self.capabilities = self.inner.capabilities - {"native", *lacking}
        self.asked: list[tuple[Any, ...]] = []
        self.events: deque[Event] = deque()
        self.delivered = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.epoll = select.epoll()
        self.epoll.register(self.delivered, select.EPOLLIN)
        self._by_hand = True
        self.by_hand = False

    @property
    def by_hand(self) -> bool:
        return self._by_hand

    @by_hand.setter
    def by_hand(self, by_hand: bool) -> None:
        if by_hand != self._by_hand:
            if by_hand:
                self.epoll.unregister(self.inner.fileno())
            else:
                self.epoll.register(self.inner.fileno(), select.EPOLLIN)
            self._by_hand = by_hand

    def __getattr__(self, verb: str) -> Any:
        return getattr(self.inner, verb)

    def __del__(self) -> None:
        self.epoll.close()
        if self.delivered >= 0:
            os.close(self.delivered)
            self.delivered = -1

    def disconnect(self) -> None:
        self.inner.disconnect()
        self.__del__()

    def lock(self, name: bytes, mode: Mode, flags: LockFlag) -> int:
        self.asked.append(("lock", mode, flags))
        return self.inner.lock(name, mode, flags)

    def convert(self, lkid: int, mode: Mode, flags: LockFlag, *, lvb: bytes | None = None) -> None:
        self.asked.append(("convert", mode, flags, lvb and lvb.rstrip(b"\0")))
        self.inner.convert(lkid, mode, flags, lvb=lvb)

    def unlock(self, lkid: int, flags: LockFlag, *, lvb: bytes | None = None) -> None:
        self.asked.append(("unlock", flags, lvb and lvb.rstrip(b"\0")))
        self.inner.unlock(lkid, flags, lvb=lvb)

    def deliver(self, n: int = 1000) -> int:
        """Bring the next `n` events; return how many came."""
        fresh = self.inner.dispatch(n)
        self.events.extend(fresh)
        if fresh:
            os.eventfd_write(self.delivered, 1)
        return len(fresh)

    def fileno(self) -> int:
        return self.epoll.fileno()

    def dispatch(self, limit: int = 0) -> Sequence[Event]:
        if not self.by_hand:
            self.deliver()
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.delivered)
        events = list(self.events)
        self.events.clear()
        return events

    def took(self) -> list[tuple[Any, ...]]:
        """What it was asked since it was asked this the last time."""
        asked, self.asked = self.asked, []
        return asked


@pytest.fixture
def connect() -> Iterator[Callable[..., BlockingLocks]]:
    connections = []
    threads = thread_count()

    def connect(*lacking: str) -> BlockingLocks:
        connections.append(BlockingLocks(TestStack(*lacking), "tests"))  # type: ignore[arg-type]
        return connections[-1]

    yield connect
    for locks in connections:
        locks.disconnect()
    until(lambda: thread_count() <= threads)


@pytest.fixture
def other() -> Iterator[Any]:
    """A connection with native locks."""
    stack = LocalStack.connect("tests", deadlock_wait=None)
    yield stack
    stack.disconnect()


def stack_of(locks: BlockingLocks) -> Any:
    return locks.stack


def until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < give_up, "what was waited for does not come"
        time.sleep(0.0005)


class Thread(threading.Thread):
    """A thread whose result, or exception, is asked for."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(daemon=True)
        self.run_this = lambda: function(*args, **kwargs)
        self.start()

    def run(self) -> None:
        self.outcome: Any = None
        self.error: BaseException | None = None
        try:
            self.outcome = self.run_this()
        except BaseException as error:
            self.error = error

    def result(self) -> Any:
        self.join(SOON)
        assert not self.is_alive(), "it waits for ever"
        if self.error is not None:
            raise self.error
        return self.outcome


# What each request carries.


def test_flags_and_values(connect: Callable[..., BlockingLocks]) -> None:
    locks = connect()
    lk, stack = locks.open("r"), stack_of(locks)
    assert stack.took() == [("lock", NL, EXPEDITE | VALBLK)]
    with lk:
        assert not lk.acquire(False)
    assert stack.took() == [
        ("convert", EX, QUECVT | VALBLK, None),
        ("convert", NL, VALBLK, None),
    ]
    with lk.held(PW, blocking=False):
        lk.lvb = b"value"
        assert lk.convert(EX)
        assert lk.convert(PW, timeout=1)
        assert lk.convert(CW)
    assert stack.took() == [
        ("convert", PW, NOQUEUE | QUECVT | VALBLK, None),
        ("convert", EX, QUECVT | VALBLK, None),
        ("convert", PW, VALBLK, b"value"),
        ("convert", CW, VALBLK, None),
        ("convert", NL, VALBLK, None),
    ]
    lk.acquire()
    lk.lvb = b"other"
    lk.close()
    assert stack.took() == [
        ("convert", EX, QUECVT | VALBLK, None),
        ("unlock", VALBLK, b"other"),
    ]


def test_flags_where_the_block_is_invalid(connect: Callable[..., BlockingLocks]) -> None:
    dying, locks = connect(), connect()
    dead, lk, stack = dying.open("r"), locks.open("r"), stack_of(locks)
    with dead:
        dead.lvb = b"value"
    dead.acquire()
    stack_of(dying).abandon()
    for mode in (PR, PW, EX):
        lk.acquire(mode=mode)
        assert not lk.lvb_valid
        lk.release()
    stack.took()
    lk.acquire()
    lk.convert(PW)
    lk.convert(PR)
    lk.convert(EX)
    lk.close()
    assert stack.took() == [
        ("convert", EX, QUECVT | VALBLK, None),
        ("convert", PW, VALBLK | IVVALBLK, None),
        ("convert", PR, VALBLK | IVVALBLK, None),
        ("convert", EX, QUECVT | VALBLK, None),
        ("unlock", VALBLK | IVVALBLK, None),
    ]


@pytest.mark.parametrize("held", [CR, CW, PR, PW, EX])
@pytest.mark.parametrize("mode", [CR, CW, PR, PW, EX])
def test_every_conversion_is_one_the_lock_manager_takes(
    connect: Callable[..., BlockingLocks], held: Mode, mode: Mode
) -> None:
    lk = connect().open("r")
    assert lk.acquire(mode=held) and lk.convert(mode) and lk.granted is mode
    lk.release()


# Stacks that can do less.


def test_without_conversions(connect: Callable[..., BlockingLocks], other: Any) -> None:
    locks, holder = connect("convert"), other.open("r")  # the resource outlives our locks on it
    lk, stack = locks.open("r"), stack_of(locks)

    def ours() -> list[int]:
        return [k.lkid for k in other.dump("r") if k.client == stack.this_node]

    assert lk.lkid == 0 and not ours()
    for mode in (EX, PR):
        with lk.held(mode):
            assert lk.granted is mode and lk.token and ours() == [lk.lkid]
            if mode is EX:
                lk.lvb = b"value"
            assert lk.lvb.startswith(b"value")
            assert not lk.acquire(timeout=0)
            with pytest.raises(pydlm.Unsupported, match="'test' cannot change the mode"):
                lk.convert(PW)
        assert (lk.granted, lk.lkid, lk.locked()) == (NL, 0, False)
        assert not ours()
    assert stack.took() == [
        ("lock", EX, VALBLK),
        ("unlock", VALBLK, b"value"),
        ("lock", PR, VALBLK),
        ("unlock", VALBLK, None),
    ]
    holder.acquire()
    assert not lk.acquire(False) and not lk.acquire(timeout=0.01) and not ours()
    waiter = Thread(lk.acquire)
    until(lambda: lk.requested)
    assert lk.cancel()
    with pytest.raises(pydlm.Cancelled):
        waiter.result()
    for end in (holder.release, lk.close):
        waiter = Thread(lk.acquire)
        until(ours)
        end()
        with contextlib.suppress(pydlm.Closed):
            assert waiter.result() is True
            lk.release()
            holder.acquire()
    until(lambda: not ours())
    assert locks.dispatch() == []


def test_without_six_modes(connect: Callable[..., BlockingLocks]) -> None:
    locks = connect("modes6")
    lk, stack = locks.open("r"), stack_of(locks)
    with lk.held(PR):
        assert lk.convert(EX) and lk.convert(PR)
    with pytest.raises(pydlm.Unsupported, match="cannot lock in CW; use PR or EX"):
        lk.acquire(mode=CW)
    assert {request[1] for request in stack.took() if request[0] != "unlock"} == {PR, EX}


def test_without_value_blocks(connect: Callable[..., BlockingLocks]) -> None:
    locks = connect("lvb", "ivvalblk")
    lk, stack = locks.open("r"), stack_of(locks)
    with lk:
        for use in (lambda: lk.lvb, lambda: lk.lvb_valid, lambda: setattr(lk, "lvb", b"")):
            with pytest.raises(pydlm.Unsupported, match="cannot keep lock value blocks"):
                use()
    lk.close()
    assert [request[-2] & VALBLK for request in stack.took()[1:3]] == [0, 0]


@pytest.mark.parametrize(
    ("ability", "use"),
    [
        ("trylock", lambda lk: lk.acquire(False)),
        ("cancel", lambda lk: lk.acquire(timeout=1)),
        ("fencing", lambda lk: lk.token),
        ("bast", lambda lk: lk.blocked),
        ("bast", lambda lk: lk.fileno()),
    ],
)
def test_without_others(
    connect: Callable[..., BlockingLocks], ability: str, use: Callable[[StackLock], object]
) -> None:
    lk = connect(ability).open("r")
    with pytest.raises(pydlm.Unsupported, match=f"the stack 'test' cannot .*lacks '{ability}'"):
        use(lk)
    with lk:
        assert lk.locked()


def test_deadlock_where_others_cannot_be_seen(
    connect: Callable[..., BlockingLocks], other: Any
) -> None:
    lk, rival = connect("dump").open("r"), other.open("r")
    lk.acquire(mode=PR)
    rival.acquire(mode=PR)
    converter = Thread(rival.convert, EX)
    until(lambda: rival.requested)
    with pytest.raises(pydlm.DeadlockError) as caught:
        lk.convert(EX)
    assert len(caught.value.cycle) == 1
    lk.release()
    assert converter.result()


# Answers that take their time.


def test_release_waits_until_it_is_confirmed(connect: Callable[..., BlockingLocks]) -> None:
    locks = connect()
    lk, stack = locks.open("r"), stack_of(locks)
    lk.acquire()
    stack.by_hand = True
    releaser = Thread(lk.release)
    until(lambda: lk.requested is NL)
    assert not lk.locked() and lk.granted is EX
    with pytest.raises(pydlm.NotHeld):
        lk.release()
    with pytest.raises(pydlm.NotHeld):
        lk.convert(PR)
    with pytest.raises(pydlm.NotHeld):
        _ = lk.lvb
    assert stack.deliver() == 1
    assert releaser.result() is None and lk.granted is NL


def test_grant_that_is_on_its_way_beats_the_deadline(
    connect: Callable[..., BlockingLocks], other: Any
) -> None:
    locks = connect()
    lk, stack, holder = locks.open("r"), stack_of(locks), other.open("r")
    holder.acquire()
    stack.by_hand = True
    unlock = stack.unlock

    def too_late(*args: Any, **kwargs: Any) -> None:
        del stack.unlock
        holder.release()
        unlock(*args, **kwargs)

    stack.unlock = too_late
    waiter = Thread(lk.acquire, timeout=0.01)
    until(lambda: ("unlock", CANCEL, None) in stack.asked)
    assert waiter.is_alive()
    stack.deliver()
    assert waiter.result() is True and lk.locked()
    stack.by_hand = False
    lk.release()


def test_leadership_passes_on(connect: Callable[..., BlockingLocks], other: Any) -> None:
    """Whoever reads the descriptor, each gets its own completion; and the last one too."""
    locks = connect()
    stack = stack_of(locks)
    names = "abcdef"
    ours = [locks.open(name) for name in names]
    theirs = [other.open(name) for name in names]
    for lk in theirs:
        lk.acquire()
    threads = []
    for lk in ours:
        threads.append(Thread(lk.acquire))
        until(lambda lk=lk: lk.requested)
    stack.by_hand = True
    for i in (0, 3, 1, 5, 4, 2):  # the first one leads at first
        theirs[i].release()
        stack.deliver()
        assert threads[i].result() is True
    assert all(lk.locked() for lk in ours)
    stack.by_hand = False


def test_user_who_dispatches_wakes_those_who_wait(
    connect: Callable[..., BlockingLocks], other: Any
) -> None:
    """The leader sleeps on a descriptor that somebody else has read."""
    locks = connect()
    lk, stack, holder = locks.open("r"), stack_of(locks), other.open("r")
    holder.acquire()
    waiter = Thread(lk.acquire)
    until(lambda: lk.requested)
    until(lambda: locks._poller is not None and locks._poller.busy)
    stack.by_hand = True
    holder.release()
    stack.events.extend(stack.inner.dispatch())  # without a word to the descriptor
    assert locks.dispatch() == []
    assert waiter.result() is True
    stack.by_hand = False


class Interrupt(Exception):
    """What the signal handler raises."""


def interrupted(function: Callable[[], object], *conditions: Callable[[], object]) -> None:
    """Run in the main thread; interrupt it once each of the conditions has come."""
    main, struck = threading.get_ident(), threading.Event()

    def handler(*_: object) -> None:
        if not struck.is_set():
            struck.set()
            raise Interrupt

    def strike() -> None:
        for condition in conditions:
            until(condition)
            # Once is not enough: a signal that comes just before the main thread goes to sleep
            # is not acted upon before it wakes up.
            struck.clear()
            while not struck.is_set():
                signal.pthread_kill(main, signal.SIGUSR1)
                struck.wait(0.05)

    old = signal.signal(signal.SIGUSR1, handler)
    thread = Thread(strike)
    try:
        with pytest.raises(Interrupt):
            function()
    finally:
        thread.result()
        signal.signal(signal.SIGUSR1, old)


@pytest.mark.parametrize("granted", [False, True])
def test_interrupted_twice(
    connect: Callable[..., BlockingLocks], other: Any, granted: bool
) -> None:
    """Who does not wait for its request to be taken back leaves that to a thread."""
    locks = connect()
    lk, stack, holder = locks.open("r"), stack_of(locks), other.open("r")
    holder.acquire()
    stack.by_hand = True

    def cancelled() -> bool:
        return ("unlock", CANCEL, None) in stack.asked

    def first() -> bool:
        if any(k.requested for k in other.dump("r")):
            if granted:
                holder.release()
            return True
        return False

    interrupted(lk.acquire, first, cancelled)
    assert not lk.locked() and lk.requested is EX
    assert not lk.acquire(False)
    stack.by_hand = False
    stack.deliver()
    until(lambda: lk.requested is None)
    if not granted:
        holder.release()
    assert holder.acquire(timeout=SOON)
    holder.release()
    assert lk.acquire(timeout=SOON)
    lk.release()


def test_interrupted_where_nothing_can_be_cancelled(
    connect: Callable[..., BlockingLocks], other: Any
) -> None:
    lk, holder = connect("cancel").open("r"), other.open("r")
    holder.acquire()
    interrupted(lk.acquire, lambda: any(k.requested for k in other.dump("r")))
    assert not lk.locked() and lk.requested is EX
    with pytest.raises(pydlm.Unsupported):
        lk.cancel()
    holder.release()  # now it is granted, to nobody
    assert holder.acquire(timeout=SOON)
    holder.release()
    assert lk.acquire()
    lk.release()


def test_interrupted_release_is_a_release(connect: Callable[..., BlockingLocks]) -> None:
    locks = connect()
    lk, stack = locks.open("r"), stack_of(locks)
    lk.acquire()
    stack.by_hand = True

    def asleep() -> bool:
        return lk.requested is NL and locks._poller is not None and locks._poller.busy

    def asleep_again() -> bool:
        return asleep() and lk._waiter is not None and lk._waiter.disowned

    interrupted(lk.release, asleep, asleep_again)
    assert not lk.locked()
    stack.by_hand = False
    stack.deliver()
    until(lambda: lk.requested is None)
    assert lk.granted is NL and lk.acquire(timeout=0)
    lk.release()


def test_signal_handler_inside_the_guard(connect: Callable[..., BlockingLocks], other: Any) -> None:
    """It uses a lock of the connection that the main thread is just at work on."""
    locks = connect()
    lk, mine, theirs, stack = locks.open("r"), locks.open("s"), locks.open("t"), stack_of(locks)
    holder = other.open("t")
    holder.acquire()
    leader = Thread(theirs.acquire)  # cannot read the answers: the main thread has the guard
    until(lambda: locks._leader is not None)
    lk.acquire()
    convert = stack.convert

    def struck(*args: Any, **kwargs: Any) -> None:
        del stack.convert
        signal.raise_signal(signal.SIGUSR1)
        convert(*args, **kwargs)

    def release(*_: object) -> None:
        lk.release()
        stack.by_hand = False

    old = signal.signal(signal.SIGUSR1, release)
    try:
        stack.convert = struck
        stack.by_hand = True
        carrier = Thread(until, lambda: not lk.locked() and stack.deliver())
        assert mine.acquire(blocking=False)
    finally:
        signal.signal(signal.SIGUSR1, old)
    carrier.result()
    assert lk.granted is NL and mine.granted is EX
    holder.release()
    assert leader.result() is True


@pytest.mark.parametrize("phase", ["acquire", "release"])
def test_closed_while_a_request_travels(
    connect: Callable[..., BlockingLocks], other: Any, phase: str
) -> None:
    locks = connect()
    lk, stack = locks.open("r"), stack_of(locks)
    if phase == "release":
        lk.acquire()
    stack.by_hand = True
    thread = Thread(getattr(lk, phase))
    until(lambda: lk.requested is not None)
    closer = Thread(lk.close)
    with pytest.raises(pydlm.Closed):
        thread.result()
    assert closer.is_alive()
    stack.deliver()
    closer.result()
    stack.by_hand = False
    assert not other.dump("r") and locks.dispatch() == []


# Threads, descriptors and memory.


def test_no_thread_but_the_callers(connect: Callable[..., BlockingLocks], other: Any) -> None:
    locks = connect()
    before = thread_count()
    handles = [locks.open(str(i)) for i in range(20)]
    for lk in handles:
        lk.acquire()
        lk.release()
    locks.fileno()
    assert thread_count() == before
    fds = {lk.fileno() for lk in handles}
    assert len(fds) == 20
    until(lambda: thread_count() == before + 1)
    locks.disconnect()
    until(lambda: thread_count() == before)
    for fd in fds:
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(fd)


def test_connection_that_is_forgotten(connect: Callable[..., BlockingLocks], other: Any) -> None:
    before = thread_count()
    locks = BlockingLocks(TestStack(), "tests")  # type: ignore[arg-type]
    lk = locks.open("r")
    lk.fileno()
    lk.acquire()
    until(lambda: thread_count() == before + 1)
    gone = weakref.ref(locks)
    del locks, lk
    until(lambda: gc.collect() is not None and gone() is None)
    until(lambda: thread_count() == before)
    holder = other.open("r")
    assert holder.acquire(timeout=SOON)


def test_collected_by_a_thread_that_holds_the_guard(
    connect: Callable[..., BlockingLocks], other: Any
) -> None:
    """The collector strikes anywhere; what it finds is unlocked by somebody else."""
    locks = connect()
    handles, holder = [locks.open("r"), locks.open("s")], other.open("r")
    handles[0].acquire()
    with locks.guard:
        handles.clear()
        assert len(other.dump("r")) == 2
    assert holder.acquire(timeout=SOON)
    until(lambda: len(other.dump("r")) == 1 and not other.dump("s"))
    locks.dispatch()
    assert len(locks._owners) == 0


def test_fork_while_another_thread_has_the_guard(connect: Callable[..., BlockingLocks]) -> None:
    """In the child nobody will ever let go of it."""
    locks = connect()
    lk = locks.open("r")
    lk.acquire()
    forked, has_it = threading.Event(), threading.Event()

    def hold() -> None:
        with locks.guard:
            has_it.set()
            forked.wait(SOON)

    thread = Thread(hold)
    has_it.wait(SOON)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # forks with threads: Python 3.12
        pid = os.fork()
    if pid == 0:
        signal.alarm(int(SOON))
        code = 1
        try:
            uses = [lk.acquire, lk.release, lk.cancel, lk.fileno, locks.dispatch, locks.fileno]
            uses += [lambda: locks.open("s"), lambda: lk.lvb, lambda: lk.blocked]
            for use in uses:
                with pytest.raises(pydlm.Forked):
                    use()
            lk.close()
            locks.disconnect()
            code = 0
        finally:
            os._exit(code)
    forked.set()
    thread.result()
    assert os.waitpid(pid, 0)[1] == 0
    lk.release()


def test_events_for_the_user(connect: Callable[..., BlockingLocks], other: Any) -> None:
    locks = connect()
    lk, stack, rival = locks.open("r"), stack_of(locks), other.open("r")
    lkid = stack.lock(b"mine", EX, VALBLK)
    assert select.select([locks], [], [], SOON)[0]
    lk.acquire()
    threads = [Thread(rival.acquire, mode=PR)]
    until(lambda: lk.blocked is PR)
    threads.append(Thread(other.open("r").acquire))
    until(lambda: lk.blocked is EX)
    first, second = locks.dispatch()
    assert isinstance(first, Completion) and (first.lkid, first.granted) == (lkid, EX)
    assert second == Blocked(lk.lkid, EX, lk)  # the strictest, once
    assert not select.select([locks], [], [], 0)[0]
    lk.release()
    assert threads[0].result()
    rival.release()
    assert threads[1].result()
    for _ in range(3):  # what nobody dispatches is not kept for ever
        lk2 = locks.open("t")
        lk2.acquire()
        assert not other.open("t").acquire(timeout=0.001)
        lk2.close()
    assert locks.dispatch() == []
