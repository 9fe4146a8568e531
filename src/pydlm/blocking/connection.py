"""One connection of a stack without native locks: opens locks, and sorts the stack's events."""

from __future__ import annotations

import contextlib
import operator
import select
from _thread import start_new_thread
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from itertools import chain, starmap
from weakref import ref

from pydlm.blocking.arguments import resource_name
from pydlm.blocking.lock import StackLock
from pydlm.blocking.machine import Machine
from pydlm.blocking.reader import EventFd, Reader, Wait
from pydlm.contract import Stack
from pydlm.errors import Closed, DlmError
from pydlm.types import Blocked, Completion, Event, LockFlag, Mode, NodeDown

__all__ = ["BlockingLocks"]


class BlockingLocks(Reader):
    """The blocking locks of one connection.

    It alone dispatches the stack's events. Those that are no completion for one of its locks are
    kept for the user, who may call the stack's verbs too, but not its `dispatch`.
    """

    def __init__(self, stack: Stack, name: str) -> None:
        super().__init__(stack.fileno(), name)
        self.stack = stack
        #: A handle holds NL between acquires. Else it has a lock only while it holds or waits.
        self.keeps_null = {"convert", "modes6"} <= stack.capabilities
        self._closed = False  # no more calls
        self._left = False  # and the stack is disconnected
        # By lkid: the handle, or whoever waits for its unlock to end.
        self._owners: dict[int, ref[Machine] | Wait] = {}
        self._incoming: deque[Event] = deque()
        self._discarded: deque[tuple[int, LockFlag, bytes | None]] = deque()
        # What the user has not dispatched yet. By lkid: the strictest mode that a handle keeps
        # somebody from; under keys without a meaning: other events.
        self._kept: OrderedDict[object, Event | Mode] = OrderedDict()
        self._kept_fd: EventFd | None = None
        self._epoll: select.epoll | None = None

    # What Lockspace calls.

    def open(self, name: str | bytes) -> StackLock:
        """Return a new handle on the resource `name`; waits until the stack has made its lock."""
        raw = resource_name(name)
        self.check_live()
        return StackLock(self, raw)

    def fileno(self) -> int:
        """Return a descriptor that is readable while events wait for `dispatch`.

        For a moment also while an event waits that is a lock's own affair: `dispatch` sees to it.
        """
        with self.guard:
            self.check_live()
            if self._epoll is None:
                kept_fd, epoll = EventFd(), select.epoll()
                epoll.register(kept_fd.fileno(), select.EPOLLIN)
                epoll.register(self.stack.fileno(), select.EPOLLIN)
                self._kept_fd, self._epoll = kept_fd, epoll
                self._show_kept()
            return self._epoll.fileno()

    def dispatch(self, limit: int = 0) -> Sequence[Event]:
        """Return the user's events, oldest first, at most `limit` (0: all). Never blocks."""
        limit = operator.index(limit)
        with self.guard:
            self.check_live()
            self.pump()
            return self._take_kept(limit)

    def disconnect(self) -> None:
        """Leave the lockspace; waiting calls raise Closed. Idempotent.

        What fails is raised, after all the rest has been done. Where that was the stack's
        `disconnect`, or a signal handler struck, the next call tries again.
        """
        if self._left or self.forked:
            return
        with contextlib.ExitStack() as leaving:  # bottom up, whatever is raised
            leaving.callback(self.join_helper)
            leaving.enter_context(self.guard)
            self._closed = True
            leaving.callback(self._leave_stack)
            leaving.callback(self.stop)
            leaving.callback(self._forget_kept)
            if self._helper is not None:
                leaving.callback(self.finish, self._helper)
            for lkid, owner in list(self._owners.items()):
                if isinstance(owner, Wait):
                    leaving.callback(self.finish, owner)
                elif (lock := self._handle(lkid)) is not None:
                    leaving.callback(lock.disconnected)

    def _leave_stack(self) -> None:
        if not self._left:
            self._left = True  # first: a signal handler may close it while it is being closed
            try:
                self.stack.disconnect()
            except BaseException:
                self._left = False
                raise

    def _forget_kept(self) -> None:
        self._kept.clear()
        if self._epoll is not None:
            self._epoll.close()
        self._epoll = self._kept_fd = None

    def __del__(self) -> None:
        # Only the helper can be asleep now.
        with contextlib.suppress(AttributeError):
            if not self.forked:
                self.stop()

    # What its locks call.

    @property
    def alive(self) -> bool:
        """Whether it is open, and in the process that opened it."""
        return not self._closed and not self.forked

    @property
    def closed(self) -> bool:
        """Whether it has been disconnected."""
        return self._closed

    def check_live(self) -> None:
        """Raise Closed or Forked if nothing can be asked of it any more."""
        if self._closed:
            raise Closed(f"the connection to lockspace {self.name!r} is closed")
        self.check_fork()

    def own(self, lkid: int, lock: Machine) -> None:
        """Give `lock` the events of `lkid` from now on. The guard is held."""
        self._owners[lkid] = ref(lock)

    def disown(self, lkid: int) -> None:
        """There is no lock `lkid` any more. The guard is held."""
        self._owners.pop(lkid, None)
        self.forget_notice(lkid)

    def forget_notice(self, lkid: int) -> None:
        """What `lkid` was in the way of is over: it was granted anew, or is gone."""
        if self._kept.pop(lkid, None) is not None:
            self._show_kept()

    def unlock(self, lkid: int, flags: LockFlag, value: bytes | None, w: Wait) -> None:
        """Unlock what is no handle's any more; `w` ends when it is gone. The guard is held."""
        self.forget_notice(lkid)
        self._owners[lkid] = w
        try:
            self.stack.unlock(lkid, flags, lvb=value)
        except DlmError:
            self.disown(lkid)
            self.finish(w)

    def discard(self, lkid: int, flags: LockFlag, value: bytes | None, *, urgent: bool) -> None:
        """Unlock a lock whose handle was collected, soon, or if not `urgent` with the next call.

        The collector comes at any moment, also to a thread that holds the guard or is just
        inside the stack. So this takes no lock and calls no verb.
        """
        self._discarded.append((lkid, flags, value))
        if self._leader is not None:
            self.rouse()
        elif urgent:
            self.spawn(self._pump_discarded)

    def spawn(self, function: Callable[[], object]) -> None:
        """Have a thread of its own do what this one cannot stay for."""
        with contextlib.suppress(RuntimeError):  # the interpreter ends, and all locks with it
            start_new_thread(function, ())

    # The stack's events.

    def pump(self) -> None:
        """Take the stack's events in and act on them. The guard is held."""
        while self._discarded:
            self.unlock(*self._discarded[0], Wait())
            self._discarded.popleft()
        try:
            # One call in C: no signal handler can raise between having the events and keeping them.
            self._incoming.extend(chain.from_iterable(starmap(self.stack.dispatch, [()])))
            self._route_all()
        except BaseException:
            self.rouse()  # there may be something left for those who wait
            raise

    def _route_all(self) -> None:
        while self._incoming:
            event = self._incoming[0]
            self._route(event)
            if self._incoming and self._incoming[0] is event:  # else a signal handler was here
                self._incoming.popleft()

    def nobody_leads(self) -> None:
        """Unlock what was discarded in reliance on a leader. The guard is held."""
        if self._discarded and self.alive:
            with contextlib.suppress(DlmError):
                self.pump()

    def _pump_discarded(self) -> None:
        with self.guard:
            self.nobody_leads()

    def _handle(self, lkid: int) -> Machine | None:
        owner = self._owners.get(lkid)
        return None if owner is None or isinstance(owner, Wait) else owner()

    def _route(self, event: Event) -> None:
        if isinstance(event, NodeDown) or event.lkid not in self._owners:
            self._kept[object()] = event
            self._show_kept()
        elif (lock := self._handle(event.lkid)) is not None:
            if isinstance(event, Completion):
                lock.completed(event)
                if event.granted is None:
                    self.disown(event.lkid)
            elif lock.noticed(event.mode):
                self._kept[event.lkid] = max(event.mode, self._kept.get(event.lkid, event.mode))
                self._show_kept()
        elif isinstance(event, Completion) and event.granted is None:
            owner = self._owners[event.lkid]
            self.disown(event.lkid)
            if isinstance(owner, Wait):
                self.finish(owner)

    def _take_kept(self, limit: int) -> list[Event]:
        events: list[Event] = []
        while self._kept and not 0 < limit <= len(events):
            key, event = self._kept.popitem(last=False)
            if not isinstance(event, Mode):
                events.append(event)
            elif isinstance(key, int) and isinstance(lock := self._handle(key), StackLock):
                events.append(Blocked(key, event, lock))
        self._show_kept()
        return events

    def _show_kept(self) -> None:
        if self._kept_fd is not None:
            self._kept_fd.show(bool(self._kept))
