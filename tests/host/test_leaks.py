"""Nothing is left of who comes and goes."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from tests.host.machine import Host
from tests.host.processes import Child

import pydlm
from pydlm import Mode, NodeDown
from pydlm.stacks.host.admin import open_view


def belongings() -> tuple[int, int, int]:
    """Descriptors, mappings of lockspaces, threads."""
    maps = Path("/proc/self/maps").read_text()
    return len(os.listdir("/proc/self/fd")), maps.count(".dlm"), len(os.listdir("/proc/self/task"))


def test_a_thousand_connections_one_after_the_other(host: Host) -> None:
    def body(me: Child) -> None:
        def once() -> None:
            ls = pydlm.connect(host.name, stack=host.stack, capacity=255)
            ls.fileno()
            lk, other = ls.lock("x"), ls.lock("y" * 60)
            lk.fileno()
            with lk:
                lk.lvb = b"x"
            other.acquire(mode=Mode.PR)
            ls.stack.lock(b"z", Mode.EX)
            ls.close()

        once()  # from then on there is a helper
        gc.collect()
        before = belongings()
        for _ in range(1000):
            once()
        gc.collect()
        assert belongings() == before
        assert before[1] == 0
        view = open_view(host.name, host.directory)
        assert view.processes() == []
        assert (view.usage()["locks"], view.usage()["resources"]) == (0, 0)
        me.say("done")

    child = host.child(body)
    assert child.hear() == "done"
    ls = host.connect()
    assert host.state(ls) == (0, 0, 1, 1)
    ls.stack.arena.check()  # type: ignore[attr-defined]


def test_a_thousand_that_are_not_closed(host: Host) -> None:
    def body(me: Child) -> None:
        host.connect()
        before = None
        for n in range(1000):
            ls = pydlm.connect(host.name, stack=host.stack)
            ls.fileno()
            lk = ls.lock("x")
            lk.acquire()
            lk.fileno()
            del ls, lk
            if n == 0:
                before = belongings()
        gc.collect()
        assert belongings() == before
        me.say(host.state(host.spaces[0]))
        me.hear()

    child = host.child(body)
    assert child.hear() == (0, 0, 1, 1)


@pytest.mark.slow
def test_a_hundred_processes_that_die(host: Host) -> None:
    """More than there are deaths, connections or processes to remember would be too slow here."""
    ls = host.connect()
    ls.fileno()

    def body(me: Child) -> None:
        own = pydlm.connect(host.name, stack=host.stack)
        locks = [own.lock(f"{n}" * 30) for n in range(10)]
        for lk in locks:
            lk.acquire(mode=Mode.PR)
        me.say()
        me.hear()

    seen: set[int] = set()
    for _ in range(100):
        child = host.child(body)
        child.hear()
        child.end()
        host.children.remove(child)
        seen |= {event.node for event in ls.dispatch() if isinstance(event, NodeDown)}
    host.until(lambda: host.state(ls) == (0, 0, 1, 1))
    seen |= {event.node for event in ls.dispatch() if isinstance(event, NodeDown)}
    assert len(seen) == 100
    ls.stack.arena.check()  # type: ignore[attr-defined]


def test_many_lockspaces_of_one_process(host: Host) -> None:
    def body(me: Child) -> None:
        gc.collect()  # what was forked along
        before = belongings()[:2]
        for _ in range(2):
            spaces = [host.connect(f"n{n}") for n in range(60)]
            assert all(ls.lock("x").acquire() for ls in spaces)
            with pytest.raises(pydlm.LockspaceFull):
                host.connect("one more")
            host.spaces.clear()
            for ls in spaces:
                ls.close()
            spaces.clear()
            del ls
            gc.collect()
            assert belongings()[:2] == before
        me.say("done")

    assert host.child(body).hear() == "done"
