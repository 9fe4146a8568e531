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
from pydlm.errors import Closed, Forked, Unsupported

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
        """Let all cached locks go and leave. Raises nothing where there is nothing to leave."""
        if self._pid != os.getpid():
            return
        with self._guard:
            self._closed = True
        for lock in list(self._by_name.values()):
            lock.close()
        if self._keeper is not None:
            self._keeper.stop()

    def _keeper_on(self, stack: Stack) -> Keeper:
        try:
            return Keeper(stack, self._forget)
        except BaseException:
            stack.disconnect()
            raise

    def _forget(self, lock: CachedLock) -> None:
        if self._by_name.get(lock.name) is lock:
            del self._by_name[lock.name]
