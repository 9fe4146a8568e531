"""Tools to force an interleaving: they wait for the lock manager's own state, not for the clock."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

import pydlm
from pydlm import Lock, Lockspace
from pydlm.types import Queue

#: Seconds. A machine under load is slow, not wrong.
PATIENCE = 20.0

_numbers = itertools.count()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # A test's handles go when it returns, before its connections are closed.
    held = pytest.mark.filterwarnings("ignore:.* was held when its last:ResourceWarning")
    for item in items:
        if item.path.is_relative_to(os.path.dirname(__file__)):
            item.add_marker(held)


class Task:
    """A call in a thread of its own, and how it ended."""

    def __init__(self, call: Callable[..., Any], args: Any, kwargs: Any) -> None:
        self._call = (call, args, kwargs)
        self._value: Any = None
        self._error: BaseException | None = None
        self.thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        call, args, kwargs = self._call
        try:
            self._value = call(*args, **kwargs)
        except BaseException as error:
            self._error = error
        finally:
            del self._call, call, args, kwargs  # what it had is not kept alive by us

    @property
    def done(self) -> bool:
        return not self.thread.is_alive()

    def result(self, timeout: float = PATIENCE) -> Any:
        """Return what the call returned, or raise what it raised."""
        self.thread.join(timeout)
        if not self.done:
            pytest.fail("a call that should have ended still waits:\n" + _all_stacks())
        if self._error is not None:
            raise self._error
        return self._value

    def error(self, timeout: float = PATIENCE) -> BaseException | None:
        """Return what the call raised."""
        with contextlib.suppress(BaseException):
            self.result(timeout)
        if not self.done:
            self.result(0)
        return self._error


class World:
    """A lockspace of this test's own, its connections, and threads that use them."""

    def __init__(self) -> None:
        self.name = f"core-{next(_numbers)}"
        self.spaces: list[Lockspace] = []
        self.tasks: list[Task] = []

    def connect(self, name: str | None = None, **options: Any) -> Lockspace:
        """Return a new connection, by default to the same lockspace as the others."""
        space = pydlm.connect(name or self.name, stack="local", **options)
        self.spaces.append(space)
        return space

    def handles(self, name: str, n: int, **options: Any) -> list[Lock]:
        """Return `n` handles on one resource, each of a connection of its own."""
        return [self.connect(**options).lock(name) for _ in range(n)]

    def thread(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Task:
        """Start a call in a thread; come back when it waits for something, or has ended.

        That is so because nobody takes the GIL from the new thread before it gives it up.
        """
        with uninterrupted():
            return self.worker(call, *args, **kwargs)

    def worker(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Task:
        """Start a call in a thread, one that may go on for long without waiting."""
        task = Task(call, args, kwargs)
        self.tasks.append(task)
        task.thread.start()
        return task

    def finish(self, tasks: Iterable[Task]) -> list[Any]:
        """Return what the calls returned; if one fails, raise that, though others may wait."""
        left = list(tasks)
        give_up = time.monotonic() + PATIENCE
        while left and time.monotonic() < give_up:
            for task in [task for task in left if task.done]:
                task.result()
                left.remove(task)
            time.sleep(0.0005)
        return [task.result(0) for task in tasks]

    def queued(self, space: Lockspace, name: str, n: int = 1) -> None:
        """Wait until just `n` locks are on the resource's queues."""

        def there() -> bool:
            waiting = [s for s in space.dump(name) if s.queue in (Queue.CONVERT, Queue.WAITING)]
            return len(waiting) == n

        self.until(there, f"{n} locks to wait on {name!r}")

    def until(self, holds: Callable[[], object], what: str = "") -> None:
        """Wait until something holds."""
        give_up = time.monotonic() + PATIENCE
        while not holds():
            if time.monotonic() > give_up:
                pytest.fail(f"waited in vain for {what or holds}:\n{self.state()}")
            time.sleep(0.0005)

    def state(self) -> str:
        """Say all there is to say, for a test that is about to fail."""
        lines = []
        for space in self.spaces:
            with contextlib.suppress(pydlm.DlmError):
                lines += [repr(space), *map(str, space.dump())]
                break  # one sees it all
        return "\n".join([*lines, _all_stacks()])

    def usage(self, space: Lockspace | None = None) -> tuple[int, int]:
        """Return how many locks and resources there are."""
        usage = (space or self.spaces[0]).stack.arena.usage()  # type: ignore[attr-defined]
        return usage["locks"], usage["resources"]

    def end(self) -> None:
        """Close everything, and see that nothing is left of it."""
        for space in self.spaces[:0:-1]:
            space.close()
        for space in self.spaces[:1]:
            with contextlib.suppress(pydlm.Closed):
                space.stack.purge(0)
            space.close()
        for task in self.tasks:
            task.thread.join(PATIENCE)
        if any(not task.done for task in self.tasks):
            pytest.fail("threads wait for closed locks:\n" + _all_stacks(), pytrace=False)
        for arena in {space.stack.arena for space in self.spaces}:  # type: ignore[attr-defined]
            arena.check()
            usage = arena.usage()
            assert (usage["locks"], usage["resources"]) == (0, 0), "left in the arena"


def _all_stacks() -> str:
    me = threading.get_ident()
    frames = [frame for ident, frame in sys._current_frames().items() if ident != me]
    return "\n".join("".join(traceback.format_stack(frame)) for frame in frames)


@pytest.fixture
def world() -> Iterator[World]:
    made = World()
    yield made
    made.end()


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@pytest.fixture(name="uninterrupted")
def _uninterrupted() -> Callable[[], contextlib.AbstractContextManager[None]]:
    """Within it no other thread runs Python code unless this one waits."""
    return uninterrupted


@pytest.fixture
def spin() -> Callable[[float], None]:
    """Keep the GIL for some seconds, so that what goes on without it can happen."""

    def spin(seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pass

    return spin


@pytest.fixture
def asleep() -> Callable[..., None]:
    """Wait until a thread sleeps in the kernel; without an argument, the main thread."""

    def asleep(thread: threading.Thread | None = None) -> None:
        native = (thread or threading.main_thread()).native_id
        give_up = time.monotonic() + PATIENCE
        while True:
            with open(f"/proc/self/task/{native}/stat") as file:
                if file.read().rpartition(")")[2].split()[0] == "S":
                    return
            assert time.monotonic() < give_up

    return asleep


@pytest.fixture
def readable() -> Callable[..., bool]:
    """Whether one need not wait to read from a descriptor, or from what has one."""

    def readable(fd: Any, timeout: float = 0.0) -> bool:
        return bool(select.select([fd], [], [], timeout)[0])

    return readable


@pytest.fixture
def interrupts() -> Iterator[Callable[..., None]]:
    """Return a function that says what a signal shall do, until the test ends."""
    before: dict[int, Any] = {}

    def on(number: int, handler: Any) -> None:
        before.setdefault(number, signal.signal(number, handler))

    yield on
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def alone() -> Callable[..., str]:
    """Run a function in a Python process of its own, which must end well; return what it prints.

    The function brings its own imports: only its source goes there. For what may end the process,
    stop it for good, or comes when it ends.
    """

    def alone(function: Callable[[], None], *options: str, timeout: float = 30.0) -> str:
        script = textwrap.dedent(inspect.getsource(function)) + f"\n{function.__name__}()\n"
        # Where it hangs, it says where, and ends, also if the GIL is never given up.
        prelude = f"import faulthandler; faulthandler.dump_traceback_later({timeout}, exit=True)\n"
        run = subprocess.run(
            [sys.executable, "-X", "faulthandler", *options, "-c", prelude + script],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            capture_output=True,
            text=True,
            timeout=timeout + 10,
            check=False,
        )
        if run.returncode != 0 or run.stderr:
            pytest.fail(f"exit status {run.returncode}\n{run.stdout}{run.stderr}", pytrace=False)
        return run.stdout

    return alone


@pytest.fixture
def forked() -> Callable[[Callable[[], object]], None]:
    """Run a function in a forked child, which must end well."""

    def forked(function: Callable[[], object]) -> None:
        # A thread about to end may be freeing memory. AddressSanitizer's allocator, unlike others,
        # would stay locked in the child.
        before = 0
        while before != (now := len(os.listdir("/proc/self/task"))):
            before = now
            time.sleep(0.01)
        receive, send = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads
            child = os.fork()
        if child == 0:
            # Nothing of what the test runner would do at the end may happen here.
            report = b"the child was killed"
            try:
                signal.signal(signal.SIGALRM, signal.SIG_DFL)
                signal.alarm(int(PATIENCE))
                function()
                report = b""
            except BaseException:
                report = traceback.format_exc().encode()
            finally:
                os.write(send, report)
                os._exit(0)
        os.close(send)
        with open(receive, "rb") as pipe:
            report = pipe.read()
        status = os.waitpid(child, 0)[1]
        if report or status:
            pytest.fail(f"in the child, status {status}:\n{report.decode()}", pytrace=False)

    return forked
