"""A connection to a lockspace: where locks come from, and one descriptor for all their events."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, cast

from pydlm.blocking import BlockingLocks
from pydlm.cached import CachedLock, CachedLocks, Codec, OnDrop
from pydlm.contract import Lock, NativeStack, Stack
from pydlm.errors import BadArgument, Closed, Unsupported
from pydlm.stackglue import stack_connector
from pydlm.types import Event, LockStatus

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Lockspace", "connect"]


class _Searching(Protocol):
    """A stack whose waiters look for deadlocks."""

    deadlock_wait: float | None


class Lockspace:
    """One connection of this process to a lockspace; made by :func:`connect`.

    Closing it, or the end of the process, releases all its locks. It does not survive a fork:
    the child connects for itself, and what the parent holds is not touched.
    """

    def __init__(
        self, name: str, stack: Stack, *, connect_again: Callable[[], Stack] | None = None
    ) -> None:
        self._name = name
        self._stack = stack
        self._locks = stack if isinstance(stack, NativeStack) else BlockingLocks(stack, name)
        self._cached = CachedLocks(connect_again)
        self._closed = False

    @property
    def name(self) -> str:
        """The lockspace's name."""
        return self._name

    @property
    def stack(self) -> Stack:
        """The stack underneath, with the asynchronous verbs."""
        return self._stack

    @property
    def capabilities(self) -> frozenset[str]:
        """What the stack underneath can do: words of :data:`pydlm.contract.CAPABILITIES`."""
        return self._stack.capabilities

    @property
    def lvb_len(self) -> int:
        """Bytes in a lock value block."""
        return self._stack.lvb_len

    @property
    def node(self) -> int:
        """Id of this connection, the `client` of its locks in `dump`."""
        return self._stack.this_node

    @property
    def deadlock_wait(self) -> float | None:
        """Seconds after which a thread that waits looks for a deadlock.

        0: at once. None: never. The search takes a lock to be held by the thread that acquired
        it. Set None where one thread takes locks on behalf of another: in a thread pool, for the
        tasks of an event loop. Counts for waits that begin from now on. Raises Unsupported where
        the stack's waiters do not search.
        """
        return self._searching().deadlock_wait

    @deadlock_wait.setter
    def deadlock_wait(self, seconds: float | None) -> None:
        self._searching().deadlock_wait = seconds

    def _searching(self) -> _Searching:
        if hasattr(self._stack, "deadlock_wait"):
            return cast("_Searching", self._stack)
        raise Unsupported(
            f"the stack {self._stack.name!r} has no deadlock_wait: its waiters do not look for "
            "deadlocks"
        )

    def lock(self, name: str | bytes) -> Lock:
        """Open a lock on the resource `name`, 1 to 64 bytes; text is encoded as UTF-8.

        The handle holds NL, which excludes nobody; `acquire` takes it. Each call makes a handle of
        its own, and two handles exclude each other as two processes would. Raises BadArgument,
        LockspaceFull, Closed, Forked.
        """
        return self._locks.open(name)

    def cached(
        self,
        name: str | bytes,
        *,
        on_drop: OnDrop | None = None,
        exclusion: bool | None = None,
        codec: Codec | None = None,
    ) -> CachedLock:
        """Return the cached lock on the resource `name`: kept until somebody else asks for it.

        It is the same object each time until it is closed. `on_drop(lock, new_level)` runs, in a
        thread of the connection, before the lock is let go. With `exclusion` (None: with it, or as
        the lock is open), exclusive uses exclude others in this process too. `codec` is for
        `CachedLock.value`: a `struct` format, or two functions, from value to bytes and from the
        whole block to the value.

        The cached locks of a connection are a client of their own: for them, its other locks are
        somebody else's. Raises BadArgument, also where it is open with other options; Unsupported,
        LockspaceFull, Closed, Forked.
        """
        return self._cached.open(name, on_drop, exclusion, codec)

    def fileno(self) -> int:
        """Return a descriptor that is readable while events wait; owned by the connection."""
        return self._locks.fileno()

    def dispatch(self, limit: int = 0) -> Sequence[Event]:
        """Return the events that wait, oldest first, at most `limit` (0: all). Never blocks.

        Events are Blocked (a lock of this connection keeps somebody waiting), NodeDown, and
        Completion of requests made with the stack's own verbs.
        """
        return self._locks.dispatch(limit)

    def dump(self, name: str | bytes | None = None) -> Iterable[LockStatus]:
        """List the locks of all connections, on one resource or on all."""
        if isinstance(name, str):
            try:
                name = name.encode()
            except UnicodeEncodeError as error:
                raise BadArgument(f"resource name {name!r} cannot be encoded") from error
        return self._stack.dump(name)

    def close(self) -> None:
        """Leave the lockspace. All locks are released; waiting calls raise Closed. Idempotent.

        Cached locks are closed first, each after its on_drop. Should the stack fail to leave, that
        is raised, and the next call tries it again. Raises Busy in an on_drop.
        """
        self._cached.check_may_close()
        self._closed = True
        try:
            self._cached.close()
        finally:
            self._locks.disconnect()

    def __enter__(self) -> Self:
        if self._closed:
            raise Closed(f"the connection to lockspace {self._name!r} is closed")
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        # This is what copy and pickle ask for.
        raise TypeError("a Lockspace cannot be copied or pickled; connect() again instead")

    def __repr__(self) -> str:
        return f"<pydlm.Lockspace {self._name!r} on {self._stack.name}, node {self.node}>"


def connect(lockspace: str, stack: str | None = None, **options: Any) -> Lockspace:
    """Join `lockspace` and return the connection, a context manager that leaves it.

    `stack` is ``name`` or ``name:locator``; without it the environment variable PYDLM_STACK
    decides, and else it is `local`; ``auto`` is what this host runs. `options` are the stack's: see
    its `connect`. Pass ``deadlock_wait=None`` where one thread takes locks on behalf of another, as
    thread pools and asyncio do: see :attr:`Lockspace.deadlock_wait`. Raises StackUnavailable,
    BadArgument.
    """
    connector = stack_connector(stack, lockspace, **options)
    return Lockspace(lockspace, connector(), connect_again=connector)
