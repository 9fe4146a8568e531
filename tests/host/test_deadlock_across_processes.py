"""A cycle of processes that wait for each other: one of them is told, and the others go on."""

from __future__ import annotations

import os
import signal

import pytest
from tests.host.machine import Host
from tests.host.processes import PATIENCE, Child

from pydlm import DeadlockError, Mode


def cycle(host: Host, n: int, *, wait: float = 0.2) -> list[Child]:
    """Start `n` processes; each holds a resource, and then asks for that of the next."""

    def body(me: Child, number: int) -> None:
        ls = host.connect(deadlock_wait=wait)
        mine, next_ = ls.lock(f"r{number}"), ls.lock(f"r{(number + 1) % n}")
        mine.acquire()
        me.say("held")
        me.hear()
        try:
            got = next_.acquire(timeout=PATIENCE)
        except DeadlockError as error:
            me.say((str(error), error.cycle))
            me.hear()
            mine.release()
        else:
            me.say(got)
            me.hear()
            next_.release()
            mine.release()
        me.say("over")

    children = [host.child(lambda me, number=number: body(me, number)) for number in range(n)]
    for child in children:
        assert child.hear() == "held"
    return children


@pytest.mark.parametrize("n", [2, 3, 8])
def test_exactly_one_is_told(n: int, host: Host) -> None:
    watcher = host.connect()
    children = cycle(host, n)
    for child in children:
        child.say()
    host.until(lambda: any(child.link.poll() for child in children))
    told = [child for child in children if child.link.poll()]
    assert len(told) == 1
    text, members = told[0].hear()
    first = children.index(told[0])
    assert [member.resource for member in members] == [
        b"r%d" % ((first + 1 + step) % n) for step in range(n)
    ]
    for step, member in enumerate(members):
        pid = children[(first + step) % n].pid
        assert str(pid) in member.owner
        assert str(pid) in text
        assert (member.wanted, member.held) == (Mode.EX, Mode.NL)
        assert member.resource.decode() in text
    # Nobody else is told, though the one that was still holds its lock.
    assert sum(s.requested is not None for s in watcher.dump()) == n - 1
    told[0].say()
    assert told[0].hear() == "over"
    order = [children[(first - step) % n] for step in range(1, n)]
    for child in order:
        assert child.hear() is True
        child.say()
        assert child.hear() == "over"
    for child in children:
        assert child.join() == 0
    host.until(lambda: host.state(watcher) == (0, 0, 1, 1))


def test_of_conversions(host: Host) -> None:
    """Two readers that both want to write."""

    def body(me: Child) -> None:
        lk = host.connect(deadlock_wait=0.2).lock("x")
        lk.acquire(mode=Mode.PR)
        me.say("held")
        me.hear()
        try:
            me.say(lk.convert(Mode.EX, timeout=PATIENCE))
        except DeadlockError as error:
            pids = [member.owner for member in error.cycle]
            lk.release()
            me.say(pids)
        me.hear()

    children = [host.child(body) for _ in range(2)]
    for child in children:
        assert child.hear() == "held"
    for child in children:
        child.say()
    said = [child.hear() for child in children]
    assert True in said
    (pids,) = [each for each in said if each is not True]
    assert all(any(str(child.pid) in owner for owner in pids) for child in children)


def test_who_dies_breaks_it(host: Host) -> None:
    children = cycle(host, 3, wait=3600)
    watcher = host.connect()
    for child in children:
        child.say()
    host.until(lambda: sum(s.requested is not None for s in watcher.dump()) == 3)
    children[1].end()
    assert children[0].hear() is True
    children[0].say()
    assert children[0].hear() == "over"
    assert children[2].hear() is True


def test_one_that_is_stopped_is_no_deadlock(host: Host) -> None:
    """Waiting long for somebody who would go on is none."""

    def body(me: Child) -> None:
        lk = host.connect(deadlock_wait=0.05).lock("x")
        me.say("ready")
        me.say(lk.acquire(timeout=PATIENCE))

    lk = host.connect().lock("x")
    lk.acquire()
    children = [host.child(body) for _ in range(3)]
    for child in children:
        child.hear()
    host.until(lambda: lk.blocked is Mode.EX)
    os.kill(children[0].pid, signal.SIGSTOP)
    # It goes on waiting for longer than it takes to search for a cycle, several times over.
    assert not children[1].link.poll(0.5)
    os.kill(children[0].pid, signal.SIGCONT)
    lk.release()
    assert children[0].hear() is True
