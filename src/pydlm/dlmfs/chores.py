"""Joining and leaving lockspaces may take long; threads do it, so that the mount goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from pydlm._core import Mailbox

__all__ = ["Chores"]


class Chores:
    """Work for threads, each with a piece of its own; what follows is done by the mount's."""

    def __init__(self) -> None:
        self._mail = Mailbox()
        self._threads: set[threading.Thread] = set()

    def fileno(self) -> int:
        """Return a descriptor that is readable while `follow_up` has something to do."""
        return self._mail.fileno()

    def do(self, work: Callable[[], Any], then: Callable[[Any], object]) -> None:
        """Have a thread work; `follow_up` calls `then` with what it returned, or raised."""

        def run() -> None:
            try:
                found = work()
            except BaseException as error:
                found = error
            self._mail.post((thread, then, found))

        thread = threading.Thread(target=run, name="pydlm-mount-chore")
        self._threads.add(thread)
        try:
            thread.start()
        except RuntimeError:  # there is no room for another thread
            run()

    def follow_up(self) -> None:
        """Do what is to be done after work that has ended."""
        for thread, then, found in self._mail.take():
            self._threads.discard(thread)
            then(found)

    def close(self) -> None:
        """Wait for work that is under way, and follow up."""
        while self._threads:
            for thread in list(self._threads):
                if thread.ident is not None:
                    thread.join()
            self.follow_up()
        self._mail.close()
