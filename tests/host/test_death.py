"""What the others see when a process dies (point 4 of the host stack), whatever it died of."""

from __future__ import annotations

import os
import select
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.host.machine import Host, readable
from tests.host.processes import PATIENCE, Child, Task

import pydlm
from pydlm import LockFlag, Lockspace, Mode, NodeDown, _core
from pydlm.types import Queue

VALUE = b"v" * 64


def holder(host: Host, mode: Mode, *, writes: bool = False) -> Child:
    """Start a process that holds "x"; it says its node."""

    def body(me: Child) -> None:
        ls = host.connect()
        lk = ls.lock("x")
        lk.acquire(mode=mode)
        if writes:
            lk.lvb = b"not to be seen"
        me.say(ls.node)
        me.hear()

    return host.child(body)


def downs(ls: Lockspace, n: int) -> list[int]:
    """Wait for so many deaths."""
    found: list[int] = []
    while len(found) < n:
        assert select.select([ls], [], [], PATIENCE)[0], f"only {found}"
        found += [event.node for event in ls.dispatch() if isinstance(event, NodeDown)]
    return found


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
@pytest.mark.parametrize(
    ("mode", "writes", "valid"),
    [
        (Mode.EX, True, False),
        (Mode.EX, False, False),
        (Mode.PW, True, False),
        (Mode.PR, False, True),
        (Mode.CW, False, True),
        (Mode.CR, False, True),
    ],
)
def test_of_a_holder(mode: Mode, writes: bool, valid: bool, number: int, host: Host) -> None:
    ls = host.connect()
    ls.fileno()
    lk, keeper = ls.lock("x"), ls.lock("x")
    with keeper:
        keeper.lvb = VALUE
    child = holder(host, mode, writes=writes)
    node = child.hear()
    assert not lk.acquire(blocking=False)
    task = Task(lk.acquire)
    host.until(lambda: any(s.requested for s in ls.dump("x")))
    child.kill(number)
    assert task.result() is True
    assert lk.lvb_valid is valid
    if valid:
        assert lk.lvb == VALUE
    else:
        with pytest.raises(pydlm.LVBInvalid):
            _ = lk.lvb
    assert downs(ls, 1) == [node]
    assert not readable(ls)
    lk.lvb = VALUE
    lk.release()
    with keeper.held(Mode.PR):
        assert keeper.lvb == VALUE
    assert child.join() == -number
    host.until(lambda: host.state(ls) == (2, 1, 1, 1))
    ls.stack.arena.check()  # type: ignore[attr-defined]


def test_of_a_waiter(host: Host) -> None:
    """Who waits behind it moves up, and may be granted for that alone."""
    ls = host.connect()
    lk, behind = ls.lock("x"), ls.lock("x")
    lk.acquire(mode=Mode.PR)
    lk.fileno()

    def body(me: Child) -> None:
        own = host.connect().lock("x")
        me.say("ready")
        own.acquire()

    child = host.child(body)
    child.hear()
    host.until(lambda: lk.blocked is Mode.EX)
    task = Task(behind.acquire, mode=Mode.PR)  # compatible, but not before the other
    host.until(lambda: sum(s.requested is not None for s in ls.dump("x")) == 2)
    child.end()
    assert task.result() is True
    assert lk.lvb_valid
    host.until(lambda: host.state(ls) == (2, 1, 1, 1))


def test_of_one_that_converts(host: Host) -> None:
    ls = host.connect()
    lk = ls.lock("x")
    lk.acquire(mode=Mode.PR)

    def body(me: Child) -> None:
        own = host.connect().lock("x")
        own.acquire(mode=Mode.PR)
        me.say("ready")
        own.convert(Mode.EX)

    child = host.child(body)
    child.hear()
    host.until(lambda: any(s.queue is Queue.CONVERT for s in ls.dump("x")))
    child.end()
    host.until(lambda: host.state(ls)[2:] == (1, 1))  # else the two would be a deadlock
    assert lk.convert(Mode.EX, timeout=PATIENCE)
    assert lk.lvb_valid


def test_persistent_locks_stay(host: Host) -> None:
    def body(me: Child) -> None:
        ls = host.connect()
        ls.stack.lock(b"x", Mode.EX, LockFlag.PERSISTENT)
        ls.stack.lock(b"y", Mode.EX)
        me.say(ls.node)
        me.hear()

    ls = host.connect()
    ls.fileno()
    child = host.child(body)
    node = child.hear()
    child.end()
    assert downs(ls, 1) == [node]
    assert [(s.name, s.granted) for s in ls.dump()] == [(b"x", Mode.EX)]
    assert ls.lock("y").acquire(blocking=False)
    lk = ls.lock("x")
    assert not lk.acquire(blocking=False)
    ls.stack.purge(node)
    assert lk.acquire(blocking=False)


def test_of_one_with_several_connections(host: Host) -> None:
    def body(me: Child) -> None:
        spaces = [host.connect() for _ in range(5)]
        locks = [ls.lock(f"{n}") for n, ls in enumerate(spaces)]
        for lk in locks:
            lk.acquire()
        others = host.connect(f"{host.name}-other")
        lk = others.lock("x")
        lk.acquire()
        me.say([ls.node for ls in spaces])
        me.hear()

    ls = host.connect()
    ls.fileno()
    other = host.connect(f"{host.name}-other").lock("x")
    child = host.child(body)
    nodes = child.hear()
    assert host.state(ls)[2:] == (6, 2)
    child.end()
    assert other.acquire(timeout=PATIENCE)
    for n in range(5):
        assert ls.lock(f"{n}").acquire(timeout=PATIENCE)
    assert sorted(downs(ls, 5)) == sorted(nodes)
    host.until(lambda: host.state(ls)[2:] == (1, 1))


def test_exec_is_death(host: Host) -> None:
    """The process goes on, but its memory is gone, and nobody in it knows of its locks."""

    def body(me: Child) -> None:
        ls = host.connect()
        lk = ls.lock("x")
        lk.acquire()
        me.say(ls.node)
        me.hear()
        signal.alarm(0)
        os.execv("/bin/sleep", ["sleep", str(4 * PATIENCE)])

    ls = host.connect()
    ls.fileno()
    lk = ls.lock("x")
    child = host.child(body)
    node = child.hear()
    child.say()
    assert lk.acquire(timeout=PATIENCE)
    assert not lk.lvb_valid
    assert downs(ls, 1) == [node]
    cmdline = Path(f"/proc/{child.pid}/cmdline")
    host.until(lambda: cmdline.read_bytes().startswith(b"sleep"), "the new program")


def test_of_the_thread_that_connected(host: Host) -> None:
    """Only the process counts: a lock outlives the thread that took it."""

    def body(me: Child) -> None:
        ls = Task(host.connect).result()
        lk = Task(ls.lock, "x").result()
        assert Task(lk.acquire).result()
        me.say(ls.node)
        me.hear()
        lk.release()
        me.say("released")
        me.hear()

    ls = host.connect()
    lk = ls.lock("x")
    child = host.child(body)
    child.hear()
    assert not lk.acquire(timeout=0.2)
    child.say()
    assert child.hear() == "released"
    assert lk.acquire(timeout=PATIENCE)
    assert lk.lvb_valid


def test_two_at_once(host: Host) -> None:
    """The one that is to notice the other's death dies with it."""
    ls = host.connect()
    ls.fileno()
    lk = ls.lock("x")
    for _ in range(20):
        children = [holder(host, Mode.CR) for _ in range(2)]
        nodes = [child.hear() for child in children]
        for child in children:
            child.kill()
        assert lk.acquire(timeout=PATIENCE)
        lk.release()
        assert sorted(downs(ls, 2)) == sorted(nodes)
        for child in children:
            child.end()
    host.until(lambda: host.state(ls) == (1, 1, 1, 1))


def test_all_but_one_of_many(host: Host) -> None:
    ls = host.connect()
    ls.fileno()
    lk = ls.lock("x")
    children = [holder(host, Mode.CR) for _ in range(30)]
    nodes = {child.hear() for child in children}
    for child in children:
        child.kill()
    assert lk.acquire(timeout=PATIENCE)
    assert set(downs(ls, 30)) == nodes
    host.until(lambda: host.state(ls) == (1, 1, 1, 1))


def test_of_all_and_then_one_comes(host: Host) -> None:
    children = [holder(host, Mode.CR) for _ in range(3)]
    writer = host.child(lambda me: _hold(host, me, "y"))
    for child in [*children, writer]:
        child.hear()
    for child in [*children, writer]:
        child.kill()
    for child in [*children, writer]:
        child.end()
    ls = host.connect()
    assert ls.lock("x").acquire(timeout=PATIENCE)
    lk = ls.lock("y")
    assert lk.acquire(timeout=PATIENCE)
    host.until(lambda: host.state(ls)[2:] == (1, 1))
    ls.stack.arena.check()  # type: ignore[attr-defined]


def _hold(host: Host, me: Child, name: str) -> None:
    lk = host.connect().lock(name)
    lk.acquire()
    me.say("held")
    me.hear()


def test_where_two_watchers_are_stopped(host: Host) -> None:
    """The kernel wakes one sleeper on each of several lives."""
    where_watchers_are_stopped(host, 2)


def test_where_all_watchers_are_stopped(host: Host) -> None:
    """Nobody is woken; who waits notices by itself."""
    where_watchers_are_stopped(host, 3)


def where_watchers_are_stopped(host: Host, n: int) -> None:
    watchers = []
    for _ in range(n):  # one after the other: so they lie in front of the victim
        watchers.append(host.child(lambda me: _idle(host, me)))
        watchers[-1].hear()
    victim = holder(host, Mode.EX)
    victim.hear()
    ls = host.connect()
    lk = ls.lock("x")
    host.until(_core.helper_idle, "the helper to watch")
    for watcher in watchers:
        watcher.kill(signal.SIGSTOP)
        stat = Path(f"/proc/{watcher.pid}/stat")
        host.until(lambda stat=stat: stat.read_text().rpartition(")")[2].split()[0] == "T")
    victim.end()
    assert lk.acquire(timeout=5)
    for watcher in watchers:
        watcher.kill(signal.SIGCONT)
        watcher.say()
        assert watcher.hear() == "lives"


def _idle(host: Host, me: Child) -> None:
    ls = host.connect()
    me.say(ls.node)
    me.hear()
    me.say("lives")


def test_a_pid_that_is_used_again_is_another_process(host: Host) -> None:
    """A process is its pid and the time it began."""
    try:
        with open("/proc/sys/kernel/ns_last_pid", "w"):
            pass
    except OSError:
        pytest.skip("may not choose pids")
    ls = host.connect()
    ls.fileno()
    lk = ls.lock("x")
    for _ in range(50):
        victim = holder(host, Mode.EX)
        node = victim.hear()
        begun = _core.start_time(victim.pid)
        time.sleep(0.02)  # a tick of the clock that tells them apart
        victim.kill()
        os.waitpid(victim.pid, 0)
        victim.status = -signal.SIGKILL
        with open("/proc/sys/kernel/ns_last_pid", "w") as file:
            file.write(str(victim.pid - 1))
        heir = holder(host, Mode.EX)
        heir.hear()
        if heir.pid == victim.pid:
            break
        heir.end()
        downs(ls, 2)
    else:
        pytest.skip("others were faster, each time")
    assert _core.start_time(heir.pid) != begun
    assert downs(ls, 1) == [node]
    # The heir's lock was not taken for the dead one's.
    assert not lk.acquire(timeout=0.2)
    assert [s.client for s in ls.dump("x") if s.granted is Mode.EX] != [node]
    heir.end()
    assert lk.acquire(timeout=PATIENCE)


def test_who_dies_as_soon_as_it_has_joined_is_cleared_away(host: Host) -> None:
    """As those do who die while they join: see Connect in test_crash_processes.py."""
    ls = host.connect()
    for _ in range(5):
        child = host.child(lambda me: (host.connect(), os.kill(os.getpid(), signal.SIGKILL)))
        assert child.join() == -signal.SIGKILL
    host.until(lambda: host.state(ls)[2:] == (1, 1))


CROWD = """
import os, sys
import pydlm
name, stack, fd = sys.argv[1], sys.argv[2], int(sys.argv[3])
for _ in range(int(sys.argv[4])):
    if os.fork() == 0:
        ls = pydlm.connect(name, stack=stack)
        os.write(1, b".")
        os.read(fd, 1)
        os._exit(0)
os.close(1)
os.read(fd, 1)
"""


@pytest.mark.slow
def test_latency_from_sigkill_to_grant_among_200(host: Host, record_property: Any) -> None:
    """Measured and said; what is demanded is in the issue, and checked by the benchmark."""
    end, stay = os.pipe()
    ls = host.connect()
    crowd = subprocess.Popen(
        [sys.executable, "-c", CROWD, host.name, host.stack, str(end), "198"],
        stdout=subprocess.PIPE,
        pass_fds=[end],
    )
    os.close(end)
    assert crowd.stdout is not None
    try:
        host.until(lambda: len(ls.stack.arena.processes()) == 199, "the crowd", 60)  # type: ignore[attr-defined]
        lk = ls.lock("x")
        took = []
        for _ in range(30):
            victim = holder(host, Mode.EX)
            victim.hear()
            task = Task(lambda: (lk.acquire(timeout=PATIENCE), time.monotonic()))
            host.until(lambda: any(s.requested for s in ls.dump("x")))
            begun = time.monotonic()
            victim.kill()
            granted, at = task.result()
            assert granted
            took.append((at - begun) * 1000)
            lk.release()
            victim.end()
            host.children.remove(victim)
    finally:
        os.close(stay)  # ends them all
        crowd.stdout.close()
        assert crowd.wait(PATIENCE) == 0
    host.until(lambda: len(ls.stack.arena.processes()) == 1)  # type: ignore[attr-defined]
    median = statistics.median(took)
    record_property("median_ms", median)
    record_property("worst_ms", max(took))
    sys.stdout.write(f"\nSIGKILL to grant: median {median:.1f} ms, worst {max(took):.1f} ms\n")
    assert median < 5000


ENDS_WITH_EX = """
import sys, pydlm
ls = pydlm.connect(sys.argv[1], stack=sys.argv[2])
lk = ls.lock("x")
lk.acquire()
lk.lvb = b"half"
sys.exit("an error that nobody catches")
"""


def test_an_interpreter_that_ends_with_a_lock_in_hand(host: Host) -> None:
    """It has died, whatever of it is cleared up first: what it was changing is not whole."""
    ls = host.connect()
    lk = ls.lock("x")
    with lk:
        lk.lvb = b"whole"
    ls.dispatch()
    ended = subprocess.run(
        [sys.executable, "-c", ENDS_WITH_EX, host.name, host.stack], capture_output=True
    )
    assert ended.returncode == 1
    assert lk.acquire(timeout=PATIENCE)
    assert not lk.lvb_valid
    host.until(lambda: any(isinstance(e, NodeDown) for e in ls.dispatch()), "NodeDown")
