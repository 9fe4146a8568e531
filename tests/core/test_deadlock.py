"""Waits that would never end: one of those in the circle is told, the others go on."""

from __future__ import annotations

import errno
import itertools
import os
import threading
import time
from typing import Any

import pytest

from pydlm import DeadlockError, Mode

SOON = 0.05


class Party:
    """Threads that first all take one lock, then wait for another."""

    def __init__(self, world: Any, steps: list[tuple[Any, Any]], mode: Mode = Mode.EX) -> None:
        self.barrier = threading.Barrier(len(steps))
        self.ids: dict[int, int] = {}
        self.victims: list[DeadlockError] = []
        self.tasks = [
            world.worker(self._step, i, has, wants, mode) for i, (has, wants) in enumerate(steps)
        ]

    def _step(self, number: int, has: Any, wants: Any, mode: Mode) -> bool:
        self.ids[number] = threading.get_native_id()
        has.acquire()
        self.barrier.wait()
        try:
            got = wants.acquire(mode=mode)
        except DeadlockError as error:
            self.victims.append(error)
            return False
        finally:
            has.release()
        wants.release()
        return bool(got)

    def end(self) -> DeadlockError:
        got = [task.result() for task in self.tasks]
        assert len(self.victims) == 1, "exactly one is the victim"
        assert got.count(False) == 1
        return self.victims[0]


def no_traces(world: Any) -> None:
    ls = world.spaces[0]
    assert all(s.granted == Mode.NL and s.requested is None for s in ls.dump())
    assert world.usage()[0] == len(ls.dump())


@pytest.mark.parametrize("wait", [0, 0.001, SOON])
def test_two_threads_and_two_resources(world: Any, wait: float) -> None:
    ls = world.connect(deadlock_wait=wait)
    for _ in range(5):
        a1, b1, a2, b2 = (ls.lock(name) for name in ("a", "b", "a", "b"))
        party = Party(world, [(a1, b1), (b2, a2)])
        error = party.end()
        assert error.errno == errno.EDEADLK
        assert {m.resource for m in error.cycle} == {b"a", b"b"}
        assert all(m.wanted == Mode.EX for m in error.cycle)
        owners = {m.owner for m in error.cycle}
        assert owners == {f"process {os.getpid()} thread {i}" for i in party.ids.values()}
        for word in ("'a'", "'b'", "EX", *owners):
            assert word in str(error)
        no_traces(world)


def test_the_victim_comes_first_in_the_cycle(world: Any) -> None:
    ls = world.connect(deadlock_wait=None)
    hasty = world.connect(deadlock_wait=0)
    a1, b1 = ls.lock("a"), ls.lock("b")
    a2, b2 = hasty.lock("a"), hasty.lock("b")
    b2.acquire()
    a1.acquire()  # by the main thread, which will be the victim below

    # Another thread must own `a` for that: hand it over.
    a1.release()
    held = threading.Event()

    def other() -> None:
        a1.acquire()
        held.set()
        b1.acquire()

    task = world.thread(other)
    held.wait()
    world.queued(ls, "b")
    with pytest.raises(DeadlockError) as excinfo:
        a2.acquire(mode=Mode.PR)
    mine, theirs = excinfo.value.cycle
    assert (mine.resource, mine.wanted, mine.held) == (b"a", Mode.PR, Mode.NL)
    assert mine.owner.endswith(f"thread {threading.get_native_id()}") and mine.lkid == a2.lkid
    assert (theirs.resource, theirs.wanted, theirs.lkid) == (b"b", Mode.EX, b1.lkid)
    b2.release()
    task.result()


@pytest.mark.parametrize("n", [3, 7])
def test_a_longer_circle(world: Any, n: int) -> None:
    ls = world.connect(deadlock_wait=SOON)
    steps = [(ls.lock(f"r{i}"), ls.lock(f"r{(i + 1) % n}")) for i in range(n)]
    error = Party(world, steps).end()
    assert len(error.cycle) == n
    assert sorted(m.resource for m in error.cycle) == sorted(f"r{i}".encode() for i in range(n))
    order = [int(m.resource[1:]) for m in error.cycle]
    assert all((a + 1) % n == b for a, b in itertools.pairwise(order))
    no_traces(world)


def test_through_shared_handles(world: Any) -> None:
    # All wait in line, so the lock manager sees nothing of it.
    ls = world.connect(deadlock_wait=SOON)
    a, b = ls.lock("a"), ls.lock("b")
    error = Party(world, [(a, b), (b, a)]).end()
    assert {m.resource for m in error.cycle} == {b"a", b"b"}
    no_traces(world)


def test_through_shared_handles_at_once(world: Any) -> None:
    ls = world.connect(deadlock_wait=0)
    a, b, c = (ls.lock(name) for name in "abc")
    Party(world, [(a, b), (b, c), (c, a)]).end()
    no_traces(world)


def test_one_in_line_and_one_in_the_lock_manager(world: Any) -> None:
    ls = world.connect(deadlock_wait=SOON)
    a, b1, b2 = ls.lock("a"), ls.lock("b"), ls.lock("b")
    Party(world, [(a, b1), (b2, a)]).end()
    no_traces(world)


def test_in_line_behind_one_who_waits_himself(world: Any) -> None:
    # The first in line does not hold the handle: it waits with it, for what the second one holds.
    ls = world.connect(deadlock_wait=SOON)
    held, handle = ls.lock("a"), ls.lock("a")
    victims: list[DeadlockError] = []

    def first() -> None:
        with handle:
            pass

    def second() -> None:
        held.acquire()
        ready.wait()
        world.queued(ls, "a")
        try:
            with handle:
                pass
        except DeadlockError as error:
            victims.append(error)
        finally:
            held.release()

    ready = threading.Event()
    tasks = [world.thread(second), world.thread(first)]
    ready.set()
    errors = [task.error() for task in tasks]
    # Whichever of the two it was, one had to go.
    assert len(victims) + sum(isinstance(e, DeadlockError) for e in errors) == 1
    no_traces(world)


def test_in_line_behind_another_in_line(world: Any) -> None:
    ls = world.connect(deadlock_wait=SOON)
    a, b, handle = ls.lock("a"), ls.lock("b"), ls.lock("c")
    outside = ls.lock("c")
    # main holds c; T1 waits for it through `handle`; T2, who holds a, stands in line behind T1.
    errors: list[BaseException] = []

    def second() -> None:
        with a, handle:
            pass

    def third() -> None:
        with b:
            try:
                with a:
                    pass
            except DeadlockError as error:
                errors.append(error)

    outside.acquire()
    tasks = [world.thread(lambda: handle.acquire() and handle.release())]
    world.queued(ls, "c")
    tasks.append(world.thread(second))
    tasks.append(world.thread(third))
    try:
        # main waits for T3, which waits for T2, which waits behind T1, which waits for main
        if b.acquire(timeout=5):
            b.release()
    except DeadlockError as error:
        errors.append(error)
    outside.release()
    for task in tasks:
        task_error = task.error()
        if task_error is not None:
            errors.append(task_error)
    assert len(errors) == 1 and isinstance(errors[0], DeadlockError)
    no_traces(world)


def test_one_thread_that_waits_for_itself(world: Any) -> None:
    # Not for ever: locks belong to handles, and whoever has one may release it for this thread.
    ls = world.connect(deadlock_wait=0)
    one, two = ls.lock("x"), ls.lock("x")
    for holder, waiter in ((one, two), (one, one), (one, world.connect(deadlock_wait=0).lock("x"))):
        holder.acquire()
        assert waiter.acquire(timeout=0.1) is False
        release = world.worker(holder.release)
        assert waiter.acquire()
        release.result()
        waiter.release()


def test_two_threads_that_each_use_two_connections(world: Any) -> None:
    first, second = world.connect(deadlock_wait=SOON), world.connect(deadlock_wait=SOON)
    steps = [(first.lock("a"), second.lock("b")), (first.lock("b"), second.lock("a"))]
    Party(world, steps).end()
    no_traces(world)


def test_behind_a_waiter_that_is_ahead(world: Any) -> None:
    # The third waits for the second only because it came first.
    ls = world.connect(deadlock_wait=SOON)
    a1, a2, a3, b1, b2 = (ls.lock(name) for name in ("a", "a", "a", "b", "b"))
    a1.acquire(mode=Mode.PR)
    errors: list[DeadlockError] = []

    def second() -> None:  # holds b, waits for the main thread's a
        with b1, a2:
            pass

    task = world.thread(second)
    world.queued(ls, "a")

    def third() -> None:
        with a3.held(Mode.PR):  # goes with a1, but not past a2
            pass

    reader = world.thread(third)
    world.queued(ls, "a", 2)
    try:
        with b2:
            pass
    except DeadlockError as error:
        errors.append(error)
    a1.release()
    error = task.error()
    reader.result()
    assert len(errors) + isinstance(error, DeadlockError) == 1
    no_traces(world)


def test_converters_in_a_circle_over_two_resources(world: Any) -> None:
    ls = world.connect(deadlock_wait=SOON)
    a1, a2, b1, b2 = (ls.lock(name) for name in ("a", "a", "b", "b"))
    barrier = threading.Barrier(2)
    victims: list[DeadlockError] = []

    def work(one: Any, other: Any) -> None:
        with one.held(Mode.PR), other.held(Mode.PR):
            barrier.wait()
            try:
                one.convert(Mode.EX)
            except DeadlockError as error:
                victims.append(error)

    for task in [world.worker(work, a1, b1), world.worker(work, b2, a2)]:
        task.result()
    assert len(victims) == 1
    no_traces(world)


def test_two_conversions_on_one_resource_are_refused_at_once(world: Any) -> None:
    one, two = world.handles("x", 2, deadlock_wait=None)
    one.acquire(mode=Mode.PR)
    two.acquire(mode=Mode.PR)
    waiting = world.thread(one.convert, Mode.EX)
    world.queued(world.spaces[0], "x")
    before = time.monotonic()
    with pytest.raises(DeadlockError) as excinfo:
        two.convert(Mode.EX)
    assert time.monotonic() - before < 1
    mine, theirs = excinfo.value.cycle
    assert (mine.resource, mine.held, mine.wanted) == (b"x", Mode.PR, Mode.EX)
    assert (theirs.resource, theirs.held, theirs.wanted) == (b"x", Mode.PR, Mode.EX)
    assert (mine.lkid, theirs.lkid) == (two.lkid, one.lkid)
    assert two.granted == Mode.PR and not waiting.done
    two.release()
    assert waiting.result() and one.granted == Mode.EX


def test_a_conversion_that_does_not_wait_is_no_deadlock(world: Any) -> None:
    one, two = world.handles("x", 2)
    one.acquire(mode=Mode.PR)
    two.acquire(mode=Mode.PR)
    waiting = world.thread(one.convert, Mode.EX)
    world.queued(world.spaces[0], "x")
    assert two.convert(Mode.EX, blocking=False) is False
    two.release()
    assert waiting.result()


def test_in_line_where_every_slot_is_taken(world: Any) -> None:
    # To be seen by the search, a wait in line needs a slot: one that is free in any shard will do.
    ls = world.connect(capacity=16, deadlock_wait=SOON)
    locks = [ls.lock(f"n{i}") for i in range(16)]
    for lk in locks[2:12]:
        lk.close()
    Party(world, [(locks[0], locks[1]), (locks[1], locks[0])]).end()
    ls.stack.arena.check()


def test_after_the_victim_gave_way_all_others_go_on(world: Any) -> None:
    n = 5
    ls = world.connect(deadlock_wait=SOON)
    rings = [[(ls.lock(f"{k}.{i}"), ls.lock(f"{k}.{(i + 1) % n}")) for i in range(n)] for k in "ab"]
    for party in [Party(world, ring) for ring in rings]:
        party.end()
    no_traces(world)


def test_two_circles_through_one_thread(world: Any) -> None:
    # The one in the middle waits for readers of which each waits for it.
    ls = world.connect(deadlock_wait=SOON)
    middle, a = ls.lock("a"), ls.lock("b")
    readers = [(ls.lock("b"), ls.lock("a")) for _ in range(2)]
    barrier = threading.Barrier(3)
    victims: list[str] = []

    def read(mine: Any, wants: Any) -> None:
        with mine.held(Mode.PR):
            barrier.wait()
            try:
                with wants.held(Mode.PR):
                    pass
            except DeadlockError:
                victims.append("reader")

    tasks = [world.worker(read, *pair) for pair in readers]
    with middle:
        barrier.wait()
        try:
            with a:
                pass
        except DeadlockError:
            victims.append("middle")
    for task in tasks:
        task.result()
    assert victims == ["middle"] or sorted(victims) in (["reader"] * 2, ["middle", "reader"])
    no_traces(world)


def almost_a_circle(world: Any, ls: Any) -> tuple[Any, Any]:
    """Return a lock that we hold, and one that we must not wait for: its holder waits for us."""
    mine, wanted = ls.lock("x"), ls.lock("y")
    mine.acquire()
    patient = world.connect(deadlock_wait=None)

    def other() -> None:
        with patient.lock("y"):
            patient.lock("x").acquire()

    world.thread(other)
    world.queued(ls, "x")
    return mine, wanted


def test_it_can_be_turned_off(world: Any) -> None:
    ls = world.connect(deadlock_wait=None)
    mine, wanted = almost_a_circle(world, ls)
    assert wanted.acquire(timeout=0.3) is False
    ls.stack.deadlock_wait = 0.01
    with pytest.raises(DeadlockError):
        wanted.acquire(timeout=20)
    mine.release()


def test_a_timeout_that_is_shorter_comes_first(world: Any) -> None:
    ls = world.connect()
    assert ls.stack.deadlock_wait == 1.0
    mine, wanted = almost_a_circle(world, ls)
    before = time.monotonic()
    assert wanted.acquire(timeout=0.1) is False
    with pytest.raises(DeadlockError):
        wanted.acquire()
    assert time.monotonic() - before >= 1.1
    mine.release()


def test_a_search_on_behalf_of_who_is_gone(alone: Any) -> None:
    alone(_abandoned_before_the_search)


def _abandoned_before_the_search() -> None:
    import sys
    import threading
    import time

    import pydlm

    sys.setswitchinterval(1000)
    other = pydlm.connect("x", capacity=3000)
    holder = other.lock("r")
    holder.acquire()
    for close in ("abandon", "disconnect"):
        for line in (False, True):
            ls = pydlm.connect("x", deadlock_wait=0.02)
            lk, ended = ls.lock("r"), []

            def wait(lk=lk, ended=ended):
                try:
                    lk.acquire()
                except pydlm.Closed:
                    ended.append("closed")

            more = [ls.lock(f"r{i}") for i in range(2000)]  # so that it takes its time to leave
            threads = [threading.Thread(target=wait) for _ in range(2 if line else 1)]
            for thread in threads:
                thread.start()
            end = time.monotonic() + 0.05
            while time.monotonic() < end:  # they want to search now, as soon as they may
                pass
            getattr(ls.stack, close)()
            for thread in threads:
                thread.join()
            assert ended == ["closed"] * len(threads)
            assert other.stack.arena.usage()["locks"] == 1, (close, line, len(more))
    other.stack.arena.check()


# No false alarms.


def test_a_holder_that_is_slow(world: Any) -> None:
    ls = world.connect(deadlock_wait=0.01)
    holder, others = ls.lock("x"), [ls.lock("x") for _ in range(3)]
    world.thread(holder.acquire).result()
    waits = [world.thread(lk.acquire, timeout=20) for lk in others]
    waits.append(world.thread(holder.acquire, timeout=20))
    time.sleep(0.3)
    assert not any(task.done for task in waits)
    holder.release()
    for task, lk in zip(waits, [*others, holder], strict=True):
        assert task.result()
        lk.release()


def test_a_lock_that_is_used_like_a_semaphore(world: Any) -> None:
    # Whoever takes it is not who gives it back: it has no owner to wait for.
    lk = world.connect(deadlock_wait=0.01).lock("x")
    lk.acquire()
    world.thread(lk.release).result()
    lk.acquire()
    waiting = world.thread(time.sleep, 0.2)
    releases = world.thread(lambda: waiting.result() or lk.release())
    assert lk.acquire(timeout=20)
    releases.result()


def test_a_lock_that_another_thread_will_release(world: Any) -> None:
    # T1 took a and waits for b; main took b for T2, and waits for a. T2 gives b back.
    ls = world.connect(deadlock_wait=0.01)
    a1, a2, b1, b2 = (ls.lock(name) for name in ("a", "a", "b", "b"))
    b1.acquire()
    world.thread(b1.release).result()  # that is how it is used
    b1.acquire()
    got = threading.Event()

    def first() -> None:
        with a1:
            got.set()
            with b2:
                pass

    task = world.thread(first)
    got.wait()
    world.queued(ls, "b")

    def gives_back() -> None:
        world.queued(ls, "a")
        time.sleep(0.1)
        b1.release()

    late = world.worker(gives_back)
    assert a2.acquire(timeout=20)
    a2.release()
    task.result()
    late.result()


def test_a_queue_without_a_circle(world: Any) -> None:
    # Ten threads, each of which holds its own and waits for the next one's, and the last works.
    ls = world.connect(deadlock_wait=0.01)
    n = 10
    working = threading.Event()

    def work(i: int) -> None:
        with ls.lock(f"r{i}"):
            if i == n - 1:
                working.wait()
                return
            ready[i].wait()
            with ls.lock(f"r{i + 1}"):
                pass

    ready = [threading.Event() for _ in range(n)]
    tasks = [world.thread(work, i) for i in range(n)]
    for event in ready:
        event.set()
    for i in range(1, n):
        world.queued(ls, f"r{i}")
    time.sleep(0.2)
    working.set()
    for task in tasks:
        task.result()
    no_traces(world)


def test_work_in_one_order_is_never_a_deadlock(world: Any) -> None:
    ls = world.connect(deadlock_wait=0)  # each wait searches
    names = "abcd"

    def work(number: int) -> int:
        handles = [ls.lock(name) for name in names]
        for i in range(200):
            first, second = sorted(((i + number) % 4, (i * number + 1) % 4))
            with handles[first].held(Mode.EX if i % 2 else Mode.PR):
                if first != second:
                    with handles[second]:
                        pass
        return 1

    tasks = [world.worker(work, i) for i in range(4)]
    assert sum(task.result() for task in tasks) == 4


def test_work_in_any_order_always_goes_on(world: Any) -> None:
    ls, other = world.connect(deadlock_wait=0.002), world.connect(deadlock_wait=0.002)

    def work(number: int) -> tuple[int, int]:
        space = (ls, other)[number % 2]
        handles = [space.lock(name) for name in "abc"]
        done = given_up = 0
        for i in range(60):
            try:
                with handles[(i + number) % 3]:
                    time.sleep(0)
                    with handles[(i + number + 1 + number % 2) % 3]:
                        done += 1
            except DeadlockError:
                given_up += 1
        return done, given_up

    tasks = [world.worker(work, i) for i in range(5)]
    results = [task.result() for task in tasks]
    assert sum(done for done, _ in results) > 0
    no_traces(world)
