"""A million operations, after which the process has no more of anything than before."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pydlm
from pydlm import LockFlag, Mode

#: A sanitizer keeps what was freed, so memory grows there.
pytestmark = pytest.mark.slow

PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def belongings() -> tuple[int, int]:
    return len(os.listdir("/proc/self/fd")), threading.active_count()


def acquire_and_release(ls: Any, other: Any, n: int) -> None:
    lk = ls.lock("x")
    for _ in range(n // 2):
        lk.acquire()
        lk.release()


def all_modes(ls: Any, other: Any, n: int) -> None:
    lk, beside = ls.lock("x"), other.lock("x")
    beside.acquire(mode=Mode.CR)
    for i in range(n // 3):
        lk.acquire(mode=Mode.PR)
        lk.convert(Mode.PW)
        lk.lvb = i.to_bytes(8, "little")
        lk.release()
    beside.release()


def open_and_close(ls: Any, other: Any, n: int) -> None:
    for i in range(n // 4):
        lk = ls.lock(f"resource {i % 1000} {'with a long name' * (i % 3)}")
        lk.acquire()
        lk.lvb = b"x"
        lk.close()


def time_outs(ls: Any, other: Any, n: int) -> None:
    lk, asks = ls.lock("x"), other.lock("x")
    with lk:
        for _ in range(n):
            asks.acquire(timeout=0)


def descriptors(ls: Any, other: Any, n: int) -> None:
    asks = other.lock("x")
    for _ in range(n // 5):
        lk = ls.lock("x")
        lk.acquire()
        lk.fileno()
        asks.acquire(timeout=0)
        lk.close()


def events(ls: Any, other: Any, n: int) -> None:
    ls.fileno()
    lk, asks = ls.lock("x"), other.lock("x")
    for _ in range(n // 4):
        lk.acquire()
        asks.acquire(timeout=0)
        ls.dispatch()
        lk.release()


def events_that_nobody_reads(ls: Any, other: Any, n: int) -> None:
    ls.fileno()
    lk, asks = ls.lock("x"), other.lock("x")
    for _ in range(n // 3):
        lk.acquire()
        asks.acquire(timeout=0)
        lk.release()


def connections(ls: Any, other: Any, n: int) -> None:
    for i in range(n // 100):
        mine = pydlm.connect(ls.name, stack="local")
        lk = mine.lock("x")
        lk.acquire()
        (mine.stack.abandon if i % 2 else mine.close)()
    ls.dispatch()
    other.dispatch()


def raw_verbs(ls: Any, other: Any, n: int) -> None:
    stack = ls.stack
    for _ in range(n // 3):
        lkid = stack.lock("x", Mode.EX, LockFlag.VALBLK)
        stack.convert(lkid, Mode.NL, LockFlag.VALBLK, lvb=b"x")
        stack.unlock(lkid)
        stack.dispatch()


def hand_overs(ls: Any, other: Any, n: int) -> None:
    shared = ls.lock("x")

    def work(lk: Any) -> None:
        for _ in range(n // 8):
            with lk:
                pass

    threads = [
        threading.Thread(target=work, args=(lk,))
        for lk in (ls.lock("x"), other.lock("x"), shared, shared)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def deadlocks(ls: Any, other: Any, n: int) -> None:
    ls.deadlock_wait, other.deadlock_wait = 0, None
    mine, wanted = ls.lock("x"), ls.lock("y")
    held, asked = other.lock("y"), other.lock("x")

    def wait() -> None:
        with held, asked:
            pass

    with mine:
        thread = threading.Thread(target=wait)
        thread.start()
        while asked.requested is None:
            time.sleep(0.001)
        for _ in range(n // 20):
            with pytest.raises(pydlm.DeadlockError):
                wanted.acquire()
    thread.join()


LOADS: dict[Callable[[Any, Any, int], None], int] = {
    acquire_and_release: 300_000,
    all_modes: 150_000,
    open_and_close: 120_000,
    time_outs: 100_000,
    descriptors: 40_000,
    events: 60_000,
    events_that_nobody_reads: 60_000,
    connections: 30_000,
    raw_verbs: 60_000,
    hand_overs: 60_000,
    deadlocks: 20_000,
}


def test_it_is_a_million() -> None:
    assert sum(LOADS.values()) >= 1_000_000


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.__name__)
def test_nothing_grows(world: Any, load: Callable[[Any, Any, int], None]) -> None:
    ls, other = world.connect(), world.connect()
    n = LOADS[load]
    load(ls, other, n // 10)  # what is made once and kept
    gc.collect()
    memory, before, usage = resident(), belongings(), world.usage()
    load(ls, other, n - n // 10)
    gc.collect()
    assert belongings() == before
    assert world.usage() == usage
    assert resident() - memory < 1 << 20
    ls.stack.arena.check()
