"""A connection to a lockspace, for the tasks of one event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn

from pydlm.aio.cached import AsyncCachedLock, AsyncOnDrop
from pydlm.aio.connection import Connection
from pydlm.aio.events import Events
from pydlm.aio.lock import AsyncLock
from pydlm.blocking.arguments import resource_name
from pydlm.cached import Codec
from pydlm.contract import Stack
from pydlm.stackglue import connect_stack
from pydlm.types import LockStatus

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["AsyncLockspace", "connect"]


class AsyncLockspace:
    """One connection to a lockspace; made by :func:`connect` in a running loop, and for that one.

    Closing it, or the end of the process, releases all its locks. The loop keeps it until it is
    closed. It does not survive a fork: the child connects for itself.
    """

    def __init__(self, name: str, stack: Stack) -> None:
        try:
            self._conn = Connection(stack, name)
        except BaseException:
            stack.disconnect()
            raise

    @property
    def name(self) -> str:
        """The lockspace's name."""
        return self._conn.name

    @property
    def stack(self) -> Stack:
        """The stack underneath, with the asynchronous verbs; `dispatch` is not yours to call."""
        return self._conn.stack

    @property
    def capabilities(self) -> frozenset[str]:
        """What the stack underneath can do: words of :data:`pydlm.contract.CAPABILITIES`."""
        return self._conn.stack.capabilities

    @property
    def lvb_len(self) -> int:
        """Bytes in a lock value block."""
        return self._conn.stack.lvb_len

    @property
    def node(self) -> int:
        """Id of this connection, the `client` of its locks in `dump`."""
        return self._conn.stack.this_node

    def lock(self, name: str | bytes) -> AsyncLock:
        """Open a lock on the resource `name`, 1 to 64 bytes; text is encoded as UTF-8.

        The handle holds NL, which excludes nobody; `acquire` takes it. Each call makes a handle of
        its own, and two handles exclude each other as two processes would. Never waits. Raises
        BadArgument, LockspaceFull, Closed, Forked.
        """
        return self._conn.opened(resource_name(name))

    def cached(
        self,
        name: str | bytes,
        *,
        on_drop: AsyncOnDrop | None = None,
        exclusion: bool | None = None,
        codec: Codec | None = None,
    ) -> AsyncCachedLock:
        """Return the cached lock on the resource `name`: kept until somebody else asks for it.

        As :meth:`pydlm.Lockspace.cached`, but that `on_drop(lock, new_level)` runs in a task of its
        own and may be a coroutine function, and that the lock is on the same client as those
        of `lock`. Never waits. Raises BadArgument, Unsupported, LockspaceFull, Closed, Forked.
        """
        if on_drop is not None and not callable(on_drop):
            raise TypeError(f"on_drop is a callable or None, not {type(on_drop).__name__}")
        return self._conn.cached(resource_name(name), on_drop, exclusion, codec)

    def events(self) -> Events:
        """Return an asynchronous iterator over the connection's events, oldest first.

        Events are Blocked (a lock of this connection keeps somebody waiting), NodeDown, and
        Completion of requests made with the stack's own verbs. They wait until somebody asks;
        of notices for one lock only the strictest. Several iterators share them: each event
        goes to one. Ends when the connection is closed.
        """
        return Events(self._conn.kept)

    def dump(self, name: str | bytes | None = None) -> Iterable[LockStatus]:
        """List the locks of all connections, on one resource or on all."""
        self._conn.check_live()
        return self._conn.stack.dump(None if name is None else resource_name(name))

    def close(self) -> None:
        """Leave the lockspace. All locks are released; waiting tasks get Closed. Idempotent.

        Never waits, and works after the loop was closed too; so it runs no on_drop. Should the
        stack fail to leave, that is raised, and the next call tries it again.
        """
        self._conn.close()

    async def aclose(self) -> None:
        """Close all cached locks, each after its on_drop, then `close`.

        What cannot be unlocked keeps nothing else from being: it is raised at the end. In
        an on_drop of this connection it raises Busy, as it would wait for itself. Cancelled, it
        leaves at once, as `close` does.
        """
        self._conn.check_may_wait()
        try:
            await self._conn.close_cached()
        finally:
            self._conn.close()

    async def __aenter__(self) -> Self:
        self._conn.check_live()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __reduce__(self) -> NoReturn:
        # This is what copy and pickle ask for.
        raise TypeError("an AsyncLockspace cannot be copied or pickled; connect() again instead")

    def __repr__(self) -> str:
        return f"<pydlm.aio.AsyncLockspace {self.name!r} on {self._conn.stack.name}>"


def connect(lockspace: str, stack: str | None = None, **options: Any) -> AsyncLockspace:
    """Join `lockspace` and return the connection, an asynchronous context manager that leaves it.

    Arguments are those of :func:`pydlm.connect`. Called in a running event loop, else RuntimeError;
    it does not wait for anything that other nodes do. Raises StackUnavailable, BadArgument.
    """
    asyncio.get_running_loop()  # before there is anything to leave
    return AsyncLockspace(lockspace, connect_stack(stack, lockspace, **options))
