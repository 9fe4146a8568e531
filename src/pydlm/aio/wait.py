"""One task's wait for a handle."""

from __future__ import annotations

import asyncio

from pydlm.types import LockFlag, Mode

__all__ = ["Wait"]


class Wait:
    """What a task has asked for, and how that ended."""

    __slots__ = (
        "acquiring",
        "before",
        "dismissed",
        "disowned",
        "done",
        "error",
        "expired",
        "flags",
        "future",
        "mode",
        "status",
    )

    def __init__(
        self, mode: Mode, flags: LockFlag, *, acquiring: bool = False, before: Mode | None = None
    ) -> None:
        self.mode = mode
        self.flags = flags
        self.acquiring = acquiring
        self.before = before  #: what a conversion goes back to if nobody will use it
        self.done = False
        #: How the request ended; None: it was never made.
        self.status: int | None = None
        self.error: Exception | None = None  #: what to raise instead
        self.dismissed = False  #: `cancel` was called
        self.expired = False  #: its time is over
        self.disowned = False  #: the task has left
        self.future: asyncio.Future[None] | None = None  #: what the task sleeps on, if it does

    def finish(self, error: Exception | None = None) -> None:
        """End it. Only the first time counts."""
        if self.done:
            return
        self.done, self.error = True, error
        future = self.future
        # Of a task that has been cancelled, it is done already. A loop that is closed runs no task.
        if future is not None and not future.done() and not future.get_loop().is_closed():
            future.set_result(None)
