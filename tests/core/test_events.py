"""The connection's one descriptor and its events: bounded, without duplicates, none lost."""

from __future__ import annotations

import fcntl
import select
import sys
import time
from typing import Any

import pytest

from pydlm import Blocked, Completion, LockFlag, Mode
from pydlm.types import ECANCEL, EUNLOCK

F = LockFlag


def contend(lk: Any, mode: Mode = Mode.EX) -> None:
    """Ask for what somebody holds, and give up."""
    assert lk.acquire(timeout=0, mode=mode) is False


def test_what_the_descriptor_is_like(world: Any, readable: Any) -> None:
    ls, other = world.connect(), world.connect()
    fd = ls.fileno()
    assert ls.fileno() == fd == ls.stack.fileno() and other.fileno() != fd
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert not readable(ls) and ls.dispatch() == []


def test_a_notice_names_the_handle(world: Any, readable: Any) -> None:
    ls, other = world.connect(), world.connect()
    ls.fileno()
    lk = ls.lock("x")
    lk.acquire(mode=Mode.PR)
    waiting = world.thread(other.lock("x").acquire)
    assert readable(ls, 10)
    (event,) = ls.dispatch()
    assert event == Blocked(lk.lkid, Mode.EX, lk) and event.lock is lk
    assert not readable(ls) and ls.dispatch() == []
    event.lock.release()
    assert waiting.result()


@pytest.mark.parametrize("trigger", [0, select.EPOLLET])
def test_a_loop_around_epoll(world: Any, trigger: int) -> None:
    # The way a program with very many locks works: one descriptor, dispatch, release.
    ls, other = world.connect(), world.connect()
    locks = {i: ls.lock(f"r{i}") for i in range(50)}
    for lk in locks.values():
        lk.acquire()
    wanted = world.worker(lambda: [other.lock(f"r{i}").acquire() for i in range(50)])
    with select.epoll() as epoll:
        epoll.register(ls, select.EPOLLIN | trigger)
        while not wanted.done:
            epoll.poll(0.2)
            for event in ls.dispatch():
                assert isinstance(event, Blocked) and event.lock is not None
                if event.lock.locked():
                    event.lock.release()
    assert wanted.result() == [True] * 50


def test_notices_from_before_anybody_asked(world: Any, readable: Any) -> None:
    ls, other = world.connect(), world.connect()
    lk = ls.lock("x")
    lk.acquire()
    waiting = world.thread(other.lock("x").acquire)
    world.queued(ls, "x")
    assert readable(ls.fileno())
    assert [e.lock for e in ls.dispatch()] == [lk]
    lk.release()
    assert waiting.result()


def test_it_stays_readable_while_events_are_left(world: Any, readable: Any) -> None:
    ls, other = world.connect(), world.connect()
    ls.fileno()
    locks = [ls.lock(f"r{i}") for i in range(10)]
    for lk in locks:
        lk.acquire()
        contend(other.lock(lk.name))
    seen: list[Any] = []
    for limit in (1, 2, 3):
        assert readable(ls)
        events = ls.dispatch(limit)
        assert len(events) == limit
        seen += events
    assert readable(ls)
    seen += ls.dispatch(100)
    assert not readable(ls)
    assert [e.lock for e in seen] == locks  # oldest first


def test_with_a_limit_an_edge_comes_again(world: Any) -> None:
    ls, other = world.connect(), world.connect()
    locks = [ls.lock(f"r{i}") for i in range(5)]
    with select.epoll() as epoll:
        epoll.register(ls, select.EPOLLIN | select.EPOLLET)
        for lk in locks:
            lk.acquire()
            contend(other.lock(lk.name))
        for _ in locks:
            assert epoll.poll(0)
            assert len(ls.dispatch(1)) == 1
        assert epoll.poll(0) == []


def test_a_hundred_thousand_contentions_are_one_event(world: Any, readable: Any) -> None:
    ls, other = world.connect(), world.connect()
    ls.fileno()
    lk, asks = ls.lock("x"), other.lock("x")
    lk.acquire()
    for _ in range(100_000):
        asks.acquire(timeout=0)
    assert readable(ls)
    assert ls.dispatch() == [Blocked(lk.lkid, Mode.EX, lk)]
    assert not readable(ls)


def test_of_rising_modes_the_strictest_is_told(world: Any) -> None:
    ls, other = world.connect(), world.connect()
    ls.fileno()
    lk, asks = ls.lock("x"), other.lock("x")
    lk.acquire()
    for mode in (Mode.CR, Mode.CW, Mode.PR, Mode.PW):
        contend(asks, mode)
    assert [e.mode for e in ls.dispatch()] == [Mode.PW]
    contend(asks, Mode.PW)
    assert [e.mode for e in ls.dispatch()] == [Mode.PW]  # somebody new
    contend(asks, Mode.EX)
    assert [e.mode for e in ls.dispatch()] == [Mode.EX]


def test_each_holding_is_told_anew(world: Any) -> None:
    ls, other = world.connect(), world.connect()
    ls.fileno()
    lk, asks = ls.lock("x"), other.lock("x")
    for _ in range(5):
        with lk:
            contend(asks)
            assert [e.lock for e in ls.dispatch()] == [lk]


def test_what_was_given_up_meanwhile_is_not_told(world: Any) -> None:
    ls, other = world.connect(), world.connect()
    ls.fileno()
    lk, asks = ls.lock("x"), other.lock("x")
    with lk:
        contend(asks)
    assert ls.dispatch() == []
    with lk.held(Mode.EX):
        contend(asks, Mode.PR)
        lk.convert(Mode.PR)
        assert ls.dispatch() == []
    lk.acquire()
    contend(asks)
    lk.close()
    assert ls.dispatch() == []


def test_events_are_bounded_however_slowly_they_are_read(world: Any) -> None:
    # Also where they are read one by one while others keep coming.
    ls, other = world.connect(), world.connect()
    ls.dispatch()
    pairs = [(ls.lock(name), other.lock(name)) for name in "xyz"]
    for _ in range(200):
        for lk, asks in pairs:
            lk.acquire()
            contend(asks)
        ls.dispatch(1)
        for lk, _ in pairs:
            lk.release()
    for lk, asks in pairs:
        lk.acquire()
        contend(asks)
    events = ls.dispatch()
    assert len(events) <= len(pairs) and {e.lock for e in events} == {lk for lk, _ in pairs}


def test_an_event_of_a_handle_that_was_closed_meanwhile(world: Any) -> None:
    ls, other = world.connect(), world.connect()
    ls.dispatch()
    locks = [ls.lock(f"r{i}") for i in range(3)]
    for lk in locks:
        lk.acquire()
        contend(other.lock(lk.name))
    first = ls.dispatch(1)
    locks[1].close()
    rest = ls.dispatch()
    assert [e.lock for e in first] == [locks[0]]
    assert [e.lock for e in rest if e.lock is not None and e.lock.locked()] == [locks[2]]


def test_completions_are_never_merged(world: Any, readable: Any) -> None:
    ls, other = world.connect(), world.connect()
    stack = ls.stack
    ls.fileno()
    lkid = stack.lock("x", Mode.NL, F.VALBLK)
    for _ in range(10):
        stack.convert(lkid, Mode.EX, F.VALBLK)
        stack.convert(lkid, Mode.NL, F.VALBLK, lvb=b"v")
    stack.unlock(lkid)
    events = stack.dispatch()
    assert all(isinstance(e, Completion) and e.lkid == lkid for e in events)
    assert [(e.status, e.granted) for e in events] == [
        (0, Mode.NL),
        *[(0, Mode.EX), (0, Mode.NL)] * 10,
        (EUNLOCK, None),
    ]
    assert not readable(ls)
    assert world.usage(other) == (0, 0)


def test_a_completion_that_made_room_for_the_next_request(world: Any, readable: Any) -> None:
    # It is read early, so that the lock can be asked again; the descriptor still announces it.
    ls, other = world.connect(), world.connect()
    other.lock("x")
    holder = other.lock("x")
    holder.acquire()
    ls.fileno()
    lkid = ls.stack.lock("x", Mode.NL)
    assert readable(ls)
    ls.stack.convert(lkid, Mode.EX)  # waits
    assert readable(ls)
    (event,) = ls.dispatch()
    assert (event.status, event.granted) == (0, Mode.NL)
    assert not readable(ls)
    holder.release()
    assert readable(ls)
    assert [(e.status, e.granted) for e in ls.dispatch()] == [(0, Mode.EX)]


def test_an_event_that_a_closing_handle_made_room_for(world: Any, readable: Any) -> None:
    ls, other = world.connect(), world.connect()
    ls.fileno()
    locks = [ls.lock("x"), ls.lock("y")]
    for lk in locks:
        lk.acquire()
        contend(other.lock(lk.name))
    locks[0].close()
    assert readable(ls)  # for the other one
    assert [e.lock for e in ls.dispatch()] == [locks[1]]
    assert not readable(ls)


def test_a_descriptor_made_after_events_were_set_aside(world: Any, readable: Any) -> None:
    ls, other = world.connect(), world.connect()
    ls.dispatch()
    locks = [ls.lock("x"), ls.lock("y")]
    for lk in locks:
        lk.acquire()
        contend(other.lock(lk.name))
    assert len(ls.dispatch(1)) == 1
    assert readable(ls.fileno())
    assert len(ls.dispatch()) == 1 and not readable(ls)


def test_the_order_of_one_connections_events(world: Any) -> None:
    ls, other = world.connect(), world.connect()
    lkids = [ls.stack.lock(f"r{i}", Mode.EX) for i in range(100)]
    assert [e.lkid for e in ls.dispatch()] == lkids
    for i in range(99, -1, -1):
        contend(other.lock(f"r{i}"))
    assert [e.lkid for e in ls.dispatch()] == lkids[::-1]
    waits = [other.stack.lock(f"r{i}", Mode.EX) for i in range(100)]
    for lkid in waits:
        other.stack.unlock(lkid, F.CANCEL)
    assert [(e.lkid, e.status) for e in other.dispatch()] == [(k, ECANCEL) for k in waits]


def test_two_threads_that_dispatch(world: Any) -> None:
    ls, _other = world.connect(), world.connect()
    ls.fileno()
    n = 3000
    stop: list[None] = []

    def dispatch() -> list[int]:
        seen: list[int] = []
        while not stop:
            seen += [e.lkid for e in ls.dispatch(3)]
            time.sleep(0)
        return seen

    readers = [world.worker(dispatch) for _ in range(2)]
    lkids = [ls.stack.lock(f"r{i}", Mode.EX) for i in range(n)]
    world.until(lambda: not select.select([ls], [], [], 0)[0], "all to be read")
    stop.append(None)
    seen = [lkid for task in readers for lkid in task.result()]
    seen += [e.lkid for e in ls.dispatch()]
    assert sorted(seen) == sorted(lkids)


@pytest.mark.skipif(
    sys.version_info >= (3, 12), reason="from CPython 3.12 on, no Python comes in between"
)
def test_closing_in_the_midst_of_a_dispatch(alone: Any) -> None:
    alone(_close_in_dispatch)


def _close_in_dispatch() -> None:
    import gc

    import pydlm

    for closes in ("connection", "handle", "death"):
        ls, other = pydlm.connect("x"), pydlm.connect("x")
        ls.fileno()
        locks = [ls.lock(f"r{i}") for i in range(50)]
        for lk in locks:
            lk.acquire()
            other.lock(lk.name).acquire(timeout=0)
        lkids = [ls.stack.lock(f"raw{i}", 5) for i in range(50)]
        ends = {
            "connection": [ls.close],
            "handle": [lk.close for lk in locks],
            "death": [ls.stack.abandon],
        }
        calls = []

        def at_collection(phase, info, ends=ends[closes], calls=calls):
            # Which comes where an event is made.
            calls.append(phase)
            if len(calls) == 20:
                for end in ends:
                    end()

        gc.callbacks.append(at_collection)
        gc.set_threshold(1)
        try:
            ls.dispatch()
        except pydlm.Closed:
            pass
        finally:
            gc.set_threshold(700)
            gc.callbacks.clear()
        assert len(calls) >= 20, "nothing was tried"
        usage = other.stack.arena.usage()
        assert usage["locks"] == (50 if closes == "handle" else 0), (closes, usage, len(lkids))
        other.stack.arena.check()
        # No slot is there twice.
        more = [other.lock(f"more{i}") for i in range(300)]
        assert len({lk.lkid & 0xFFFFFFFF for lk in more}) == 300
        assert all(lk.acquire(blocking=False) for lk in more)
        other.stack.arena.check()
        ls.close()
        other.close()


def test_a_verb_while_another_thread_reads_events(alone: Any) -> None:
    alone(_verbs_beside_a_dispatcher)


def _verbs_beside_a_dispatcher() -> None:
    import sys
    import threading

    import pydlm
    from pydlm import Completion, LockFlag, Mode

    # The reader has taken the list of a thousand locks, and gives the interpreter away amid them.
    sys.setswitchinterval(1e-5)
    ls = pydlm.connect("x")
    stack = ls.stack
    answers, stop = [0], []

    def read():
        while not stop:
            answers[0] += sum(isinstance(event, Completion) for event in ls.dispatch())

    reader = threading.Thread(target=read)
    reader.start()
    rounds, n = 5, 1000
    for _ in range(rounds):
        ids = [stack.lock(f"r{i}", Mode.NL, LockFlag.VALBLK) for i in range(n)]
        for lkid in ids:
            stack.convert(lkid, Mode.PR, LockFlag.VALBLK)
            stack.unlock(lkid)
    stop.append(None)
    reader.join()
    answers[0] += len(ls.dispatch())
    assert answers[0] == 3 * rounds * n
    assert stack.arena.usage()["locks"] == 0


def test_a_verb_in_a_signal_handler_amid_the_reading(world: Any) -> None:
    # The handler finds a lock whose events are on the list that it interrupted.
    import signal

    ls = world.connect()
    ids = [ls.stack.lock(f"r{i}", Mode.NL) for i in range(300)]
    left = list(ids)

    def handler(*_: object) -> None:  # which the next signal may interrupt
        if left:
            ls.stack.convert(left.pop(), Mode.PR)

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    try:
        while left:
            ls.dispatch()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    ls.dispatch()
    assert all(s.granted is Mode.PR for s in ls.dump())
    for lkid in ids:
        ls.stack.unlock(lkid)
    ls.dispatch()
