"""Users' on_drop callbacks, in a thread of their own: a slow one keeps no other lock waiting."""

from __future__ import annotations

import logging
import threading
from queue import SimpleQueue
from typing import TYPE_CHECKING

from pydlm.cached.kept import Kept
from pydlm.types import Mode

if TYPE_CHECKING:
    from pydlm.cached.keeper import Keeper

__all__ = ["Callbacks"]

_log = logging.getLogger("pydlm")


class Callbacks:
    """Runs one callback after the other. The thread begins with the first."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        #: The lock whose callback runs now.
        self.running: Kept | None = None
        self._queue: SimpleQueue[tuple[Keeper, Kept, Mode] | None] = SimpleQueue()

    def run(self, keeper: Keeper, kept: Kept, mode: Mode) -> None:
        """Have a lock's on_drop called; its machine is told when that has returned."""
        self._queue.put((keeper, kept, mode))
        if self.thread is None:
            self.thread = threading.Thread(target=self._work, name="pydlm-on-drop", daemon=True)
            self.thread.start()

    def is_own_thread(self) -> bool:
        """Whether this is the thread of the callbacks."""
        return threading.current_thread() is self.thread

    def stop(self) -> None:
        """Return when the thread has ended. What has not begun is not run."""
        if self.thread is not None:
            self._queue.put(None)
            if threading.current_thread() is not self.thread:
                self.thread.join()

    def _work(self) -> None:
        while (job := self._queue.get()) is not None:
            keeper, kept, mode = job
            self.running = kept
            try:
                kept.on_drop(kept.gate, mode)
            except BaseException:
                _log.exception(
                    "on_drop of the cached lock on %r failed; it is let go all the same", kept.name
                )
            self.running = None
            keeper.post((kept, kept.machine.dropped, (mode,)))
            del job, keeper, kept
