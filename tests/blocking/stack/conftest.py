"""What the lock made of verbs asks of its stack, and what it does when the answers take their time.

What the user sees of it is tested, with the native lock, one folder up.
"""

from __future__ import annotations

from _thread import _count as thread_count
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.blocking.stack.stack import TestStack
from tests.blocking.threads import until

from pydlm.blocking import BlockingLocks
from pydlm.stacks.local import LocalStack


@pytest.fixture
def connect() -> Iterator[Callable[..., BlockingLocks]]:
    connections = []
    threads = thread_count()

    def connect(*lacking: str) -> BlockingLocks:
        connections.append(BlockingLocks(TestStack(*lacking), "tests"))  # type: ignore[arg-type]
        return connections[-1]

    yield connect
    for locks in connections:
        locks.disconnect()
    until(lambda: thread_count() <= threads)


@pytest.fixture
def other() -> Iterator[Any]:
    """A connection with native locks."""
    stack = LocalStack.connect("tests", deadlock_wait=None)
    yield stack
    stack.disconnect()
