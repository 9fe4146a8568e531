"""What the tests of pydlm.aio have in common: a loop with an end, and a stack that is slow."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from tests.verbs import Verbs

import pydlm
from pydlm import aio
from pydlm.types import Event

T = TypeVar("T")


#: What makes the loops; see the fixture `loops`.
new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop


def run(main: Coroutine[Any, Any, T], seconds: float = 30) -> T:
    """Run `main` in a loop of its own; TimeoutError if it takes longer."""
    loop = new_loop()
    try:
        return loop.run_until_complete(asyncio.wait_for(main, seconds))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def turns(number: int = 5) -> None:
    """Let the loop run what is ready, so often."""
    for _ in range(number):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Return when `condition` holds."""
    while not condition():
        await asyncio.sleep(0.001)


async def cancelled(task: asyncio.Task[Any]) -> bool:
    """Wait for a task; return whether it was cancelled."""
    with contextlib.suppress(asyncio.CancelledError):
        await task
    return task.cancelled()


def free(name: str, lockspace: str = "tests") -> bool:
    """Whether a third connection could have EX at once, and nobody waits."""
    with pydlm.connect(lockspace) as ls:
        lk = ls.lock(name)
        had = lk.acquire(blocking=False)
        if had:
            lk.release()
        return had and all(s.requested is None for s in ls.dump(name))


class Slow(Verbs):
    """A stack whose events do not come before they are let through."""

    name = "slow"

    def __init__(self, *lacking: str, **options: Any) -> None:
        super().__init__(*lacking, **options)
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.held: deque[Event] = deque()
        self.through: deque[Event] = deque()
        self.slow = True

    def fileno(self) -> int:
        self.inner.fileno()
        return self.fd

    def fetch(self) -> int:
        """See what has come; return how much waits to be let through."""
        self.held.extend(self.inner.dispatch())
        return len(self.held)

    def let(self, number: int = 1) -> None:
        """Let so many events through."""
        self.fetch()
        for _ in range(number):
            self.through.append(self.held.popleft())
        os.eventfd_write(self.fd, 1)

    def dispatch(self, limit: int = 0) -> Sequence[Event]:
        self._may_fail("dispatch")
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
        self.fetch()
        if not self.slow:
            self.through.extend(self.held)
            self.held.clear()
        events, self.through = list(self.through), deque()
        return events

    def disconnect(self) -> None:
        super().disconnect()
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def lockspace_on(stack: Verbs) -> aio.AsyncLockspace:
    return aio.AsyncLockspace("tests", stack)  # type: ignore[arg-type]
