"""The `fsdlm` stack: the lock manager of the Linux kernel, across the nodes of a cluster.

A connection is an open descriptor of the lockspace's device, ``/dev/misc/dlm_NAME``, which is to
the kernel one client: closing it, on purpose or by death, drops its locks. Requests are written to
it and results read from it as records (see `records` for why); libdlm is there for joining and
leaving.

What the kernel decides otherwise than stacks with shared memory: a verb may take as long as the
lockspace recovers from the death of a node. That a node has died is told (NodeDown, see
`membership`), that a process of a living node has, is not. Locks of a connection that is closed
are gone from this node when `disconnect` returns, and from others as soon as the message is there.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import operator
import os
import secrets
import select
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Final

from pydlm.contract import Stack
from pydlm.errors import (
    BadArgument,
    Busy,
    Closed,
    DlmError,
    Forked,
    LockspaceFull,
    NoSuchLock,
    Unsupported,
    WouldBlock,
)
from pydlm.stacks.fsdlm import join, libdlm
from pydlm.stacks.fsdlm.membership import Membership, this_node
from pydlm.stacks.fsdlm.records import (
    BLOCKING,
    LVB_LEN,
    RESULT_SIZE,
    VERSION_SIZE,
    Requests,
    result,
)
from pydlm.stacks.fsdlm.request import MODES, NO_BLOCK, Request
from pydlm.types import Blocked, Event, LockFlag, LockStatus, Mode, NodeDown

__all__ = ["FsdlmStack"]

_ALL_FLAGS: Final = sum(LockFlag)
_CONVERT: Final = int(LockFlag.CONVERT)
_CANCEL: Final = int(LockFlag.CANCEL)
_ORPHAN: Final = int(LockFlag.ORPHAN)
_PERSISTENT: Final = int(LockFlag.PERSISTENT)
_FORCEUNLOCK: Final = int(LockFlag.FORCEUNLOCK)
_NONE: Final = LockFlag(0)
_LOOK_EVERY: Final = 64
_NO_MODE: Final = 255  # what the kernel is asked for where the caller's mode is none

_ERRORS: Final[dict[int, type[DlmError]]] = {
    errno.EINVAL: BadArgument,
    errno.ENOENT: NoSuchLock,
    errno.EBUSY: Busy,
    errno.EAGAIN: WouldBlock,
    errno.ENOMEM: LockspaceFull,
}

_forks = 0


def _count_fork() -> None:
    global _forks
    _forks += 1


os.register_at_fork(after_in_child=_count_fork)


class FsdlmStack(Stack):
    """A connection to a lockspace of the kernel's fs/dlm."""

    name: ClassVar[str] = "fsdlm"
    capabilities: ClassVar[frozenset[str]] = frozenset(
        {
            "bast",
            "stackglue",
            "modes6",
            "convert",
            "trylock",
            "cancel",
            "lvb",
            "ivvalblk",
            "persistent",
        }
    )
    lvb_len: ClassVar[int] = LVB_LEN
    negotiates = True

    @classmethod
    def connect(
        cls,
        lockspace: str,
        locator: str = "",
        *,
        lvb_len: int | None = None,
        permissions: int = 0o600,
        flags: int = 0,
        timeout: float = 30.0,
        **unknown: Any,
    ) -> FsdlmStack:
        """Join `lockspace`; it exists as long as a node of the cluster has joined it.

        This node joins with its first connection, which takes about a second, at most `timeout`
        seconds, and root. It leaves with the last one, unless a lock keeps it in: an orphan, or one
        of another node of which this one keeps the books. `permissions`: of the lockspace's
        device, so of who may connect once this node has joined. `flags`: of ``dlm_new_lockspace``.

        Raises StackUnavailable where anything is missing, with what that is; BadArgument.
        """
        if locator:
            raise BadArgument(f"fsdlm has no place to choose; {locator!r} means nothing")
        if unknown:
            raise TypeError(f"fsdlm has no option {', '.join(sorted(unknown))}")
        if lvb_len not in (None, LVB_LEN):
            raise BadArgument(f"lock value blocks of fsdlm have {LVB_LEN} bytes, not {lvb_len}")
        return cls(libdlm.load(), lockspace, permissions, flags, timeout)

    def __init__(
        self, dlm: libdlm.Libdlm, lockspace: str, permissions: int, flags: int, timeout: float
    ) -> None:
        self._closing = contextlib.ExitStack()
        self._forks = _forks
        self._lockspace = lockspace
        self._timeout = timeout
        self._requests_by_tag: dict[int, Request] = {}
        self._requests: dict[int, Request] = {}  # by lkid, once that is known
        # Numbers that no other connection uses, so that one cannot pass for its lock by chance.
        self._tags = itertools.count(secrets.randbits(30) + 1)
        self._records: deque[bytes] = deque()
        self._events: deque[Event] = deque()
        self._looks = 0
        self._fd = join.join(lockspace, permissions, flags, timeout)
        with contextlib.ExitStack() as closing:
            closing.callback(os.close, self._fd)
            self._device = os.fstat(self._fd).st_rdev
            self._make = Requests(os.read(self._fd, VERSION_SIZE))
            self.__this_node = this_node()
            self._membership = Membership(dlm, lockspace)
            closing.callback(self._membership.close)
            self._epoll = select.epoll()
            closing.callback(self._epoll.close)
            self._epoll.register(self._fd, select.EPOLLIN)
            self._epoll.register(self._membership.fileno(), select.EPOLLIN)
            self._closing = closing.pop_all()

    def disconnect(self) -> None:
        """Leave. The locks of this connection are gone when it returns."""
        if not self._closed:
            own = self._forks == _forks
            if own:
                self._withdraw()
            self.abandon()
            if own:
                join.leave(self._lockspace, self._device, self._timeout)

    def _withdraw(self) -> None:
        """Take back the PERSISTENT requests that wait.

        Linux 6.1 panics where an orphan is purged that was waiting when its client went.
        """
        for request in [*self._requests.values()]:
            if request.granted is None and request.flags & _PERSISTENT:
                record = self._make.unlock(_FORCEUNLOCK, request.kernel_id, 0, NO_BLOCK)
                with contextlib.suppress(DlmError):
                    self._write(record)

    def abandon(self) -> None:
        """Close the device, as the kernel does for a process that dies. This node stays in."""
        self._fd = -1
        self._requests.clear()
        self._requests_by_tag.clear()
        self._closing.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):
            self._closing.close()

    @property
    def this_node(self) -> int:
        """The node's id in the cluster: that of all connections of this host."""
        return self.__this_node

    def lock(self, name: bytes, mode: Mode, flags: LockFlag = _NONE, *, lkid: int = 0) -> int:
        """Ask for a new lock; return its lkid."""
        bits = _bits(flags)
        if bits & _CONVERT:
            self.convert(lkid, mode, flags)
            return lkid
        self._check_live()
        tag = next(self._tags)
        request = self._requests_by_tag[tag] = Request(tag, bytes(name), mode, bits)
        number = 0
        try:
            record = self._make.lock(_known(mode), bits, 0, tag, NO_BLOCK, request.name)
            number = self._write(record)
        except DlmError:
            del self._requests_by_tag[tag]
            raise
        except BaseException:
            request.unwanted = True
            raise
        lkid = request.identify(number)
        self._requests[lkid] = request
        if bits & _ORPHAN:
            request.adopt()
        return lkid

    def convert(
        self, lkid: int, mode: Mode, flags: LockFlag = _NONE, *, lvb: bytes | None = None
    ) -> None:
        """Change the mode of a granted lock."""
        bits = _bits(flags) | _CONVERT
        request = self._find(lkid)
        block = request.fill(bits, _block(lvb))
        before = request.requested, request.flags
        # First the note, then the request: its result may be read by another thread.
        tag = lkid >> 32
        record = self._make.lock(_known(mode), bits, request.kernel_id, tag, block)
        if before[0] is None:
            request.requested, request.flags = mode, bits
        try:
            self._write(record)
        except DlmError:
            request.requested, request.flags = before
            raise

    def unlock(self, lkid: int, flags: LockFlag = _NONE, *, lvb: bytes | None = None) -> None:
        """Give a lock up or, with CANCEL, take back what it waits for."""
        bits = _bits(flags)
        request = self._find_for_unlock(lkid)
        # A request to cancel changes nothing of the block.
        block = request.block if bits & _CANCEL else request.fill(0, _block(lvb))
        self._write(self._make.unlock(bits, request.kernel_id, lkid >> 32, block))

    def deadlock_cancel(self, lkid: int) -> None:
        """Take back a waiting request as the victim of a deadlock."""
        self._write(self._make.deadlock_cancel(self._find_for_unlock(lkid).kernel_id))

    def lock_status(self, lkid: int) -> LockStatus:
        """Return what this connection knows of one of its locks."""
        return self._find(lkid).status(self.this_node)

    def lvb(self, lkid: int) -> bytes:
        """Return the lock value block as the last grant read it."""
        return self._find(lkid).block

    def lvb_valid(self, lkid: int) -> bool:
        """Return whether `lvb` may be believed."""
        return self._find(lkid).valid

    def purge(self, node: int, *, pid: int = 0) -> None:
        """Drop the orphans that processes of a node left, or one of them; node 0: of all nodes."""
        self._check_live()
        for each in [node] if node else sorted(self._membership.nodes()):
            self._write(self._make.purge(each, pid))

    def dump(self, name: bytes | None = None) -> Iterable[LockStatus]:  # noqa: ARG002
        """Raise Unsupported: the kernel shows the locks of others in debugfs only."""
        raise Unsupported("the stack 'fsdlm' cannot list locks; look into /sys/kernel/debug/dlm")

    def fileno(self) -> int:
        """Return a descriptor that is readable while events wait."""
        self._check_live()
        return self._epoll.fileno()

    def dispatch(self, limit: int = 0) -> Sequence[Event]:
        """Return the events that wait."""
        self._check_live()
        limit = operator.index(limit)
        again = itertools.repeat((self._fd, RESULT_SIZE))
        with contextlib.suppress(BlockingIOError):
            # All of it in C: no signal handler can raise between reading and keeping a record.
            self._records.extend(
                itertools.starmap(os.read, itertools.islice(again, limit) if limit > 0 else again)
            )
        self._take_in()
        # A look at the nodes costs as much as a request. Who is told of nothing takes it, and who
        # never stops being told takes it at times; until then, the descriptor stays readable.
        self._looks += 1
        if not self._events or self._looks % _LOOK_EVERY == 0:
            self._events.extend(NodeDown(node) for node in self._membership.died())
        events, self._events = self._events, deque()
        return events

    def _take_in(self) -> None:
        notices: dict[int, int] = {}  # by lkid: where the last notice stands among the events
        while self._records:
            found = result(self._records.popleft())
            request = self._requests_by_tag.get(found.tag)
            if request is None:
                continue  # it is gone, and this was on its way
            lkid = request.identify(found.lkid)
            if found.kind == BLOCKING:
                mode = MODES[found.mode]
                if (at := notices.get(lkid)) is None:
                    notices[lkid] = len(self._events)
                    self._events.append(Blocked(lkid, mode))
                else:
                    earlier = self._events[at]
                    assert isinstance(earlier, Blocked)
                    self._events[at] = Blocked(lkid, max(mode, earlier.mode))
                continue
            notices.pop(lkid, None)
            event = request.completed(found)
            if event.granted is None:
                self._requests.pop(lkid, None)
                del self._requests_by_tag[found.tag]
            if not request.unwanted:
                self._events.append(event)
            elif event.granted is not None:
                self._requests[lkid] = request
                self.unlock(lkid)

    def _find_for_unlock(self, lkid: int) -> Request:
        if lkid == 0:
            raise BadArgument("there is no lkid 0")
        return self._find(lkid)

    def _find(self, lkid: int) -> Request:
        self._check_live()
        try:
            return self._requests[lkid]
        except KeyError:
            raise NoSuchLock(f"this connection has no lock {lkid}") from None

    def _check_live(self) -> None:
        if self._forks != _forks:
            raise Forked(
                f"the connection to lockspace {self._lockspace!r} belongs to the parent process; "
                "connect again in the child"
            )
        if self._fd < 0:
            raise Closed(f"the connection to lockspace {self._lockspace!r} is closed")

    @property
    def _closed(self) -> bool:
        return self._fd < 0

    def _write(self, record: bytes) -> int:
        try:
            return os.write(self._fd, record)
        except OSError as error:
            raise _translated(error) from None


def _bits(flags: int) -> int:
    bits = int(flags)
    if bits & ~_ALL_FLAGS:
        raise BadArgument(f"no such flags: {bits & ~_ALL_FLAGS:#x}")
    return bits


def _known(mode: int) -> int:
    return mode if 0 <= mode < len(MODES) else _NO_MODE


def _block(lvb: bytes | None) -> bytes | None:
    if lvb is not None and len(lvb) > LVB_LEN:
        raise BadArgument(f"{len(lvb)} bytes do not fit in a lock value block of {LVB_LEN} bytes")
    return lvb


def _translated(error: OSError) -> DlmError:
    number = error.errno or 0
    kind = _ERRORS.get(number, DlmError)
    return kind(f"the kernel's lock manager refuses: {error.strerror}", errno=number)
