"""Stacks without native locks, for tests with signals.

Unlike those of `tests.verbs`, the verbs of `Verbs` are the core's own: in C, where no signal
handler can strike between what a verb does and what it returns.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pydlm
from pydlm import Completion, Mode, NodeDown
from pydlm.stacks.local import LocalStack
from pydlm.types import Event, LockStatus, Queue


class Verbs:
    """A LocalStack without its native locks."""

    name = "verbs"

    def __init__(self, inner: LocalStack) -> None:
        self.inner = inner
        self.capabilities = inner.capabilities - {"native"}

    def __getattr__(self, verb: str) -> Any:
        return getattr(self.inner, verb)


class Remote(Verbs):
    """The same at the far end of a line: requests and events travel, in a thread."""

    name = "remote"

    def __init__(self, inner: LocalStack) -> None:
        super().__init__(inner)
        self.ids = itertools.count(1)
        self.far: dict[int, int] = {}  # lkid there
        self.near: dict[int, int] = {}
        self.state: dict[int, LockStatus] = {}
        self.requests: deque[Callable[[], None]] = deque()
        self.events: deque[Event] = deque()
        self.fd, self.posted = (os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK) for _ in "12")
        self.over = False
        self.line = threading.Thread(target=self.travel)
        self.line.start()

    def travel(self) -> None:
        poll = select.poll()
        poll.register(self.posted, select.POLLIN)
        poll.register(self.inner.fileno(), select.POLLIN)
        while not self.over:
            poll.poll()
            clear(self.posted)
            while self.requests:
                self.requests.popleft()()
            with contextlib.suppress(pydlm.Closed):  # abandoned
                for event in self.inner.dispatch():
                    if not isinstance(event, NodeDown):
                        event = event._replace(lkid=self.near[event.lkid])
                    self.events.append(event)
                    os.eventfd_write(self.fd, 1)

    def post(self, request: Callable[[], None]) -> None:
        if not self.inner.connected:
            raise pydlm.Closed("the connection to the lockspace is closed")
        self.requests.append(request)
        os.eventfd_write(self.posted, 1)

    def disconnect(self) -> None:
        if not self.over:
            self.requests.append(lambda: setattr(self, "over", True))
            os.eventfd_write(self.posted, 1)
            self.line.join()
            self.inner.disconnect()
            os.close(self.fd)
            os.close(self.posted)

    def lock(self, name: bytes, mode: Mode, flags: int = 0) -> int:
        lkid = next(self.ids)
        self.state[lkid] = LockStatus(lkid, name, 0, Queue.NONE, None, mode, 0, 0, 0)

        def there() -> None:
            self.far[lkid] = far = self.inner.lock(name, mode, flags)
            self.near[far] = lkid

        self.post(there)
        return lkid

    def convert(self, lkid: int, mode: Mode, flags: int = 0, *, lvb: bytes | None = None) -> None:
        if self.state[lkid].requested is not None:
            raise pydlm.Busy("a request on this lock is under way")
        self.state[lkid] = self.state[lkid]._replace(requested=mode)
        self.post(lambda: self.inner.convert(self.far[lkid], mode, flags, lvb=lvb))

    def unlock(self, lkid: int, flags: int = 0, *, lvb: bytes | None = None) -> None:
        self.post(lambda: self.inner.unlock(self.far[lkid], flags, lvb=lvb))

    def lock_status(self, lkid: int) -> LockStatus:
        return self.state[lkid]

    def fileno(self) -> int:
        return self.fd

    def dispatch(self, limit: int = 0) -> Sequence[Event]:
        if not self.inner.connected:
            raise pydlm.Closed("the connection to the lockspace is closed")
        clear(self.fd)
        events = []
        while self.events:
            events.append(event := self.events.popleft())
            if isinstance(event, Completion):
                state = self.state[event.lkid]
                self.state[event.lkid] = state._replace(granted=event.granted, requested=None)
        return events


def clear(fd: int) -> None:
    with contextlib.suppress(BlockingIOError):
        os.eventfd_read(fd)


MAKERS: dict[str, Callable[[LocalStack], Any]] = {
    "native": lambda inner: inner,
    "verbs": Verbs,
    "remote": Remote,
}
