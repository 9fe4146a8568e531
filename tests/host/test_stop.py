"""A process that is stopped (SIGSTOP) delays nobody but those who wait for its locks."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.host.machine import Host
from tests.host.processes import PATIENCE, Child, Task

from pydlm import Cancelled, Mode, NodeDown


def stop(child: Child) -> None:
    """Stop it, and wait until it is."""
    child.kill(signal.SIGSTOP)
    give_up = PATIENCE
    while Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        select.select([], [], [], 0.001)
        give_up -= 0.001
        assert give_up > 0


def member(host: Host, *held: tuple[str, Mode]) -> Child:
    def body(me: Child) -> None:
        ls = host.connect()
        ls.fileno()
        locks = []
        for name, mode in held:
            locks.append(ls.lock(name))
            locks[-1].acquire(mode=mode)
        me.say(ls.node)
        me.hear()
        me.say([event.mode for event in ls.dispatch() if not isinstance(event, NodeDown)])
        for lk in locks:
            lk.release()
        me.say("released")
        me.hear()

    child = host.child(body)
    child.hear()
    return child


def test_of_one_that_holds_nothing(host: Host) -> None:
    stopped = [member(host) for _ in range(3)]
    for child in stopped:
        stop(child)
    ls = host.connect()  # others join,
    locks = [ls.lock(f"{n}") for n in range(200)]  # on every shard
    for lk in locks:
        with lk:
            lk.lvb = b"x"
    other = member(host, ("x", Mode.EX))
    lk = ls.lock("x")
    task = Task(lk.acquire)
    host.until(lambda: any(s.requested for s in ls.dump("x")))
    other.end()  # die, and are buried,
    assert task.result()
    last = member(host)  # and leave.
    last.say()
    assert last.hear() == []
    ls.close()


def test_of_one_that_holds_a_lock(host: Host) -> None:
    """Who asks for a lock that it holds waits; all else goes on, and the wait can end."""
    child = member(host, ("x", Mode.PR))
    stop(child)
    ls = host.connect()
    lk = ls.lock("x")
    assert lk.acquire(mode=Mode.PR, timeout=PATIENCE)
    lk.release()
    assert not lk.acquire(timeout=0.1)
    task = Task(lk.acquire)
    host.until(lambda: any(s.requested for s in ls.dump("x")))
    assert lk.cancel()
    with pytest.raises(Cancelled):
        task.result()
    for n in range(200):
        with ls.lock(f"{n}"):
            pass
    task = Task(lk.acquire)
    host.until(lambda: any(s.requested for s in ls.dump("x")))
    child.kill(signal.SIGCONT)
    child.say()
    assert child.hear() == [Mode.EX]  # it was told meanwhile
    assert task.result() is True


def test_one_that_is_stopped_and_killed(host: Host) -> None:
    child = member(host, ("x", Mode.EX))
    stop(child)
    lk = host.connect().lock("x")
    assert not lk.acquire(blocking=False)
    child.kill()
    assert lk.acquire(timeout=PATIENCE)
    assert not lk.lvb_valid


def test_one_that_is_granted_while_it_is_stopped(host: Host) -> None:
    def body(me: Child) -> None:
        own = host.connect().lock("x")
        me.say("ready")
        me.say(own.acquire(timeout=PATIENCE))
        me.hear()

    ls = host.connect()
    lk = ls.lock("x")
    lk.acquire()
    child = host.child(body)
    child.hear()
    host.until(lambda: lk.blocked is Mode.EX)
    stop(child)
    lk.release()
    assert not lk.acquire(blocking=False), "it is the other's, though that does not know yet"
    child.kill(signal.SIGCONT)
    assert child.hear() is True


def test_the_measurement_runs() -> None:
    program = Path(__file__).parents[2] / "benchmarks" / "stopped.py"
    said = subprocess.run(
        [sys.executable, str(program), "--stops", "50"],
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
    )
    assert said.returncode == 0, said.stderr
    assert "of 50 stops" in said.stdout
