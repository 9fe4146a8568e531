"""Signal handlers that raise, at any moment of a use: nothing of it is left, and nobody is lost."""

from __future__ import annotations

import random
import signal
import threading
import time

from tests.core.conftest import World


class Struck(Exception):
    pass


def test_struck_anywhere(world: World) -> None:
    a, b = (world.connect().cached("r", on_drop=lambda lock, mode: None) for _ in range(2))
    chance, over, armed = random.Random(4), threading.Event(), [False]

    def strike(*_: object) -> None:
        if armed[0]:
            armed[0] = False
            raise Struck

    def use(seed: int) -> None:
        chance = random.Random(seed)
        while not over.is_set():
            with (a if seed else b).exclusive() if chance.random() < 0.5 else b.shared():
                pass

    others = [world.worker(use, seed) for seed in range(3)]
    before = signal.signal(signal.SIGALRM, strike)
    struck, end = 0, time.monotonic() + 1.5
    try:
        while time.monotonic() < end:
            try:
                armed[0] = True
                signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-6, 3e-4))
                while True:
                    with a.exclusive(timeout=20):
                        pass
                    with a.shared():
                        pass
            except Struck:
                struck += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        over.set()
    world.finish(others)
    assert struck > 10
    for lock in (a, b):
        lock.drop()
        assert (lock.shared_uses, lock.exclusive_uses) == (0, 0)
        assert not lock._kept.machine._line
