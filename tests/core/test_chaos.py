"""Everything at once on a few handles, which are closed and collected under those who use them."""

from __future__ import annotations

from typing import Any

import pytest


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_everything_at_once(alone: Any, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setenv("SEED", str(seed))
    alone(_chaos, timeout=60.0)


def _chaos() -> None:
    import contextlib
    import gc
    import os
    import random
    import signal
    import sys
    import threading
    import time
    import warnings

    import pydlm
    from pydlm import LockFlag, Mode

    warnings.simplefilter("ignore", ResourceWarning)
    sys.setswitchinterval(2e-5)
    seed = int(os.environ["SEED"])
    modes = list(Mode)[1:]

    def connect():
        return pydlm.connect("x", deadlock_wait=0.02, capacity=64)

    keep = connect()
    spaces = [connect() for _ in range(3)]
    handles = [None] * 12
    end = time.monotonic() + 3
    wrong = []

    def take(rnd, lk):
        if lk.acquire(timeout=rnd.random() * 0.01, mode=rnd.choice(modes)):
            if rnd.random() < 0.3:
                lk.lvb = os.urandom(8)
            if rnd.random() < 0.7:
                lk.release()

    def hold(rnd, lk):
        with lk.held(rnd.choice(modes), True, 0.01):
            pass

    def leave(rnd, lk):
        i = rnd.randrange(len(spaces))
        old, spaces[i] = spaces[i], connect()
        (old.stack.abandon if rnd.random() < 0.3 else old.close)()

    def drop(rnd, lk):
        handles[rnd.randrange(len(handles))] = None

    def dispatch(rnd, lk):
        for space in spaces:
            for event in space.dispatch():
                if getattr(event, "lock", None) is not None:
                    event.lock.locked()

    def verbs(rnd, lk):
        stack = rnd.choice(spaces).stack
        flags = rnd.choice([LockFlag(0), LockFlag.VALBLK])
        lkid = stack.lock(f"r{rnd.randrange(3)}", rnd.choice(list(Mode)), flags)
        if rnd.random() < 0.5:
            stack.unlock(lkid, LockFlag.CANCEL)
        stack.unlock(lkid, LockFlag.FORCEUNLOCK)

    often = [
        (28, take),
        (20, lambda rnd, lk: lk.release()),
        (10, lambda rnd, lk: lk.convert(rnd.choice(modes), True, rnd.random() * 0.01)),
        (12, hold),
        (5, lambda rnd, lk: lk.cancel()),
        (3, lambda rnd, lk: lk.close()),
        (4, lambda rnd, lk: lk.fileno()),
        (4, lambda rnd, lk: (lk.blocked, lk.lvb)),
        (4, dispatch),
        (2, lambda rnd, lk: rnd.choice(spaces).fileno()),
        (2, lambda rnd, lk: spaces[0].dump()),
        (1, leave),
        (2, drop),
        (3, verbs),
    ]
    weights, calls = [weight for weight, _ in often], [call for _, call in often]

    def work(number):
        rnd = random.Random(100 * seed + number)
        while time.monotonic() < end:
            i = rnd.randrange(len(handles))
            try:
                lk = handles[i]
                if lk is None or rnd.random() < 0.02:
                    handles[i] = rnd.choice(spaces).lock(f"r{rnd.randrange(3)}")
                else:
                    rnd.choices(calls, weights)[0](rnd, lk)
            except pydlm.DlmError:
                pass
            except Exception as error:
                wrong.append(error)
            lk = None

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()

    class Signalled(Exception):
        pass

    armed = False

    def handler(*_):
        if armed:
            raise Signalled

    signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0037)
    rnd = random.Random(seed)
    while time.monotonic() < end:
        with contextlib.suppress(Signalled, pydlm.DlmError):
            lk = rnd.choice(handles)
            if lk is not None:
                try:
                    armed = True
                    hold(rnd, lk)
                finally:
                    armed = False
        armed = False
        lk = None
    signal.setitimer(signal.ITIMER_REAL, 0)

    while any(thread.is_alive() for thread in threads):
        for lk in handles:  # what somebody did not release, others wait for
            for call in (lk.cancel, lk.release) if lk is not None else ():
                with contextlib.suppress(pydlm.DlmError):
                    call()
        time.sleep(0.01)
    assert not wrong, wrong
    keep.stack.arena.check()
    lk = call = None  # a connection that two replaced at once lasts as long as a lock of it
    handles.clear()
    for space in spaces:
        space.close()
    gc.collect()
    assert keep.stack.arena.usage()["locks"] == 0, keep.dump()
