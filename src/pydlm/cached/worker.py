"""A thread that begins once, also where whoever starts it is struck by a signal."""

from __future__ import annotations

import threading
from _thread import start_new_thread
from collections.abc import Callable

__all__ = ["Worker"]


class Worker:
    """Runs `work` in a daemon thread. The thread itself says that it is the one, in one step."""

    def __init__(self, work: Callable[[], object], name: str) -> None:
        self._work = work
        self._name = name
        self._by: dict[str, threading.Thread | None] = {}

    @property
    def thread(self) -> threading.Thread | None:
        """The thread, once it runs, and after."""
        return self._by.get("by")

    def start(self) -> None:
        """See to it that there is a thread. Raises RuntimeError if none can be started.

        Another thread starts it: `Thread.start` cannot be interrupted halfway.
        """
        if self._by:
            return
        over, failed = threading.Lock(), list[BaseException]()
        over.acquire()

        def launch() -> None:
            try:
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
            except BaseException as error:
                failed.append(error)
            finally:
                over.release()

        start_new_thread(launch, ())
        over.acquire()
        if failed:
            raise failed[0]

    def is_current(self) -> bool:
        """Whether the caller is in the thread."""
        return threading.current_thread() is self.thread

    def end(self) -> bool:
        """Wait until it has ended; it does not begin any more. Return whether it had begun."""
        thread = self._by.setdefault("by", None)
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        return thread is not None

    def _run(self) -> None:
        this = threading.current_thread()
        if self._by.setdefault("by", this) is this:
            self._work()
