"""How the tests of blocking locks force their interleavings."""

from __future__ import annotations

import select
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

from pydlm import Lockspace, Mode
from pydlm.blocking import StackLock

SOON = 10.0  # seconds until a test gives up on what has to happen


def until(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + SOON
    while not condition():
        assert time.monotonic() < give_up, "what was waited for does not come"
        time.sleep(0.0005)


def queued(ls: Lockspace, name: str, n: int = 1) -> None:
    """Wait until `n` requests stand in the lock manager's queues for `name`."""
    until(lambda: sum(k.requested is not None for k in ls.dump(name)) == n)


class Thread(threading.Thread):
    """A thread whose result, or exception, is asked for."""

    def __init__(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(daemon=True)
        self.run_this = lambda: function(*args, **kwargs)
        self.outcome: Any = None
        self.error: BaseException | None = None
        self.begun = threading.Event()
        self.start()

    def run(self) -> None:
        try:
            self.begun.set()
            self.outcome = self.run_this()
        except BaseException as error:
            self.error = error

    def result(self) -> Any:
        self.join(SOON)
        assert not self.is_alive(), "it waits for ever"
        if self.error is not None:
            raise self.error
        return self.outcome


def in_line(lk: Any, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Thread:
    """Start a thread that comes to wait for the handle. Needs `sleeps_first`."""
    before = len(lk._line) if isinstance(lk, StackLock) else 0
    thread = Thread(function, *args, **kwargs)
    thread.begun.wait()
    if isinstance(lk, StackLock):  # the native lock shows no line, but it stands in it by now
        until(lambda: len(lk._line) > before)
    return thread


def readable(thing: Any, seconds: float = 0) -> bool:
    return bool(select.select([thing], [], [], seconds)[0])


def nothing_left(ls: Lockspace, name: str = "r") -> None:
    """Nobody holds or waits for `name`: neither does the lock manager know of anybody."""
    until(lambda: all(k.granted is Mode.NL and k.requested is None for k in ls.dump(name)))


class Interrupt(Exception):
    """What a signal handler raises."""


def strike(struck: threading.Event) -> None:
    """Send SIGUSR1 to the main thread, whose handler sets `struck`."""
    # Once is not enough: a signal that comes just before the main thread goes to sleep is not
    # acted upon before it wakes up.
    while not struck.is_set():
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
        struck.wait(0.05)
