"""What a lock stack owes to pydlm. Written as guarantees, after ``struct ocfs2_stack_operations``.

A verb returns at once; how the request ended arrives as an event. Whoever implements
this is a stack: pydlm's own are in :mod:`pydlm.stacks`, others register under the
entry point group ``pydlm.stacks``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar

from pydlm.types import Event, LockFlag, LockStatus, Mode

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CAPABILITIES", "Lock", "NativeStack", "Stack"]

#: Every capability word and what it promises.
CAPABILITIES: dict[str, str] = {
    "bast": "a holder is told when somebody else wants its lock",
    "stackglue": "the same program runs on it as on any other stack",
    "modes6": "all six modes; without it PR and EX only",
    "convert": "a granted lock changes its mode in place",
    "trylock": "NOQUEUE: a request that would wait fails instead",
    "cancel": "a waiting request can be taken back",
    "lvb": "lock value blocks with validity",
    "ivvalblk": "a holder can invalidate the lock value block",
    "fencing": "each grant carries a token that rises",
    "deadlock": "cycles over several resources are found",
    "persistent": "locks can outlive their client",
    "native": "the stack brings its own blocking locks",
    "dump": "locks of all clients can be listed",
}


class Stack(ABC):
    """One connection of one client to one lockspace.

    Closing it, or the death of its process, releases its locks as the death of a
    client of fs/dlm does.
    """

    #: Short name, as in ``connect(stack=...)``.
    name: ClassVar[str]

    #: Whether nodes with another version of pydlm may be in the lockspace, so that the version of
    #: the locking protocol has to be agreed on; needs `trylock` and `lvb`.
    negotiates: bool = False

    @classmethod
    @abstractmethod
    def connect(cls, lockspace: str, locator: str, **options: Any) -> Self:
        """Join `lockspace`, creating it if it does not exist.

        Must not return before locks can be taken. `locator` is what followed ``name:`` in
        the stack's name. Raises StackUnavailable, with what to do, where it cannot work.
        """

    @abstractmethod
    def disconnect(self) -> None:
        """Leave. All locks of this connection are gone when it returns; no event follows."""

    @property
    @abstractmethod
    def capabilities(self) -> frozenset[str]:
        """What it can do, words of `CAPABILITIES`. A verb outside of it raises Unsupported."""

    @property
    @abstractmethod
    def lvb_len(self) -> int:
        """Bytes in a lock value block; constant for the lockspace."""

    @property
    @abstractmethod
    def this_node(self) -> int:
        """Id of this connection among those joined now, at least 1."""

    @abstractmethod
    def lock(self, name: bytes, mode: Mode, flags: LockFlag = LockFlag(0), *, lkid: int = 0) -> int:
        """Ask for a new lock; return its lkid.

        Exactly one Completion follows, except after ORPHAN, where none does. With VALBLK the
        lock has a lock value block from here on. Raises BadArgument, LockspaceFull; with ORPHAN
        also NoSuchLock and WouldBlock. CONVERT asks for the conversion of `lkid`.
        """

    @abstractmethod
    def convert(
        self, lkid: int, mode: Mode, flags: LockFlag = LockFlag(0), *, lvb: bytes | None = None
    ) -> None:
        """Change the mode of a granted lock; exactly one Completion follows.

        `lvb`, padded with zeros, is what VALBLK writes where the conversion writes; None keeps
        what the last Completion brought. Raises BadArgument, NoSuchLock, Busy.
        """

    @abstractmethod
    def unlock(self, lkid: int, flags: LockFlag = LockFlag(0), *, lvb: bytes | None = None) -> None:
        """Give a lock up; one Completion with EUNLOCK follows, and nothing after it.

        With CANCEL: take back a waiting request or conversion; a Completion with ECANCEL follows,
        or the one of the grant that was faster, or none where nothing was under way.
        """

    @abstractmethod
    def deadlock_cancel(self, lkid: int) -> None:
        """Take back a waiting request as the victim of a deadlock: its Completion has EDEADLK."""

    @abstractmethod
    def lock_status(self, lkid: int) -> LockStatus:
        """Return what is known of a lock of this connection. Raises NoSuchLock."""

    @abstractmethod
    def lvb(self, lkid: int) -> bytes:
        """Return the lock value block as the last grant read it, `lvb_len` bytes, valid or not."""

    @abstractmethod
    def lvb_valid(self, lkid: int) -> bool:
        """Return whether `lvb` may be believed."""

    @abstractmethod
    def purge(self, node: int) -> None:
        """Drop the orphans that the connection `node` left behind; 0: those of all."""

    @abstractmethod
    def dump(self, name: bytes | None = None) -> Iterable[LockStatus]:
        """List locks of all clients, of one resource or of all."""

    @abstractmethod
    def fileno(self) -> int:
        """Return a descriptor that is readable while events wait. The stack owns it."""

    @abstractmethod
    def dispatch(self, limit: int = 0) -> Sequence[Event]:
        """Return the events that wait, oldest first, at most `limit` (0: all). Never blocks.

        Notices are de-duplicated: of those that wait for one lock only the strictest is given.
        """


class NativeStack(Stack):
    """A stack that brings its own blocking locks, faster than those made of its verbs."""

    @abstractmethod
    def open(self, name: str | bytes) -> Lock:
        """Return a new handle on the resource `name`; it holds NL. Must not wait."""


class Lock(ABC):
    """A lock on one resource, whichever stack it is on: what `Lockspace.lock` returns.

    The handle holds NL. Ownership is the handle: any thread may release what another acquired,
    and acquiring again through the same handle waits, first come, first served.

    Who makes locks of another kind derives them from this, or registers them (`Lock.register`):
    `isinstance` asks for no more, and evaluates nothing of the lock.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def name(self) -> bytes:
        """The resource's name."""

    @property
    @abstractmethod
    def lkid(self) -> int:
        """The lock's id in its lockspace."""

    @property
    @abstractmethod
    def granted(self) -> Mode:
        """The mode that is held now; NL if the lock is not."""

    @property
    @abstractmethod
    def requested(self) -> Mode | None:
        """The mode that is waited for, or None."""

    @property
    @abstractmethod
    def blocked(self) -> Mode | None:
        """The strictest mode that somebody waits for because of this lock, or None."""

    @property
    @abstractmethod
    def token(self) -> int:
        """The fencing token: higher with each grant of this resource."""

    @property
    @abstractmethod
    def lvb(self) -> bytes:
        """The lock value block, `lvb_len` bytes; readable while held, else NotHeld.

        Raises LVBInvalid if whoever was changing it died. Set it while held in PW or EX, to at
        most `lvb_len` bytes, padded with zeros; published by the release or down-conversion.
        """

    @lvb.setter
    @abstractmethod
    def lvb(self, value: bytes, /) -> None: ...

    @property
    @abstractmethod
    def lvb_valid(self) -> bool:
        """Whether the lock value block may be believed."""

    @abstractmethod
    def acquire(self, blocking: bool = True, timeout: float = -1, *, mode: Mode = Mode.EX) -> bool:
        """Take the lock; return whether it could be had in `timeout` seconds (-1: no limit).

        The wait ends early by `cancel` (Cancelled), `close` (Closed), a signal handler that raises,
        or because it would never end (DeadlockError).
        """

    @abstractmethod
    def release(self) -> None:
        """Give the lock up, back to NL. Raises NotHeld, or Busy while it is being converted."""

    @abstractmethod
    def locked(self) -> bool:
        """Return whether the lock is held through this handle."""

    @abstractmethod
    def held(
        self, mode: Mode = Mode.EX, blocking: bool = True, timeout: float = -1
    ) -> AbstractContextManager[Lock]:
        """Return a context manager that holds the lock in `mode`.

        Entering it raises WouldBlock or LockTimeout where `acquire` would return False.
        """

    @abstractmethod
    def convert(self, mode: Mode, blocking: bool = True, timeout: float = -1) -> bool:
        """Change the mode in place; return whether it could be had in time.

        Whatever ends the wait, the old mode is kept. Raises DeadlockError at once where two
        conversions would wait for each other; NotHeld, Busy, Cancelled.
        """

    @abstractmethod
    def cancel(self) -> bool:
        """End all waits through this handle with Cancelled; return whether there were any."""

    @abstractmethod
    def fileno(self) -> int:
        """Return a descriptor that is readable as long as this lock blocks somebody."""

    @abstractmethod
    def close(self) -> None:
        """Unlock, and end all waits through this handle with Closed. Idempotent."""

    @abstractmethod
    def __enter__(self) -> Self: ...

    @abstractmethod
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None: ...
