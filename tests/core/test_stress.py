"""Many threads on few resources; what must hold is checked by who holds, in plain Python."""

from __future__ import annotations

import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from pydlm import (
    Busy,
    Cancelled,
    Closed,
    DeadlockError,
    LVBInvalid,
    Mode,
    NotHeld,
)


@pytest.fixture(autouse=True)
def hurried() -> Iterator[None]:
    """Other threads come in between any two steps, not only where one waits."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


MODES = [Mode.CR, Mode.CW, Mode.PR, Mode.PW, Mode.EX]


class Witness:
    """Knows who holds a resource in what mode; kept under the GIL, within the lock's own time."""

    def __init__(self) -> None:
        self.holders: dict[int, Mode] = {}
        self.guard = threading.Lock()
        self.value = 0

    def enter(self, who: int, mode: Mode) -> None:
        with self.guard:
            for other, held in self.holders.items():
                if other != who:
                    assert held.compatible(mode), f"{held.name} and {mode.name} at once"
            self.holders[who] = mode

    def leave(self, who: int) -> None:
        with self.guard:
            del self.holders[who]


def number_in(block: bytes) -> int:
    return int.from_bytes(block[:8], "little")


def use(lk: Any, witness: Witness, who: int, rng: random.Random) -> None:
    """What a holder does: look, change, convert, and never find what cannot be."""
    mode = lk.granted
    witness.enter(who, mode)
    try:
        if mode >= Mode.PR:
            assert number_in(lk.lvb) == witness.value
        if mode == Mode.EX:
            witness.value += 1
            lk.lvb = witness.value.to_bytes(8, "little")
            if rng.random() < 0.1:
                time.sleep(0)
            assert number_in(lk.lvb) == witness.value
        if rng.random() < 0.3:
            down = rng.choice([m for m in MODES if m <= mode])
            if {mode, down} != {Mode.CW, Mode.PR}:
                witness.enter(who, down)  # before others may come
                lk.convert(down)
        elif rng.random() < 0.2:
            # Others may come in while it waits; in the old mode we are all the time.
            try:
                if lk.convert(Mode.EX, timeout=rng.random() * 0.002):
                    witness.enter(who, Mode.EX)
                    assert number_in(lk.lvb) == witness.value
            except DeadlockError:
                pass
    finally:
        witness.leave(who)


@pytest.mark.parametrize("connections", [1, 3])
@pytest.mark.parametrize("shared", [False, True])
def test_all_modes_at_once(world: Any, connections: int, shared: bool) -> None:
    spaces = [world.connect(deadlock_wait=0.05) for _ in range(connections)]
    names = ["a", "b", "c"]
    witnesses = {name: Witness() for name in names}
    common = {name: spaces[0].lock(name) for name in names}
    keep = [spaces[0].lock(name) for name in names]
    counts: Counter[str] = Counter()

    def work(number: int) -> None:
        rng = random.Random(number)
        space = spaces[number % connections]
        own = {name: space.lock(name) for name in names}
        for _ in range(1200):
            name = rng.choice(names)
            in_common = shared and rng.random() < 0.5
            lk = common[name] if in_common else own[name]
            mode = rng.choice(MODES)
            how = rng.random()
            try:
                if how < 0.2:
                    got = lk.acquire(blocking=False, mode=mode)
                elif how < 0.5:
                    got = lk.acquire(timeout=rng.random() * 0.003, mode=mode)
                else:
                    got = lk.acquire(mode=mode)
            except DeadlockError:
                counts["deadlock"] += 1
                continue
            counts["got" if got else "not"] += 1
            if got:
                try:
                    use(lk, witnesses[name], number, rng)
                finally:
                    lk.release()

    world.finish([world.worker(work, i) for i in range(8)])
    assert counts["got"] > 500
    for name, lk in zip(names, keep, strict=True):
        with lk:
            assert number_in(lk.lvb) == witnesses[name].value > 0
    spaces[0].stack.arena.check()
    assert all(s.granted == Mode.NL and s.requested is None for s in spaces[0].dump())


def test_writers_count_up(world: Any) -> None:
    # What lvb_torture does: whoever has EX adds one, every reader looks.
    spaces = [world.connect() for _ in range(4)]
    n, stop = 1500, threading.Event()

    def write(number: int) -> None:
        lk = spaces[number].lock("counter")
        for _ in range(n):
            with lk:
                lk.lvb = (number_in(lk.lvb) + 1).to_bytes(8, "little")

    def read(number: int) -> None:
        lk, last = spaces[number].lock("counter"), 0
        while not stop.is_set():
            with lk.held(Mode.PR):
                now = number_in(lk.lvb)
            assert now >= last
            last = now

    keep = spaces[0].lock("counter")
    readers = [world.worker(read, i) for i in range(2)]
    writers = [world.worker(write, i) for i in range(4)]
    world.finish(writers)
    stop.set()
    world.finish(readers)
    with keep:
        assert number_in(keep.lvb) == 4 * n


def test_everything_comes_and_goes(world: Any) -> None:
    # Handles are closed and cancelled under those who wait, connections leave and die.
    anchor = world.connect(deadlock_wait=0.01)
    names = ["a", "b"]
    keep = [anchor.lock(name) for name in names]
    witnesses = {name: Witness() for name in names}
    living: list[Any] = []
    end = time.monotonic() + 4
    counts: Counter[str] = Counter()

    def work(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < end:
            ls = world.connect(deadlock_wait=rng.choice([0, 0.01, None]))
            world.spaces.remove(ls)
            locks = [ls.lock(name) for name in names]
            living.extend(locks)
            for lk in locks:
                if rng.random() < 0.3:
                    lk.fileno()
            if rng.random() < 0.3:
                ls.fileno()
            for _ in range(rng.randrange(40)):
                lk = rng.choice(locks)
                try:
                    if lk.acquire(mode=rng.choice(MODES), timeout=rng.random() * 0.01):
                        witness = witnesses[names[locks.index(lk)]]
                        witness.enter(number, lk.granted)
                        time.sleep(rng.random() * 0.0002)
                        if lk.granted >= Mode.PW:
                            try:
                                assert len(lk.lvb) == 64
                            except LVBInvalid:
                                counts["invalid"] += 1
                                lk.lvb = b"rebuilt"
                        witness.leave(number)
                        lk.release()
                        counts["got"] += 1
                except (Cancelled, Closed, DeadlockError, NotHeld, Busy) as error:
                    counts[type(error).__name__] += 1
                    witnesses[names[locks.index(lk)]].holders.pop(number, None)
                ls.dispatch(2)
            how = rng.random()
            if how < 0.3:
                ls.stack.abandon()
            elif how < 0.6:
                ls.close()
            for lk in locks:
                living.remove(lk)
                if how > 0.8:
                    lk.close()
            ls.close()

    def disturb() -> None:
        rng = random.Random(99)
        while time.monotonic() < end:
            # Only those that wait: to take a lock away from its holder is the holder's business.
            for lk in rng.sample(living, min(len(living), 3)):
                try:
                    if lk.requested is not None:
                        lk.cancel()
                except Closed:
                    pass
            anchor.dump()
            anchor.dispatch()
            time.sleep(0.0005)

    world.finish([world.worker(work, i) for i in range(6)] + [world.worker(disturb)])
    assert counts["got"] > 100, counts
    anchor.stack.arena.check()
    assert world.usage(anchor) == (2, 2)
    for lk in keep:
        assert lk.acquire(timeout=5)


def test_handles_closed_under_their_users(world: Any) -> None:
    ls = world.connect(deadlock_wait=0.005)
    end = time.monotonic() + 2
    current = [ls.lock("x") for _ in range(4)]

    def work(number: int) -> None:
        rng = random.Random(number)
        while time.monotonic() < end:
            lk = current[rng.randrange(4)]
            try:
                with lk.held(rng.choice(MODES), timeout=0.01):
                    if lk.granted >= Mode.PW:
                        lk.lvb = b"x"
                    lk.convert(Mode.CR)
            except (Closed, NotHeld, Busy, DeadlockError, Cancelled, TimeoutError):
                pass

    def replace() -> None:
        rng = random.Random(7)
        while time.monotonic() < end:
            i = rng.randrange(4)
            old, current[i] = current[i], ls.lock("x")
            old.close()
            time.sleep(0.0002)

    world.finish([world.worker(work, i) for i in range(6)] + [world.worker(replace)])
    assert world.usage() == (4, 1)
    ls.stack.arena.check()
