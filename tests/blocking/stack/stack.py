"""A stack that writes down what it is asked, and answers when it is told to."""

from __future__ import annotations

import contextlib
import os
import select
from collections import deque
from collections.abc import Sequence
from typing import Any

from pydlm import LockFlag, Mode
from pydlm.blocking import BlockingLocks
from pydlm.stacks.local import LocalStack
from pydlm.types import Event


class TestStack:
    """A LocalStack without its native locks.

    It may lack more, writes down what it is asked, and hands its events out when told to.
    """

    __test__ = False
    name = "test"

    def __init__(self, *lacking: str) -> None:
        self.inner = LocalStack.connect("tests", deadlock_wait=None)
        self.capabilities = self.inner.capabilities - {"native", *lacking}
        self.asked: list[tuple[Any, ...]] = []
        self.events: deque[Event] = deque()
        self.delivered = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.epoll = select.epoll()
        self.epoll.register(self.delivered, select.EPOLLIN)
        self._by_hand = True
        self.by_hand = False

    @property
    def by_hand(self) -> bool:
        return self._by_hand

    @by_hand.setter
    def by_hand(self, by_hand: bool) -> None:
        if by_hand != self._by_hand:
            if by_hand:
                self.epoll.unregister(self.inner.fileno())
            else:
                self.epoll.register(self.inner.fileno(), select.EPOLLIN)
            self._by_hand = by_hand

    def __getattr__(self, verb: str) -> Any:
        return getattr(self.inner, verb)

    def __del__(self) -> None:
        self.epoll.close()
        if self.delivered >= 0:
            os.close(self.delivered)
            self.delivered = -1

    def disconnect(self) -> None:
        self.inner.disconnect()
        self.__del__()

    def lock(self, name: bytes, mode: Mode, flags: LockFlag) -> int:
        self.asked.append(("lock", mode, flags))
        return self.inner.lock(name, mode, flags)

    def convert(self, lkid: int, mode: Mode, flags: LockFlag, *, lvb: bytes | None = None) -> None:
        self.asked.append(("convert", mode, flags, lvb and lvb.rstrip(b"\0")))
        self.inner.convert(lkid, mode, flags, lvb=lvb)

    def unlock(self, lkid: int, flags: LockFlag, *, lvb: bytes | None = None) -> None:
        self.asked.append(("unlock", flags, lvb and lvb.rstrip(b"\0")))
        self.inner.unlock(lkid, flags, lvb=lvb)

    def deliver(self, n: int = 1000) -> int:
        """Bring the next `n` events; return how many came."""
        fresh = self.inner.dispatch(n)
        self.events.extend(fresh)
        if fresh:
            os.eventfd_write(self.delivered, 1)
        return len(fresh)

    def fileno(self) -> int:
        return self.epoll.fileno()

    def dispatch(self, limit: int = 0) -> Sequence[Event]:
        if not self.by_hand:
            self.deliver()
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.delivered)
        events = list(self.events)
        self.events.clear()
        return events

    def took(self) -> list[tuple[Any, ...]]:
        """What it was asked since it was asked this the last time."""
        asked, self.asked = self.asked, []
        return asked


def stack_of(locks: BlockingLocks) -> Any:
    return locks.stack
