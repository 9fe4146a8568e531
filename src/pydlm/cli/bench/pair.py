"""Two threads that all programs of a comparison run in."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Pair"]


class Pair:
    """Two threads that stay the same for all programs: the caller's, and one more."""

    def __init__(self) -> None:
        self._work: Callable[[], None] | None = None
        self._begin = threading.Semaphore(0)
        self._done = threading.Semaphore(0)
        self._other = threading.Thread(target=self._serve, name="other")
        self._other.start()

    def run(self, here: Callable[[], None], there: Callable[[], None]) -> None:
        """Run `here` in this thread and `there` in the other, at once."""
        self._work = there
        self._begin.release()
        here()
        self._done.acquire()

    def _serve(self) -> None:
        while True:
            self._begin.acquire()
            if self._work is None:
                return
            self._work()
            self._done.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._work = None
        self._begin.release()
        self._other.join()
