"""Processes that do as they are told, and die when they are told to."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from multiprocessing import Pipe
from typing import Any

import pytest

#: Seconds. A machine under load is slow, not wrong.
PATIENCE = 30.0


class Child:
    """A forked process. `body` gets this object there, and talks to the parent by it."""

    def __init__(self, body: Callable[[Child], object]) -> None:
        self.link, theirs = Pipe()
        sys.stdout.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads
            self.pid = os.fork()
        if self.pid == 0:
            self.link.close()
            self.link = theirs
            self._live(body)
        theirs.close()
        self.status: int | None = None

    def _live(self, body: Callable[[Child], object]) -> None:
        # Nothing of what the test runner would do at the end may happen here.
        try:
            self.pid = os.getpid()
            faulthandler.enable(sys.__stderr__)
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            faulthandler.register(
                signal.SIGALRM, sys.__stderr__, chain=True
            )  # says where it is, and ends it
            signal.alarm(int(3 * PATIENCE))
            body(self)
            os._exit(0)
        except BaseException as error:
            with contextlib.suppress(OSError):
                self.link.send(ChildError(f"{error!r}\n{traceback.format_exc()}"))
        finally:
            os._exit(70)

    def say(self, what: object = None) -> None:
        self.link.send(what)

    def hear(self, timeout: float = PATIENCE) -> Any:
        """Return what the other side says next. EOFError if it has died."""
        if not self.link.poll(timeout):
            self.explain()
            pytest.fail(f"process {self.pid} has nothing to say")
        try:
            said = self.link.recv()
        except ConnectionResetError:
            raise EOFError from None
        if isinstance(said, ChildError):
            pytest.fail(f"in process {self.pid}: {said}", pytrace=False)
        return said

    def explain(self) -> None:
        """Have it say on stderr what it is doing, which ends it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGCONT)
            os.kill(self.pid, signal.SIGABRT)
        self.join()

    def kill(self, number: int = signal.SIGKILL) -> None:
        if self.status is None:
            os.kill(self.pid, number)

    def join(self) -> int:
        """Wait until it has ended; return its exit status, negative a signal."""
        if self.status is None:
            give_up = time.monotonic() + PATIENCE
            fd = os.pidfd_open(self.pid)
            try:
                if not select.select([fd], [], [], give_up - time.monotonic())[0]:
                    os.kill(self.pid, signal.SIGKILL)
            finally:
                os.close(fd)
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.status

    def end(self) -> int:
        self.kill()
        self.join()
        self.link.close()
        assert self.status is not None
        return self.status


class ChildError(str):
    """What went wrong in a child."""


class Task:
    """A call in a thread of its own, and how it ended."""

    def __init__(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self._value: Any = None
        self._error: BaseException | None = None

        def run() -> None:
            try:
                self._value = call(*args, **kwargs)
            except BaseException as error:
                self._error = error

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def result(self, timeout: float = PATIENCE) -> Any:
        self.thread.join(timeout)
        if self.thread.is_alive():
            faulthandler.dump_traceback()
            pytest.fail("a call that should have ended still waits")
        if self._error is not None:
            raise self._error
        return self._value
