"""What the tests of pydlm.aio have in common: a loop with an end, and a stack that is slow."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from tests.verbs import Verbs

import pydlm
from pydlm import Mode, aio
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


def waits(name: str, lockspace: str = "tests") -> bool:
    """Whether anybody waits for it."""
    with pydlm.connect(lockspace) as ls:
        return any(s.requested is not None for s in ls.dump(name))


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


@contextlib.asynccontextmanager
async def two_handles(
    mode: Mode | None = None,
) -> AsyncIterator[tuple[aio.AsyncLock, aio.AsyncLock]]:
    """Handles of two connections on the resource `r`, which both hold in `mode`, or not at all."""
    async with aio.connect("tests") as ls, aio.connect("tests") as other:
        one, two = ls.lock("r"), other.lock("r")
        if mode is not None:
            assert await one.acquire(mode=mode) and await two.acquire(mode=mode)
        yield one, two


@contextlib.asynccontextmanager
async def contended(
    stack: Verbs | None = None, timeout: float = -1
) -> AsyncIterator[tuple[aio.AsyncLock, aio.AsyncLock, asyncio.Task[bool]]]:
    """A handle on `r`, one of another connection that holds it in EX, and a task that waits.

    With `stack`, the first one is on that; its lock there has been made.
    """
    ls = aio.connect("tests") if stack is None else lockspace_on(stack)
    async with ls, aio.connect("tests") as other:
        lk, held = ls.lock("r"), other.lock("r")
        await held.acquire()
        if isinstance(stack, Slow):
            stack.let()
        task = asyncio.create_task(lk.acquire(timeout=timeout))
        await turns()
        yield lk, held, task
