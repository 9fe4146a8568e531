"""The cached locks of a `Lockspace`: by name, each once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from pydlm.blocking.arguments import resource_name
from pydlm.cached.keeper import Keeper
from pydlm.cached.lock import CachedLock, OnDrop
from pydlm.cached.values import Codec
from pydlm.contract import Stack
from pydlm.errors import Busy, Closed, Forked, Unsupported

__all__ = ["CachedLocks"]


class CachedLocks:
    """Opens cached locks. `connect` makes the client that they are on, with the first of them.

    It is a client of its own, so that events of cached locks do not mix with those that the
    user dispatches.
    """

    def __init__(self, connect: Callable[[], Stack] | None) -> None:
        self._connect = connect
        self._keeper: Keeper | None = None
        self._by_name: dict[bytes, CachedLock] = {}
        self._guard = threading.Lock()
        self._closed = False
        self._pid = os.getpid()

    @property
    def stack(self) -> Stack | None:
        """The client that they are on; None before the first of them."""
        return None if self._keeper is None else self._keeper.stack

    def open(
        self, name: str | bytes, on_drop: OnDrop | None, exclusion: bool, codec: Codec | None
    ) -> CachedLock:
        """Return the cached lock on `name`, the same object as long as it is open."""
        raw = resource_name(name)
        if on_drop is not None and not callable(on_drop):
            raise TypeError(f"on_drop is a callable or None, not {type(on_drop).__name__}")
        if self._pid != os.getpid():
            raise Forked("the connection belongs to the parent process; connect again in the child")
        with self._guard:
            if self._closed:
                raise Closed("the connection to the lockspace is closed")
            if self._keeper is None:
                if self._connect is None:
                    raise Unsupported("this Lockspace cannot connect again; make it by connect()")
                self._keeper = self._keeper_on(self._connect())
            found = self._by_name.get(raw)
            if found is None:
                lock = CachedLock(self._keeper, raw, on_drop, exclusion, codec)
                try:
                    lock._start()
                except BaseException:
                    lock.close()
                    raise
                self._by_name[raw] = lock
                return lock
        found._check_options(on_drop, exclusion, codec)
        return found

    def close(self) -> None:
        """Let all cached locks go and leave. Raises nothing where there is nothing to leave.

        What cannot be unlocked keeps nothing else from being: it is raised at the end.
        """
        if self._pid != os.getpid():
            return
        self.check_may_close()
        with self._guard:
            self._closed = True
        keeper = self._keeper
        if keeper is not None:
            failed = keeper.let_all_go()
            keeper.stop()
            if failed:
                raise failed[0]

    def check_may_close(self) -> None:
        """Raise Busy in an on_drop, which `close` would wait for."""
        keeper = self._keeper
        if keeper is not None and self._pid == os.getpid() and keeper.is_own_thread():
            raise Busy("the connection cannot be closed in an on_drop: it would wait for itself")

    def _keeper_on(self, stack: Stack) -> Keeper:
        try:
            return Keeper(stack, self._forget)
        except BaseException:
            stack.disconnect()
            raise

    def _forget(self, lock: CachedLock) -> None:
        if self._by_name.get(lock.name) is lock:
            del self._by_name[lock.name]
