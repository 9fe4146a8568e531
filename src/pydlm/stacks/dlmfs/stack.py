"""A connection: the verbs, made of open, close, read, write and poll."""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from typing import Any, ClassVar, NoReturn
from weakref import WeakSet

from pydlm.contract import Stack
from pydlm.errors import (
    BadArgument,
    Closed,
    DlmError,
    Forked,
    NoSuchLock,
    StackUnavailable,
    Unsupported,
)
from pydlm.stacks.dlmfs.attempt import Attempt
from pydlm.stacks.dlmfs.domain import Domain
from pydlm.stacks.dlmfs.place import Place
from pydlm.stacks.dlmfs.threads import Threads
from pydlm.types import (
    ECANCEL,
    EUNLOCK,
    Blocked,
    Completion,
    Event,
    LockFlag,
    LockStatus,
    Mode,
    Queue,
    StatusFlag,
)

__all__ = ["DlmfsStack"]

_REQUEST_FLAGS = LockFlag.NOQUEUE | LockFlag.VALBLK
_UNLOCK_FLAGS = LockFlag.CANCEL | LockFlag.VALBLK | LockFlag.FORCEUNLOCK

_connections: WeakSet[DlmfsStack] = WeakSet()


def _after_fork_in_child() -> None:
    # What the child has open keeps the parent's locks, whatever the parent does.
    for connection in list(_connections):
        connection.abandon_in_child()


os.register_at_fork(after_in_child=_after_fork_in_child)


@dataclass
class _Lock:
    """One request, granted or not."""

    name: bytes
    mode: Mode
    with_block: bool
    attempt: Attempt
    fd: int = -1  #: once it is granted
    block: bytes = b""
    valid: bool = True
    owner: int = field(default_factory=lambda: os.getpid() << 32 | threading.get_native_id())
    since: float = field(default_factory=time.monotonic)


class DlmfsStack(Stack):
    """A connection to a domain of a mounted dlmfs: `stack="dlmfs:/dlm"`.

    PR and EX only, without conversion in place. A wait that is taken back goes on in a
    thread, as dlmfs cannot end it, until its file is had and closed again; or until somebody else
    wants the same. That another connection of the same node wants a lock is told to nobody.

    In the kernel a node keeps a lock that was let go until another node wants it, and with it the
    block: what a node wrote last is lost with it, if no other had the lock since. Whether a block
    is lost shows on a user-space cluster stack only: there it is invalid, and on this node stays so
    until another has had the lock, even when it was written. On o2cb it is all zeros, and valid.
    Programs that use the real libo2dlm take no flock(2): of a node's own locks they know nothing.
    """

    name: ClassVar[str] = "dlmfs"

    @classmethod
    def connect(
        cls,
        lockspace: str,
        locator: str = "",
        *,
        cluster_stack: str | None = None,
        timeout: float = 30.0,
        **options: Any,
    ) -> DlmfsStack:
        """Join the domain `lockspace` of the dlmfs mounted on `locator`, making it if need be.

        Names of domains have at most 63 bytes. `cluster_stack`: refuse another one than that (o2cb,
        pcmk, ...); a host runs one at a time. In the kernel, that the node joins takes at most
        `timeout` seconds. Raises StackUnavailable, with what to check; BadArgument.
        """
        if options:
            raise BadArgument(f"the dlmfs stack has no option {', '.join(sorted(options))}")
        place = Place.find(locator)
        if cluster_stack not in (None, place.cluster_stack):
            found = place.cluster_stack or "of pydlm"
            raise StackUnavailable(
                f"{locator} runs on the cluster stack {found!r}, not on {cluster_stack!r}, and "
                f"a host runs one at a time; see /sys/fs/ocfs2/cluster_stack"
            )
        return cls(place, Domain(place.path, lockspace, timeout, in_kernel=place.in_kernel))

    def __init__(self, place: Place, domain: Domain) -> None:
        self._domain = domain
        self._inline = not place.in_kernel  # O_NONBLOCK is answered at once
        self._capabilities = place.capabilities
        self._this_node = place.this_node
        # What a pydlm mount is on has its own version.
        self.negotiates = place.in_kernel
        # Signal handlers may come back to it.
        self._guard = threading.RLock()
        self._locks: dict[int, _Lock] = {}
        self._numbers = count(1)
        self._by_fd: dict[int, int] = {}  # lkid of a granted lock
        self._left_over: list[Attempt] = []  # nobody waits for them any more
        self._threads = Threads("pydlm-dlmfs")
        self._events: deque[Event] = deque()
        self._alive = True
        self._pid = os.getpid()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._epoll = select.epoll()
        self._epoll.register(self._bell, select.EPOLLIN)
        _connections.add(self)

    def __del__(self) -> None:
        with suppress(Exception):
            self.disconnect()

    def disconnect(self) -> None:
        """Leave. Idempotent."""
        if not getattr(self, "_alive", False) or self._pid != os.getpid():
            return
        with self._guard:
            self._alive = False
            self._drop_all()
            waiting = {attempt.path for attempt in self._left_over}
        self._threads.close()
        self._domain.leave(waiting)

    def abandon_in_child(self) -> None:
        """Called after a fork, in the child; and in children of that one, which have nothing."""
        self._guard = threading.RLock()
        waiting = [*self._left_over, *(lock.attempt for lock in self._locks.values())]
        if self._bell >= 0:
            self._drop_all()
            self._domain.abandon()
        # There are no threads that wait for them, but copies of what these have open.
        self._left_over.clear()
        for attempt in waiting:
            attempt.give_up()

    def _drop_all(self) -> None:
        for lock in self._locks.values():
            lock.attempt.lkid = 0
            if lock.fd < 0:
                self._left_over.append(lock.attempt)
            else:
                with suppress(OSError):
                    os.close(lock.fd)
        self._locks.clear()
        self._by_fd.clear()
        self._epoll.close()
        bell, self._bell = self._bell, -1
        os.close(bell)

    @property
    def capabilities(self) -> frozenset[str]:
        """What this dlmfs can do."""
        return self._capabilities

    @property
    def lvb_len(self) -> int:
        """Bytes in a lock value block: 64 in the kernel."""
        return self._domain.lvb_len

    @property
    def this_node(self) -> int:
        """The node's number in its cluster (o2cb's and 1); of a pydlm mount, its device's."""
        return self._this_node

    # The verbs.

    def lock(self, name: bytes, mode: Mode, flags: LockFlag = LockFlag(0), *, lkid: int = 0) -> int:
        """Open the lock's file. Raises Unsupported for other modes than PR and EX."""
        self._check_flags(flags, _REQUEST_FLAGS)
        if mode not in (Mode.PR, Mode.EX):
            self._cannot("modes6", f"lock in {mode!r}")
        trying = bool(flags & LockFlag.NOQUEUE)
        if trying and "trylock" not in self._capabilities:
            self._cannot("trylock", "try a lock: O_NONBLOCK would hang for ever")
        path = self._domain.file(bytes(name))
        with self._guard:
            self._check_live()
            attempt = Attempt(path, Mode(mode), trying=trying)
            lkid = next(self._numbers)
            with_block = bool(flags & LockFlag.VALBLK)
            lock = self._locks[lkid] = _Lock(bytes(name), Mode(mode), with_block, attempt)
            try:
                self._begin(lock, lkid, trying)
            except BaseException as error:
                self._locks.pop(lkid, None)
                attempt.give_up()
                if isinstance(error, RuntimeError):
                    raise DlmError(
                        f"no thread can be started to wait for {lock.name!r}: {error}; "
                        "raise the limit of processes, or wait for fewer locks",
                        errno=errno.EAGAIN,
                    ) from error
                raise
        return lkid

    def _begin(self, lock: _Lock, lkid: int, trying: bool) -> None:
        attempt = lock.attempt
        attempt.lkid = lkid
        if trying or self._inline:
            work = partial(self._try, attempt, trying)
            work() if self._inline else self._threads.do(work)
        if trying or lock.fd >= 0 or lkid not in self._locks:
            return
        for other in self._left_over:
            if (other.path, other.mode, other.trying) == (attempt.path, attempt.mode, False):
                self._left_over.remove(other)
                attempt.give_up()
                lock.attempt, other.lkid = other, lkid
                return
        self._threads.do(partial(self._wait, attempt))

    def convert(
        self, lkid: int, mode: Mode, flags: LockFlag = LockFlag(0), *, lvb: bytes | None = None
    ) -> None:
        """Raises Unsupported: a file is open as it is open."""
        del flags, lvb
        self._cannot("convert", f"convert lock {lkid} to {mode!r}: unlock it and lock it anew")

    def unlock(self, lkid: int, flags: LockFlag = LockFlag(0), *, lvb: bytes | None = None) -> None:
        """Close the file; or, of a request that waits, do not wait any more."""
        self._check_flags(flags, _UNLOCK_FLAGS)
        with self._guard:
            lock = self._find(lkid)
            if lock.fd < 0:
                lock.attempt.lkid = 0
                self._left_over.append(lock.attempt)
                self._gone(lkid, ECANCEL if flags & LockFlag.CANCEL else EUNLOCK)
            elif not flags & LockFlag.CANCEL:
                try:
                    if flags & LockFlag.VALBLK and lock.with_block and lock.mode is Mode.EX:
                        self._write(lock, lvb)
                finally:
                    self._close(lock)
                    self._gone(lkid, EUNLOCK)

    def _write(self, lock: _Lock, lvb: bytes | None) -> None:
        value = lock.block if lvb is None else bytes(lvb)
        if len(value) > self.lvb_len:
            raise BadArgument(f"a lock value block has {self.lvb_len} bytes, not {len(value)}")
        if lvb is None and not lock.valid:
            return  # what was read was not to be believed
        try:
            os.pwrite(lock.fd, value.ljust(self.lvb_len, b"\0"), 0)
        except OSError as error:
            raise DlmError(
                f"the lock value block of {lock.name!r} could not be written: {error.strerror}",
                errno=error.errno,
            ) from error

    def forget(self, name: bytes) -> None:
        """Have the node let go of a lock that nobody here has open; else it goes on to keep it."""
        with suppress(OSError):
            os.unlink(self._domain.file(name))

    def deadlock_cancel(self, lkid: int) -> None:
        """Raises Unsupported."""
        self._cannot("deadlock", f"make lock {lkid} the victim of a deadlock")

    def purge(self, node: int) -> None:
        """Raises Unsupported: there are no orphans."""
        self._cannot("persistent", f"purge orphans of {node}")

    def dump(self, name: bytes | None = None) -> Iterable[LockStatus]:
        """Raises Unsupported."""
        self._cannot("dump", f"list the locks on {name or 'all resources'!r}")

    # What is known of a lock.

    def lock_status(self, lkid: int) -> LockStatus:
        """Return what is known of a lock of this connection."""
        with self._guard:
            lock = self._find(lkid)
            held = lock.fd >= 0
            return LockStatus(
                lkid,
                lock.name,
                self._this_node,
                Queue.GRANTED if held else Queue.WAITING,
                lock.mode if held else None,
                None if held else lock.mode,
                0,
                lock.owner,
                lock.since,
            )

    def lvb(self, lkid: int) -> bytes:
        """Return the lock value block as it was read when the lock was granted."""
        with self._guard:
            return self._find(lkid).block.ljust(self.lvb_len, b"\0")

    def lvb_valid(self, lkid: int) -> bool:
        """Return whether it could be read."""
        with self._guard:
            return self._find(lkid).valid

    # Events.

    def fileno(self) -> int:
        """Return a descriptor that is readable while events wait."""
        self._check_live()
        return self._epoll.fileno()

    def dispatch(self, limit: int = 0) -> Sequence[Event]:
        """Return the events that wait.

        dlmfs does not say what is wanted: a notice always has EX.
        """
        with self._guard:
            self._check_live()
            for fd, found in self._epoll.poll(0):
                if (lkid := self._by_fd.get(fd)) is not None:
                    if found & select.EPOLLERR:  # whoever served the mount has died
                        self._close(self._locks[lkid])
                        self._gone(lkid, EUNLOCK)
                    else:
                        self._tell(Blocked(lkid, Mode.EX))
            with suppress(BlockingIOError):
                os.eventfd_read(self._bell)
            count = len(self._events) if limit <= 0 else min(limit, len(self._events))
            found_now = [self._events.popleft() for _ in range(count)]
            if self._events:
                os.eventfd_write(self._bell, 1)
            return found_now

    # How requests end, in whatever thread.

    def _try(self, attempt: Attempt, only: bool) -> None:
        try:
            had = attempt.at_once()
        except OSError as error:
            self._refused(attempt, error.errno or errno.EIO)
            return
        if had:
            self._had(attempt)
        elif only:
            self._refused(attempt, errno.EAGAIN)

    def _wait(self, attempt: Attempt) -> None:
        try:
            attempt.wait_for_others()
            # What waits for locks of its own node has the file open, in the way of other nodes.
            if self._dropped_if_unwanted(attempt):
                return
            attempt.wait_for_own()
        except OSError as error:
            self._refused(attempt, error.errno or errno.EIO)
        else:
            self._had(attempt)

    def _dropped_if_unwanted(self, attempt: Attempt) -> bool:
        """Return whether nobody wants it any more, in which case it is closed."""
        with self._guard:
            if attempt.lkid in self._locks:
                return False
            attempt.give_up()  # before the domain is left, as what is open cannot be removed
            self._forget(attempt)
            return True

    def _had(self, attempt: Attempt) -> None:
        with self._guard:
            if self._dropped_if_unwanted(attempt):
                return
            lock = self._locks[attempt.lkid]
            if "bast" in self._capabilities:
                try:
                    self._epoll.register(attempt.fd, select.EPOLLIN | select.EPOLLET)
                except OSError as error:  # the user's limit, max_user_watches
                    self._refused(attempt, error.errno or errno.EIO)
                    return
            fd = lock.fd = attempt.fd
            attempt.fd = -1
            lock.since = time.monotonic()
            self._by_fd[fd] = attempt.lkid
            flags, block = StatusFlag(0), None
            if lock.with_block:
                try:
                    lock.block = os.pread(fd, self.lvb_len, 0)
                except OSError:
                    lock.block = b""
                lock.valid = bool(lock.block)
                block = lock.block.ljust(self.lvb_len, b"\0")
                flags = StatusFlag(0) if lock.valid else StatusFlag.VALNOTVALID
            self._tell(Completion(attempt.lkid, 0, flags, lock.mode, block))

    def _refused(self, attempt: Attempt, number: int) -> None:
        with self._guard:
            attempt.give_up()
            self._forget(attempt)
            if attempt.lkid in self._locks:
                self._gone(attempt.lkid, number)

    def _forget(self, attempt: Attempt) -> None:
        if attempt in self._left_over:
            self._left_over.remove(attempt)
            if not self._alive and not self._left_over and self._pid == os.getpid():
                self._threads.do(self._domain.leave)

    def _gone(self, lkid: int, status: int) -> None:
        del self._locks[lkid]
        self._tell(Completion(lkid, status, StatusFlag(0), None, None))

    def _close(self, lock: _Lock) -> None:
        del self._by_fd[lock.fd]
        with suppress(OSError):
            self._epoll.unregister(lock.fd)  # a copy of the descriptor, as in a child, would stay
        with suppress(OSError):
            os.close(lock.fd)

    def _tell(self, event: Event) -> None:
        self._events.append(event)
        os.eventfd_write(self._bell, 1)

    # Checks.

    def _find(self, lkid: int) -> _Lock:
        self._check_live()
        lock = self._locks.get(lkid)
        if lock is None:
            raise NoSuchLock(f"this connection has no lock {lkid}")
        return lock

    def _check_live(self) -> None:
        if self._pid != os.getpid():
            raise Forked("the connection belongs to the parent process; connect again in the child")
        if not self._alive:
            raise Closed("the connection to the lockspace is closed")

    def _check_flags(self, flags: LockFlag, known: LockFlag) -> None:
        unknown = LockFlag(flags) & ~known
        if unknown:
            raise Unsupported(f"the stack 'dlmfs' knows no such flags: {unknown!r}")

    def _cannot(self, capability: str, what: str) -> NoReturn:
        raise Unsupported(f"the stack 'dlmfs' cannot {what} (it lacks {capability!r})")
