"""Users' on_drop callbacks, in a thread of their own: a slow one keeps no other lock waiting."""

from __future__ import annotations

import contextlib
import logging
from queue import SimpleQueue
from typing import TYPE_CHECKING

from pydlm.cached.kept import Kept
from pydlm.cached.worker import Worker
from pydlm.types import Mode

if TYPE_CHECKING:
    from pydlm.cached.keeper import Keeper

__all__ = ["Callbacks"]

_log = logging.getLogger("pydlm")


class Callbacks:
    """Runs one callback after the other. The thread is begun where the first lock is opened."""

    def __init__(self) -> None:
        self._worker = Worker(self._work, "pydlm-on-drop")
        #: Have the thread begin, in the user's own, where it can be told that there is none.
        self.start = self._worker.start
        self.is_own_thread = self._worker.is_current
        #: The lock whose callback runs now.
        self.running: Kept | None = None
        self._queue: SimpleQueue[tuple[Keeper, Kept, Mode] | None] = SimpleQueue()

    def run(self, keeper: Keeper, kept: Kept, mode: Mode) -> None:
        """Have a lock's on_drop called; its machine is told when that has returned."""
        self._queue.put((keeper, kept, mode))

    def stop(self) -> None:
        """Return when the thread has ended. What has not begun is not run."""
        self._queue.put(None)
        self._worker.end()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            keeper, kept, mode = job
            self.running = kept
            try:
                self._call(kept, mode)
            finally:
                self.running = None
                keeper.post((kept, kept.machine.dropped, (mode,)))
            del job, keeper, kept

    def _call(self, kept: Kept, mode: Mode) -> None:
        try:
            kept.on_drop(kept.gate, mode)
        except BaseException:
            # Whatever handlers of logging do: the thread has others to serve.
            with contextlib.suppress(BaseException):
                _log.exception(
                    "on_drop of the cached lock on %r failed; it is let go all the same", kept.name
                )
