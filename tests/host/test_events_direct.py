"""Events for a connection of another process: its descriptor is raised without that one's help."""

from __future__ import annotations

import os
import resource
from pathlib import Path

import pytest
from tests.host.machine import Host, readable
from tests.host.processes import Child

from pydlm import Blocked, LockFlag, Mode
from pydlm._core import helper_idle


def wakes_of_helper() -> int:
    """Return how often the helper thread of this process has gone to sleep."""
    threads = Path("/proc/self/task").iterdir()
    (helper,) = (t for t in threads if (t / "comm").read_text() == "pydlm-helper\n")
    status = (helper / "status").read_text()
    return int(status.partition("\nvoluntary_ctxt_switches:")[2].split()[0])


def test_helper_of_the_holder_sleeps_on(host: Host) -> None:
    def contend(me: Child) -> None:
        with host.connect() as ls:
            me.say()
            while me.hear():
                lkid = ls.stack.lock(b"r", Mode.EX)
                me.say()
                me.hear()
                ls.stack.unlock(lkid, LockFlag.CANCEL)

    child = host.child(contend)
    child.hear()
    ls = host.connect()
    with ls.lock("r") as lk:
        fd = ls.fileno()
        child.say(True)  # the first one has to make a duplicate of the descriptor
        child.hear()
        child.say()
        host.until(lambda: readable(fd), "the first notice")
        assert [type(event) for event in ls.dispatch()] == [Blocked]
        assert not readable(fd)
        before = wakes_of_helper()
        for _ in range(10):
            lk.convert(Mode.PR)  # notices begin anew
            lk.convert(Mode.EX)
            child.say(True)
            child.hear()
            assert readable(fd)
            assert wakes_of_helper() == before
            assert [type(event) for event in ls.dispatch()] == [Blocked]
            assert not readable(fd)
            child.say()
        child.say(False)
        assert child.join() == 0


@pytest.mark.parametrize("directly", [True, False])
@pytest.mark.parametrize("second", ["another lock", "the same lock"])
def test_the_next_one_tells_if_the_first_is_stopped(
    host: Host, second: str, directly: bool
) -> None:
    """Whoever put the first event down may be stopped before it tells the connection."""

    def contend(me: Child) -> None:
        with host.connect() as ls:
            if not directly:  # no room for duplicates: its helper is to do it
                resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
            me.say()
            me.hear()
            ls.stack.lock(b"a", Mode.PR)
            me.say()
            me.hear()
            ls.stack.lock(b"b" if second == "another lock" else b"a", Mode.EX)
            me.say()
            me.hear()

    child = host.child(contend)
    child.hear()
    ls = host.connect()
    with ls.lock("a"), ls.lock("b"):
        fd = ls.fileno()
        child.say()
        child.hear()
        host.until(lambda: readable(fd) and helper_idle(), "the first notice")
        os.eventfd_read(fd)  # as if it had not been raised yet
        child.say()
        child.hear()
        host.until(lambda: readable(fd), "the second notice")
        assert {type(event) for event in ls.dispatch()} == {Blocked}
        assert not readable(fd)
        child.say()
        assert child.join() == 0


def test_what_is_raised_too_late_is_lowered(host: Host) -> None:
    ls = host.connect()
    fd = ls.fileno()
    os.eventfd_write(fd, 1)  # as one does who was stopped before it, until all was read
    other = host.child(lambda me: host.connect().close())  # has our helper look
    assert other.join() == 0
    host.until(lambda: not readable(fd), "the descriptor to be lowered")
