"""Each test runs on whoever implements the blocking lock: the native one, the one made of a stack's
verbs where they take effect at once, and where they travel to somebody else first.
"""

from __future__ import annotations

import signal
import sys
import threading
from _thread import _count as thread_count
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.blocking.stacks import MAKERS
from tests.blocking.threads import Interrupt, Thread, strike, until

from pydlm import Lockspace
from pydlm.stacks.local import LocalStack


@pytest.fixture(params=MAKERS)
def make(request: pytest.FixtureRequest) -> Callable[[LocalStack], Any]:
    return MAKERS[request.param]


@pytest.fixture
def connect(make: Callable[[LocalStack], Any]) -> Iterator[Callable[[], Lockspace]]:
    """Join one lockspace, as often as called."""
    connections: list[Lockspace] = []
    threads = thread_count()

    def connect() -> Lockspace:
        stack = make(LocalStack.connect("tests", deadlock_wait=None))
        connections.append(Lockspace("tests", stack))
        return connections[-1]

    yield connect
    for ls in connections:
        ls.close()
    until(lambda: thread_count() <= threads)


@pytest.fixture
def a(connect: Callable[[], Lockspace]) -> Lockspace:
    return connect()


@pytest.fixture
def b(connect: Callable[[], Lockspace]) -> Lockspace:
    return connect()


@pytest.fixture
def sleeps_first() -> Iterator[None]:
    """From here on, a thread gives up the GIL when it sleeps, not before."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def interrupt() -> Iterator[Callable[..., None]]:
    """Have the main thread interrupted once something is so, after `first` in its handler."""
    threads: list[Thread] = []
    does: list[Any] = []
    struck = threading.Event()

    def handler(*_: object) -> None:
        if not struck.is_set():
            struck.set()
            first, raises = does
            first()
            if raises:
                raise Interrupt

    def interrupt(
        when: Callable[[], object], first: Callable[[], object] = lambda: None, raises: bool = True
    ) -> None:
        does[:] = first, raises
        threads.append(Thread(lambda: (until(when), strike(struck))))

    old = signal.signal(signal.SIGUSR1, handler)
    yield interrupt
    for thread in threads:
        thread.result()
    signal.signal(signal.SIGUSR1, old)
