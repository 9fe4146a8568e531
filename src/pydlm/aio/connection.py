"""One connection, in the loop it was made in: reads the stack's descriptor, sorts the events."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Protocol, TypeVar
from weakref import ref

from pydlm.aio.cached import AsyncCachedLock, AsyncOnDrop
from pydlm.aio.events import Blocked, Kept
from pydlm.aio.keeper import AsyncKeeper
from pydlm.aio.lock import AsyncLock
from pydlm.contract import Stack
from pydlm.errors import Busy, Closed, DlmError, Forked
from pydlm.types import Blocked as BlockedEvent
from pydlm.types import Completion, Event, LockFlag, NodeDown

if TYPE_CHECKING:
    from pydlm.aio.machine import Machine
    from pydlm.cached.values import Codec

__all__ = ["Connection"]

_log = logging.getLogger("pydlm")


class _Sleeper(Protocol):
    """A task's wait. Whoever ends it finishes its future."""

    future: asyncio.Future[None] | None


_S = TypeVar("_S", bound=_Sleeper)


class Connection:
    """The locks of one connection. Not for other threads: all of it is the loop's."""

    def __init__(self, stack: Stack, name: str) -> None:
        self.stack = stack
        self.name = name
        self.loop = asyncio.get_running_loop()
        #: A handle holds NL between acquires. Else it has a lock only while it holds or waits.
        self.keeps_null = {"convert", "modes6"} <= stack.capabilities
        self.kept = Kept(self)
        self.keeper: AsyncKeeper | None = None  # with the first cached lock
        self._cached: dict[bytes, AsyncCachedLock] = {}
        self._fd = stack.fileno()
        self._pid = os.getpid()
        self._closed = False  # no more calls
        self._left = False  # and the stack is disconnected
        self._error: Exception | None = None  # why it is lost
        self._pumping = False
        self._owners: dict[int, ref[Machine] | None] = {}  # None: is just being unlocked
        #: Handles that somebody waits through for a notice, with a lock on the stack or not.
        self.watched: set[Machine] = set()
        self._incoming: deque[Event] = deque()
        self._discarded: deque[tuple[int, LockFlag, bytes | None]] = deque()
        self.loop.add_reader(self._fd, self.pump)

    # What there is to ask of it.

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that it was made in."""
        return self._pid != os.getpid()

    @property
    def alive(self) -> bool:
        """Whether anything can be asked of it."""
        return not self._closed and self._error is None and not self.forked

    def check_live(self) -> None:
        """Raise Closed, Forked, or what the connection was lost by."""
        if self._closed:
            raise Closed(f"the connection to lockspace {self.name!r} is closed")
        if self.forked:
            raise Forked(
                f"the connection to lockspace {self.name!r} belongs to the parent process; "
                "connect again in the child"
            )
        if self._error is not None:
            raise copy(self._error)

    def new_future(self) -> asyncio.Future[None]:
        """Return what a task of this connection's loop can sleep on. Raises RuntimeError."""
        if asyncio.get_running_loop() is not self.loop:
            raise RuntimeError(
                f"the connection to lockspace {self.name!r} belongs to another event loop; "
                "connect in this one too"
            )
        return self.loop.create_future()

    async def sleep(self, w: _S, seconds: float | None, expire: Callable[[_S], object]) -> None:
        """Sleep until `w` is done. After so many seconds, `expire` sees to it that it will be."""
        w.future = self.new_future()
        if seconds is None:
            await w.future
            return
        timer = self.loop.call_later(max(0.0, seconds), expire, w)
        try:
            await w.future
        finally:
            timer.cancel()

    # What its handles call.

    def own(self, lkid: int, lock: Machine) -> None:
        """Give `lock` the events of `lkid` from now on."""
        self._owners[lkid] = ref(lock)

    def forget_notice(self, lkid: int) -> None:
        """What `lkid` was in the way of is over: it was granted anew, or is gone."""
        self.kept.forget(lkid)

    def unlock(self, lkid: int, flags: LockFlag, value: bytes | None) -> None:
        """Unlock what is no handle's any more. Raises what the stack raises."""
        self.kept.forget(lkid)
        self._owners[lkid] = None
        self.stack.unlock(lkid, flags, lvb=value)

    def discard(self, lkid: int, flags: LockFlag, value: bytes | None) -> None:
        """Unlock a lock whose handle was collected, soon: the collector comes in any thread."""
        self._discarded.append((lkid, flags, value))
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self.loop.call_soon_threadsafe(self.pump)

    def handle(self, lkid: int) -> Machine | None:
        """Return the handle of a lock."""
        owner = self._owners.get(lkid)
        return None if owner is None else owner()

    # The stack's events.

    def pump(self) -> None:
        """Take the stack's events in and act on them. Never waits, raises nothing of the stack's.

        Called while it runs, it returns at once: what is to come is seen to by the first one.
        """
        if self._pumping or not self.alive:
            return
        self._pumping = True
        try:
            while self._discarded:
                with contextlib.suppress(DlmError):
                    self.unlock(*self._discarded.popleft())
            # Requests are often granted at once: look again.
            while events := self.stack.dispatch():
                self._incoming.extend(events)
                while self._incoming:
                    self._route(self._incoming.popleft())
        except Exception as error:
            self._lose(error)
        finally:
            self._pumping = False

    def _route(self, event: Event) -> None:
        if self.keeper is not None and self.keeper.take(event):
            return
        if isinstance(event, NodeDown) or event.lkid not in self._owners:
            if isinstance(event, BlockedEvent):
                event = Blocked(*event)
            self.kept.add(event)
            return
        lock = self.handle(event.lkid)
        if isinstance(event, Completion):
            if lock is not None:
                lock.completed(event)
            if event.granted is None:
                del self._owners[event.lkid]
                self.kept.forget(event.lkid)
        elif lock is not None and lock.noticed(event.mode):
            self.kept.blocked(event.lkid, event.mode)

    def _handles(self) -> list[Machine]:
        owners = [lock for lkid in list(self._owners) if (lock := self.handle(lkid))]
        return [*owners, *self.watched.difference(owners)]

    def _lose(self, error: Exception) -> None:
        """The stack cannot tell its events: nothing of what is held may be believed any more."""
        if self._closed:
            return
        if not isinstance(error, Closed):  # by whoever has the stack in hand too
            _log.error("the connection to lockspace %r is lost", self.name, exc_info=error)
        self._error = error
        self._stop_reading()
        for lock in self._handles():
            lock.shut(error)
        if self.keeper is not None:
            self.keeper.cut_off(error)
        self.kept.clear()

    def _stop_reading(self) -> None:
        if not self.loop.is_closed():
            self.loop.remove_reader(self._fd)

    # The end.

    def close(self) -> None:
        """Leave the lockspace; waiting tasks get Closed. Idempotent.

        Should the stack fail to leave, that is raised, and the next call tries it again. In
        a child it does nothing: the loop's descriptors are the parent's.
        """
        if self._left or self.forked:
            return
        if not self._closed:
            if self.keeper is not None:
                self.keeper.over = True
            self.pump()  # what has been granted may have to be said good-bye to
            self._closed = True
            for lock in self._handles():
                lock.disconnected()
            if self.keeper is not None:
                self.keeper.cut_off()
            if self._error is None:
                self._stop_reading()
            self.kept.clear()
        self.stack.disconnect()
        self._left = True

    def abandon(self) -> None:
        """Die, in a test: leave as by the loss of the machine; waiting tasks get Closed.

        Raises Closed, Forked; AttributeError where the stack cannot.
        """
        self.check_live()
        # While it still has its descriptor: a loop does not notice that one is closed, and takes
        # the next that gets its number for the same.
        self._stop_reading()
        self.stack.abandon()  # type: ignore[attr-defined]
        self._lose(Closed(f"the connection to lockspace {self.name!r} is closed"))

    # What `AsyncLockspace` calls.

    def opened(self, name: bytes) -> AsyncLock:
        """Return a new handle."""
        self.check_live()
        lock = AsyncLock(self, name)
        self.pump()
        return lock

    def cached(
        self, name: bytes, on_drop: AsyncOnDrop | None, exclusion: bool | None, codec: Codec | None
    ) -> AsyncCachedLock:
        """Return the cached lock on `name`, the same object as long as it is open."""
        self.check_live()
        if self.keeper is None:
            self.keeper = AsyncKeeper(self)
        if self.keeper.closing:
            raise Closed(f"the connection to lockspace {self.name!r} is being closed")
        found = self._cached.get(name)
        if found is None or found._kept.machine.gone:  # closed, or lost
            found = AsyncCachedLock(self, self.keeper, name, on_drop, exclusion, codec)
            found._start()
            self._cached[name] = found
        else:
            found._check_options(on_drop, exclusion, codec)
        return found

    def forget_cached(self, lock: AsyncCachedLock) -> None:
        """Make another lock the next time one of its name is asked for."""
        if self._cached.get(lock.name) is lock:
            del self._cached[lock.name]

    async def close_cached(self) -> None:
        """Let all cached locks go, each after its on_drop, those too that are being closed."""
        if self.keeper is not None and self.alive:
            failed = await self.keeper.let_all_go()
            if failed:
                raise failed[0]

    def check_may_wait(self) -> None:
        """Raise Busy in an on_drop, which `close_cached` would wait for."""
        if self.keeper is not None and self.keeper.current() is not None:
            raise Busy("the connection cannot be closed in an on_drop: it would wait for itself")
