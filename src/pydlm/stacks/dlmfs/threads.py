"""Threads for calls that may block: each waits for one file."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

__all__ = ["Threads"]

_IDLE_SECONDS = 10.0


class Threads:
    """As many daemon threads as calls are under way; who is done stays a while for others."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._guard = threading.Lock()
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._idle = 0
        self._closed = False

    def do(self, work: Callable[[], object]) -> None:
        """Have a thread work; what that raises is lost. Raises RuntimeError without threads."""
        with self._guard:
            claimed = self._idle > 0
            self._idle -= claimed
        if claimed:
            self._work.put(work)
        else:
            threading.Thread(target=self._run, args=(work,), name=self._name, daemon=True).start()

    def close(self) -> None:
        """Let threads end that have nothing to do, and the others as soon as they are done."""
        with self._guard:
            self._closed = True
            for _ in range(self._idle):
                self._work.put(None)
            self._idle = 0

    def _run(self, work: Callable[[], object] | None) -> None:
        while work is not None:
            with contextlib.suppress(Exception):
                work()
            work = None  # with what it refers to
            with self._guard:
                if self._closed:
                    return
                self._idle += 1
            while True:
                try:
                    work = self._work.get(timeout=_IDLE_SECONDS)
                    break
                except Empty:
                    with self._guard:
                        if self._idle > 0:
                            self._idle -= 1
                            return
                    # Somebody counts on us, and is about to say for what.
