"""What a connection tells its user, in the order in which it happened."""

from __future__ import annotations

from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from pydlm.types import Blocked as BlockedEvent
from pydlm.types import Completion, Mode, NodeDown

if TYPE_CHECKING:
    import asyncio

    from typing_extensions import Self

    from pydlm.aio.connection import Connection
    from pydlm.aio.lock import AsyncLock

__all__ = ["Blocked", "Event", "Events", "Kept"]


class Blocked(BlockedEvent):
    """A BAST: a lock of this connection keeps somebody from getting `mode`."""

    __slots__ = ()

    if TYPE_CHECKING:

        @property
        def lock(self) -> AsyncLock | None:  # type: ignore[override]
            """The handle; None where the lock was made by the stack's own verbs."""


Event = Blocked | NodeDown | Completion

#: So many deaths are kept for those who do not ask; of more, the latest.
_DEATHS = 1000


class Kept:
    """Events that nobody has taken yet.

    Of those that wait for one lock only the strictest is kept, and none that is over; of deaths
    the latest thousand: who never asks must not pay for others' deaths for ever.
    """

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        # By lkid: the strictest mode that a handle keeps somebody from; under keys without a
        # meaning: other events.
        self._events: OrderedDict[object, Event | Mode] = OrderedDict()
        self._deaths: deque[object] = deque()  # keys, also of those that have been taken
        self._waiting: dict[asyncio.Future[None], None] = {}

    def add(self, event: Event) -> None:
        """Keep an event that is of no handle."""
        key = object()
        self._events[key] = event
        if isinstance(event, NodeDown):
            self._deaths.append(key)
            if len(self._deaths) > _DEATHS:
                self._events.pop(self._deaths.popleft(), None)
        self._wake(1)

    def blocked(self, lkid: int, mode: Mode) -> None:
        """Keep the notice that a handle is in the way."""
        before = self._events.get(lkid)
        self._events[lkid] = max(mode, before) if isinstance(before, Mode) else mode
        self._wake(1)

    def forget(self, lkid: int) -> None:
        """What a handle was in the way of is over."""
        self._events.pop(lkid, None)

    def clear(self) -> None:
        """Keep nothing, and end all iterations."""
        self._events.clear()
        self._wake(len(self._waiting))

    def _wake(self, number: int) -> None:
        while number and self._waiting:
            future = next(iter(self._waiting))
            del self._waiting[future]
            if not future.done() and not future.get_loop().is_closed():
                future.set_result(None)
                number -= 1

    def _take(self) -> Event | None:
        while self._events:
            key, event = self._events.popitem(last=False)
            if not isinstance(event, Mode):
                return event
            if isinstance(key, int) and (lock := self._conn.handle(key)) is not None:
                return Blocked(key, event, lock)  # type: ignore[arg-type]
        return None

    async def next(self) -> Event | None:
        """Return the oldest event, waiting for one; None at the end of the connection."""
        while self._conn.alive:
            self._conn.pump()
            event = self._take()
            if event is not None:
                return event
            if not self._conn.alive:
                break
            future = self._conn.new_future()
            self._waiting[future] = None
            try:
                await future
            except BaseException:
                if self._waiting.pop(future, self) is self and self._events:
                    self._wake(1)  # it was called, and cannot come: somebody else has to
                raise
        return None


class Events:
    """An asynchronous iterator over a connection's events; ends with the connection."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        event = await self._kept.next()
        if event is None:
            raise StopAsyncIteration
        return event
