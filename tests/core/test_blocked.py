"""`blocked` and the handle's descriptor: a level, there as long as the lock blocks somebody."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
from collections.abc import Callable
from typing import Any

import pytest

from pydlm import Cancelled, Closed, LockFlag, Mode

F = LockFlag
HELD = [Mode.CR, Mode.CW, Mode.PR, Mode.PW, Mode.EX]


def agrees(readable: Any, lk: Any, mode: Mode | None) -> None:
    """The property and the descriptor say the same."""
    assert lk.blocked == mode
    assert readable(lk) is (mode is not None)


def test_what_the_descriptor_is_like(world: Any, readable: Any) -> None:
    ls = world.connect()
    lk, other = ls.lock("x"), ls.lock("x")
    fd = lk.fileno()
    assert lk.fileno() == fd and other.fileno() != fd
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert os.get_blocking(fd) is False
    agrees(readable, lk, None)
    with pytest.raises(BlockingIOError):
        os.read(fd, 8)


@pytest.mark.parametrize("wanted", HELD)
@pytest.mark.parametrize("held", HELD)
def test_every_pair_of_modes(world: Any, readable: Any, held: Mode, wanted: Mode) -> None:
    lk, other = world.handles("x", 2)
    lk.fileno()
    lk.acquire(mode=held)
    waiting = world.thread(other.acquire, mode=wanted)
    if held.compatible(wanted):
        assert waiting.result()
        agrees(readable, lk, None)
    else:
        world.queued(world.spaces[0], "x")
        agrees(readable, lk, wanted)
        assert readable(lk) and readable(lk)  # looking at it does not change it
        lk.release()
        assert waiting.result()
        agrees(readable, lk, None)
        agrees(readable, other, None)


@pytest.mark.parametrize("wait", ["select", "poll", "epoll"])
def test_everything_that_waits_for_descriptors(world: Any, wait: str) -> None:
    lk, other = world.handles("x", 2)
    lk.acquire()
    polled = {"poll": select.poll, "epoll": select.epoll}.get(wait, select.poll)()
    polled.register(lk, select.POLLIN)

    def until_wanted() -> Any:
        if wait == "select":
            return select.select([lk], [], [], 20)[0]
        return polled.poll(20_000 if wait == "poll" else 20)

    holder = world.thread(until_wanted)
    assert not holder.done
    waiting = world.thread(other.acquire, mode=Mode.CR)
    found = holder.result()
    assert found == ([lk] if wait == "select" else [(lk.fileno(), select.POLLIN)])
    lk.release()
    assert waiting.result()
    assert not select.select([lk], [], [], 0)[0]
    if wait == "epoll":
        polled.close()


def test_one_edge_each_time_it_begins(world: Any) -> None:
    lk, *others = world.handles("x", 6)
    with select.epoll() as epoll:
        epoll.register(lk, select.EPOLLIN | select.EPOLLET)
        for _ in range(3):
            lk.acquire()
            assert epoll.poll(0) == []
            tasks = [world.thread(others[0].acquire, mode=Mode.CR)]
            world.queued(world.spaces[0], "x")
            assert epoll.poll(10) == [(lk.fileno(), select.EPOLLIN)]
            for i, (other, mode) in enumerate(zip(others[1:], HELD[1:], strict=True), 2):
                tasks.append(world.thread(other.acquire, mode=mode))
                world.queued(world.spaces[0], "x", i)
            assert epoll.poll(0) == []  # no storm of them
            lk.release()
            for task, other in zip(tasks, others, strict=True):
                assert task.result()
                other.release()
            assert epoll.poll(0) == []


def test_more_and_more_is_wanted(world: Any, readable: Any) -> None:
    lk, *others = world.handles("x", 6)
    lk.acquire()
    tasks = []
    for i, mode in enumerate(HELD):
        tasks.append(world.thread(others[i].acquire, mode=mode))
        world.queued(world.spaces[0], "x", i + 1)
        agrees(readable, lk, mode)
    for mode, still in [(Mode.PW, Mode.EX), (Mode.PR, Mode.EX), (Mode.CR, Mode.EX)]:
        lk.convert(mode)
        agrees(readable, lk, still)
    lk.release()
    agrees(readable, lk, None)
    for task, other in zip(tasks, others, strict=True):
        assert task.result()
        other.release()


def test_a_conversion_down_ends_it_where_it_is_enough(world: Any, readable: Any) -> None:
    lk, reader, writer = world.handles("x", 3)
    lk.acquire()
    waiting = world.thread(reader.acquire, mode=Mode.PR)
    world.queued(world.spaces[0], "x")
    agrees(readable, lk, Mode.PR)
    lk.convert(Mode.PW)
    agrees(readable, lk, Mode.PR)
    lk.convert(Mode.PR)
    assert waiting.result()
    agrees(readable, lk, None)
    writes = world.thread(writer.acquire)
    world.queued(world.spaces[0], "x")
    agrees(readable, lk, Mode.EX)
    agrees(readable, reader, Mode.EX)
    lk.release()
    agrees(readable, lk, None)
    agrees(readable, reader, Mode.EX)
    reader.release()
    assert writes.result()


def test_who_is_granted_knows_of_those_behind(world: Any, readable: Any) -> None:
    one, two, three = world.handles("x", 3)
    for lk in (one, two, three):
        lk.fileno()
    one.acquire()
    tasks = []
    for i, lk in enumerate((two, three)):
        tasks.append(world.thread(lk.acquire))
        world.queued(world.spaces[0], "x", i + 1)
    agrees(readable, two, None)
    one.release()
    assert tasks[0].result()
    agrees(readable, one, None)
    assert readable(two, 10)
    agrees(readable, two, Mode.EX)
    two.release()
    assert tasks[1].result()
    agrees(readable, three, None)


def test_a_descriptor_made_while_somebody_waits(world: Any, readable: Any) -> None:
    lk, other = world.handles("x", 2)
    lk.acquire()
    waiting = world.thread(other.acquire)
    world.queued(world.spaces[0], "x")
    assert readable(lk.fileno())
    lk.release()
    assert waiting.result() and not readable(lk)


def give_up_by_timeout(world: Any, other: Any) -> None:
    assert other.acquire(timeout=0.02) is False


def give_up_by_cancel(world: Any, other: Any) -> None:
    waiting = world.thread(other.acquire)
    world.queued(world.spaces[0], "x")
    other.cancel()
    assert isinstance(waiting.error(), Cancelled)


def give_up_by_close(world: Any, other: Any) -> None:
    waiting = world.thread(other.acquire)
    world.queued(world.spaces[0], "x")
    other.close()
    assert isinstance(waiting.error(), Closed)


def give_up_by_leaving(world: Any, other: Any) -> None:
    waiting = world.thread(other.acquire)
    world.queued(world.spaces[0], "x")
    other.client.disconnect()
    assert isinstance(waiting.error(), Closed)


def give_up_by_death(world: Any, other: Any) -> None:
    waiting = world.thread(other.acquire)
    world.queued(world.spaces[0], "x")
    other.client.abandon()
    assert isinstance(waiting.error(), Closed)


def give_up_by_signal(world: Any, other: Any) -> None:
    def interrupted(*_: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGALRM, interrupted)
    signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        with pytest.raises(InterruptedError):
            other.acquire()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def give_up_raw(world: Any, other: Any) -> None:
    stack = other.client
    lkid = stack.lock("x", Mode.EX)
    stack.unlock(lkid, F.CANCEL)


def give_up_raw_conversion(world: Any, other: Any) -> None:
    stack = other.client
    lkid = stack.lock("x", Mode.NL)
    stack.convert(lkid, Mode.EX)
    stack.deadlock_cancel(lkid)
    stack.unlock(lkid)


@pytest.mark.parametrize(
    "give_up",
    [
        give_up_by_timeout,
        give_up_by_cancel,
        give_up_by_close,
        give_up_by_leaving,
        give_up_by_death,
        give_up_by_signal,
        give_up_raw,
        give_up_raw_conversion,
    ],
)
def test_it_ends_when_the_waiter_gives_up(
    world: Any, readable: Any, give_up: Callable[[Any, Any], None]
) -> None:
    lk, second, other, last = world.handles("x", 4)
    for holder in (lk, second):
        holder.fileno()
        holder.acquire(mode=Mode.PR)
    give_up(world, other)
    for holder in (lk, second):
        agrees(readable, holder, None)
    # And begins again with the next one.
    waiting = world.thread(last.acquire)
    world.queued(world.spaces[0], "x")
    for holder in (lk, second):
        agrees(readable, holder, Mode.EX)
        holder.release()
        agrees(readable, holder, None)
    assert waiting.result()


def test_one_of_two_waiters_gives_up(world: Any, readable: Any) -> None:
    lk, reader, writer = world.handles("x", 3)
    lk.acquire()
    lk.fileno()
    reads = world.thread(reader.acquire, mode=Mode.PR)
    world.queued(world.spaces[0], "x")
    writes = world.thread(writer.acquire)
    world.queued(world.spaces[0], "x", 2)
    agrees(readable, lk, Mode.EX)
    writer.cancel()
    assert isinstance(writes.error(), Cancelled)
    agrees(readable, lk, Mode.PR)
    reader.cancel()
    assert isinstance(reads.error(), Cancelled)
    agrees(readable, lk, None)


def test_who_waits_itself_can_be_in_the_way_too(world: Any, readable: Any) -> None:
    one, two, third = world.handles("x", 3)
    for lk in (one, two):
        lk.fileno()
        lk.acquire(mode=Mode.PR)
    upgrade = world.thread(one.convert, Mode.EX)
    world.queued(world.spaces[0], "x")
    agrees(readable, one, None)
    agrees(readable, two, Mode.EX)
    writes = world.thread(third.acquire)
    world.queued(world.spaces[0], "x", 2)
    agrees(readable, one, Mode.EX)  # its PR
    agrees(readable, two, Mode.EX)
    third.cancel()
    assert isinstance(writes.error(), Cancelled)
    agrees(readable, one, None)
    agrees(readable, two, Mode.EX)
    one.cancel()
    assert isinstance(upgrade.error(), Cancelled)
    agrees(readable, two, None)


def test_who_does_not_wait_blocks_nobody(world: Any, readable: Any) -> None:
    lk, other = world.handles("x", 2)
    lk.acquire()
    lk.fileno()
    assert not other.acquire(blocking=False)
    other.client.lock("x", Mode.EX, F.NOQUEUE)
    agrees(readable, lk, None)
    # Unless it asks for a notice, which stays until the lock is given up.
    other.client.lock("x", Mode.PR, F.NOQUEUE | F.NOQUEUEBAST)
    agrees(readable, lk, Mode.PR)
    lk.convert(Mode.PW)
    lk.release()
    agrees(readable, lk, None)


def test_incompatible_with_one_holder_only(world: Any, readable: Any) -> None:
    one, two, third = world.handles("x", 3)
    for lk, mode in ((one, Mode.CR), (two, Mode.PR)):
        lk.fileno()
        lk.acquire(mode=mode)
    waiting = world.thread(third.acquire, mode=Mode.PW)
    world.queued(world.spaces[0], "x")
    agrees(readable, one, None)
    agrees(readable, two, Mode.PW)
    two.convert(Mode.CR)
    assert waiting.result()


def test_readers_and_writers_of_the_concurrent_kind(world: Any, readable: Any) -> None:
    # PR and CW exclude each other though neither is the stricter one.
    one, two, third, last = world.handles("x", 4)
    for lk in (one, two):
        lk.fileno()
        lk.acquire(mode=Mode.PR)
    writes = world.thread(third.acquire, mode=Mode.CW)
    world.queued(world.spaces[0], "x")
    reads = world.thread(last.acquire, mode=Mode.PR)
    world.queued(world.spaces[0], "x", 2)
    for lk in (one, two):
        agrees(readable, lk, Mode.CW)
    third.fileno()
    one.release()
    two.release()
    assert writes.result()
    assert readable(third, 10)
    agrees(readable, third, Mode.PR)
    third.release()
    assert reads.result()


def test_a_closed_lock_has_no_descriptor(world: Any) -> None:
    lk, other = world.handles("x", 2)
    lk.acquire()
    fd = lk.fileno()
    waiting = world.thread(other.acquire)
    with select.epoll() as epoll:
        epoll.register(fd, select.EPOLLIN)
        assert epoll.poll(10)
        lk.close()
        assert epoll.poll(0) == []
    with pytest.raises(OSError, match="Bad file") as excinfo:
        os.fstat(fd)
    assert excinfo.value.errno == errno.EBADF
    assert waiting.result()
    # A descriptor that gets the same number has nothing to do with the lock.
    again = os.eventfd(0, os.EFD_NONBLOCK)
    try:
        third = world.connect().lock("x")
        world.thread(third.acquire, timeout=0.01).result()
        with pytest.raises(BlockingIOError):
            os.eventfd_read(again)
    finally:
        os.close(again)


def test_many_handles_have_a_descriptor_each(world: Any, readable: Any) -> None:
    ls, other = world.connect(), world.connect()
    locks = [ls.lock(f"r{i}") for i in range(100)]
    for lk in locks:
        lk.acquire()
        lk.fileno()
    tasks = [world.thread(other.lock(f"r{i}").acquire) for i in range(0, 100, 7)]
    world.until(lambda: sum(readable(lk) for lk in locks) == len(tasks))
    assert [i for i, lk in enumerate(locks) if readable(lk)] == list(range(0, 100, 7))
    for lk in locks:
        lk.release()
    assert all(task.result() for task in tasks)
    assert not any(readable(lk) for lk in locks)


def test_level_and_truth_agree_after_a_storm(world: Any, readable: Any) -> None:
    handles = world.handles("x", 4)
    for lk in handles:
        lk.fileno()

    def work(number: int) -> None:
        lk = handles[number]
        for i in range(1500):
            if lk.acquire(mode=HELD[(i + number) % 5], timeout=0.0001 * (i % 3)):
                if i % 4 == 0 and lk.granted > Mode.CR:
                    lk.convert(Mode.CR)
                lk.release()

    tasks = [world.worker(work, i) for i in range(4)]
    for task in tasks:
        task.result()
    for lk in handles:
        agrees(readable, lk, None)
    handles[0].acquire()
    waiting = world.thread(handles[1].acquire)
    assert readable(handles[0], 10)
    handles[0].release()
    assert waiting.result()


@pytest.mark.parametrize("timeout", [-1, 20])
def test_a_lock_that_passes_a_waiter_is_in_its_way_too(
    world: Any, readable: Any, timeout: float
) -> None:
    # A conversion is granted though a new request of the verbs waits, and that is told of it.
    verbs, ls = world.connect(), world.connect()
    ls.fileno()
    lk = ls.lock("x")
    lk.fileno()
    verbs.stack.lock("x", Mode.PR)
    waiting = verbs.stack.lock("x", Mode.EX)
    verbs.dispatch()
    agrees(readable, lk, None)
    assert lk.acquire(timeout=timeout, mode=Mode.PR)
    agrees(readable, lk, Mode.EX)
    assert [event.lkid for event in ls.dispatch()] == [lk.lkid]
    lk.release()
    verbs.stack.unlock(waiting, LockFlag.CANCEL)
