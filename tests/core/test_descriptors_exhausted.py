"""Where the process may have no more descriptors, only what needs one fails."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
from collections.abc import Iterator
from typing import Any

import pytest

from pydlm import Mode


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(OSError, match="Too many open files"):
            os.dup(0)
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_handle_without_a_descriptor(world: Any, readable: Any) -> None:
    ls = world.connect()
    lk, other = ls.lock("x"), ls.lock("x")
    lk.acquire()
    waiting = world.thread(other.acquire)
    world.queued(ls, "x")
    with no_descriptors():
        for _ in range(3):
            with pytest.raises(OSError, match="Too many open files") as excinfo:
                lk.fileno()
            assert excinfo.value.errno == errno.EMFILE
        assert lk.locked() and lk.blocked == Mode.EX
        lk.lvb = b"unharmed"
        assert lk.convert(Mode.PW) and lk.blocked == Mode.EX
        lk.release()
        assert waiting.result() and other.lvb[:8] == b"unharmed"
        other.release()
    assert not readable(lk)
    lk.acquire()
    waiting = world.thread(other.acquire)
    assert readable(lk, 10)
    lk.release()
    assert waiting.result() and not readable(lk)


def test_a_connection_without_a_descriptor(world: Any, readable: Any) -> None:
    ls, other = world.connect(), world.connect()
    with no_descriptors():
        with pytest.raises(OSError, match="Too many open files") as excinfo:
            ls.fileno()
        assert excinfo.value.errno == errno.EMFILE
        third = world.connect()  # needs none
        with ls.lock("x") as lk:
            assert ls.dispatch() == []
            assert not third.lock("x").acquire(timeout=0)
            assert [(e.mode, e.lock) for e in ls.dispatch()] == [(Mode.EX, lk)]
    assert not readable(ls)
    with ls.lock("x"):
        other.lock("x").acquire(timeout=0)
        assert readable(ls)
        assert len(ls.dispatch()) == 1


def test_a_descriptor_that_is_there_keeps_working(world: Any, readable: Any) -> None:
    ls = world.connect()
    lk, other = ls.lock("x"), ls.lock("x")
    fd, events = lk.fileno(), ls.fileno()
    lk.acquire()
    with no_descriptors():
        assert (lk.fileno(), ls.fileno()) == (fd, events)
        waiting = world.thread(other.acquire)
        world.queued(ls, "x")
        lk_blocks, has_events = readable(fd), readable(events)
        lk.release()
        assert waiting.result()
    assert lk_blocks and has_events and not readable(fd)


def test_closing_frees_descriptors(world: Any) -> None:
    ls = world.connect()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        locks = [ls.lock(f"r{i}") for i in range(200)]
        assert len({lk.fileno() for lk in locks}) == 200
        for lk in locks:
            lk.close()
    del locks
    assert len(os.listdir("/proc/self/fd")) == before
