"""Which of the waiting threads reads the stack's descriptor, and where the others sleep.

Leader and followers: one thread sleeps in poll() on the stack's descriptor, takes the events in
and hands each to whom it concerns; the others sleep on a lock of their own. When the leader's
own wait ends, one of the others takes its place. So nobody is woken who has nothing to do, and no
thread is needed that does nothing else.

Python's signal handlers run in the main thread, between any two calls, and may raise. What is
left half done then has to be found by the next one: state is changed before anybody is told, and
whatever must happen happens in a `finally`, twice, the second time finding nothing to do. Loops
stand in functions of their own: the jump back is a place to be struck too, and of one inside
`try` or `with` CPython 3.13 does not know that it is inside. Handlers may also use a lock
themselves, while the main thread is asleep here, or even while it has the guard.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import weakref
from _thread import start_new_thread
from abc import ABC, abstractmethod
from collections.abc import Callable
from math import ceil
from time import monotonic

from pydlm.errors import Forked
from pydlm.types import Mode

__all__ = ["EventFd", "Reader", "Wait"]

#: A day. poll() takes no more than an int of milliseconds; who wakes early sleeps again.
_LONG = 86400.0

_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)

_Sleep = Callable[["float | None"], None]


class EventFd:
    """A descriptor that shows a level: readable or not. Closed with the last reference to it."""

    __slots__ = ("_fd",)

    def __init__(self) -> None:
        self._fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._fd

    def show(self, level: bool) -> None:
        """Make it readable, or not."""
        if level:
            os.eventfd_write(self._fd, 1)
        else:
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._fd)

    def close(self) -> None:
        """Close the descriptor; idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # there was no descriptor left to make
            self.close()


class Wait:
    """One thread's wait. The guard covers all but `sleep`."""

    __slots__ = (
        "_bell",
        "acquiring",
        "before",
        "dismissed",
        "disowned",
        "done",
        "expired",
        "outer",
        "sent",
        "status",
        "thread",
    )

    def __init__(self, *, acquiring: bool = False) -> None:
        self.done = False
        #: How the request ended; None: the lock or the connection was closed before.
        self.status: int | None = None
        self.acquiring = acquiring
        self.before: Mode | None = None  #: what a conversion goes back to if nobody will use it
        self.sent = False  #: the stack has the request
        self.dismissed = False  #: `cancel` was called
        self.expired = False  #: its deadline has come
        self.disowned = False  #: the thread has left by an exception
        self.thread = 0  #: where it leads, or did so last
        self.outer: Wait | None = None  #: who leads again when this one has led
        self._bell = threading.Lock()
        self._bell.acquire()

    def ring(self) -> None:
        """Have the thread look at what it waits for, now or when it next goes to sleep."""
        if self._bell.locked():
            self._bell.release()

    def sleep(self, seconds: float | None) -> None:
        """Sleep until rung, at most so long."""
        self._bell.acquire(True, -1 if seconds is None else min(seconds, _LONG))


class _Poller:
    """Where the leader sleeps. `wake` lives as long as anybody sleeps here.

    The stack's descriptor may be closed and its number used anew before a thread that was sent
    here arrives; it comes back at once because `wake` is readable.
    """

    __slots__ = ("_fd", "busy", "wake")

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self.wake = EventFd()
        self.busy = False  #: the leader sleeps, or is about to

    def sleep(self, seconds: float | None) -> None:
        poll = select.poll()  # a new one: a signal handler may come here while we are here
        poll.register(self._fd, select.POLLIN)
        poll.register(self.wake.fileno(), select.POLLIN)
        for fd, _ in poll.poll(None if seconds is None else ceil(min(seconds, _LONG) * 1000)):
            if fd == self.wake.fileno():
                self.wake.show(False)


class Reader(ABC):
    """Waits of many threads on one descriptor.

    `guard` covers all state of the connection. It is held for a few steps of Python and for the
    stack's verbs, which return at once; never over a wait, but by a signal handler that came then.
    """

    def __init__(self, fd: int, name: str) -> None:
        self.name = name  #: the lockspace's
        self._guard = threading.RLock()
        self._forks = _forks
        self._poller: _Poller | None = _Poller(fd)  # None: no more waits
        self._leader: Wait | None = None
        self._followers: dict[Wait, None] = {}
        self._helper: Wait | None = None
        self._helper_runs = threading.Lock()  # held by it, to be waited for

    @property
    def guard(self) -> threading.RLock:
        """The guard. Raises Forked: in a child, nobody may be left who would let go of it."""
        self.check_fork()
        return self._guard

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that it was made in."""
        return self._forks != _forks

    def check_fork(self) -> None:
        """Raise Forked in a child."""
        if self._forks != _forks:
            raise Forked(
                f"the connection to lockspace {self.name!r} belongs to the parent process; "
                "connect again in the child"
            )

    @abstractmethod
    def pump(self) -> None:
        """Take the stack's events in and act on them. The guard is held."""

    def wait(self, w: Wait, deadline: float | None) -> bool:
        """Sleep until `w` is done; False: the deadline came first."""
        try:
            return self._sleep(w, deadline)
        finally:
            try:
                self._leave(w)
            finally:
                self._leave(w)

    def _sleep(self, w: Wait, deadline: float | None) -> bool:
        while (sleep := self._place(w)) is not None:
            left = None if deadline is None else deadline - monotonic()
            if left is not None and left <= 0:
                return False
            sleep(left)
        return True

    def finish(self, w: Wait) -> None:
        """End a wait. The guard is held."""
        w.done = True
        w.ring()
        if w is self._leader and self._poller is not None and self._poller.busy:
            self.rouse()

    def rouse(self) -> None:
        """Have the leader look after everything, though the stack may have no event."""
        if (poller := self._poller) is not None:
            poller.wake.show(True)

    def stop(self) -> None:
        """No wait lasts from here on. The guard is held, or nobody is left to take it."""
        poller, self._poller = self._poller, None
        if poller is not None:
            poller.wake.show(True)  # its descriptor goes with the last who sleeps there

    def _place(self, w: Wait) -> _Sleep | None:
        """Return where to sleep; None: there is no need to."""
        inside = self._has_guard()
        with self.guard:
            poller, leader, here = self._poller, self._leader, threading.get_ident()
            if w.done or poller is None:
                return None
            # In a signal handler, the leader may be this very thread, or wait for it to let go of
            # the guard: then it cannot be waited for.
            if leader is None or (leader is not w and (inside or leader.thread == here)):
                w.outer, self._leader = leader, w
            if self._leader is not w:
                self._followers[w] = None
                return w.sleep
            w.thread, poller.busy = here, False
            self.pump()
            if w.done:
                return None
            poller.busy = True
            return poller.sleep

    def _leave(self, w: Wait) -> None:
        with self.guard:
            self._followers.pop(w, None)
            if self._leader is w:
                self._leader = w.outer or next(iter(self._followers), None)
            if self._leader is None:
                self.nobody_leads()
                return
            self._leader.ring()
            if w.outer is not None:
                self.rouse()

    def _has_guard(self) -> bool:
        return self._guard._is_owned()  # type: ignore[attr-defined,no-any-return]

    @abstractmethod
    def nobody_leads(self) -> None:
        """Do what was left to a leader that was just leaving. The guard is held."""

    # A thread that reads while nobody waits.

    def start_helper(self) -> None:
        """Have the descriptor read from now on also while no thread waits. The guard is held."""
        if self._helper is None:
            self._helper = w = Wait()
            self._helper_runs.acquire()
            try:
                start_new_thread(_help, (weakref.ref(self), w, self._helper_runs))
            except BaseException:
                self._helper = None
                self._helper_runs.release()
                raise

    def join_helper(self) -> None:
        """Return when the helper, which has been told to end, has ended."""
        if not self._has_guard():
            with self._helper_runs:
                pass


def _help(reader_ref: weakref.ref[Reader], w: Wait, runs: threading.Lock) -> None:
    # Asleep, it refers to no Reader: a connection that was forgotten goes as it would without it.
    try:
        while (reader := reader_ref()) is not None and (sleep := reader._place(w)) is not None:
            del reader
            sleep(None)
    finally:
        if (reader := reader_ref()) is not None:
            reader._leave(w)
        runs.release()
