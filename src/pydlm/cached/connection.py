"""The cached locks of a `Lockspace`: by name, each once."""

from __future__ import annotations

import os
from collections.abc import Callable

from pydlm.blocking.arguments import resource_name
from pydlm.cached.keeper import Keeper
from pydlm.cached.lock import CachedLock, OnDrop
from pydlm.cached.values import Codec
from pydlm.contract import Stack
from pydlm.errors import Busy, Closed, DlmError, Forked, Unsupported

__all__ = ["CachedLocks"]


class CachedLocks:
    """Opens cached locks. `connect` makes the client that they are on, with the first of them.

    It is a client of its own, so that events of cached locks do not mix with those that the
    user dispatches.
    """

    def __init__(self, connect: Callable[[], Stack] | None) -> None:
        self._connect = connect
        # No lock guards what is here: a signal handler, or a finalizer, may come back to it at
        # any moment. Each of these changes in one step.
        self._keepers: dict[str, Keeper | None] = {}  # at most one; None: closed before the first
        self._by_name: dict[bytes, CachedLock] = {}
        self._closed = False
        self._pid = os.getpid()

    @property
    def _keeper(self) -> Keeper | None:
        return self._keepers.get("keeper")

    def open(
        self,
        name: str | bytes,
        on_drop: OnDrop | None,
        exclusion: bool | None,
        codec: Codec | None,
    ) -> CachedLock:
        """Return the cached lock on `name`, the same object as long as it is open."""
        raw = resource_name(name)
        if on_drop is not None and not callable(on_drop):
            raise TypeError(f"on_drop is a callable or None, not {type(on_drop).__name__}")
        if self._pid != os.getpid():
            raise Forked("the connection belongs to the parent process; connect again in the child")
        keeper = self._running_keeper()
        if on_drop is not None:
            keeper.callbacks.start()
        found = self._by_name.get(raw)
        if found is not None and found._kept.machine.gone:
            self._forget(found)  # lost
            found = None
        if found is None:
            made = CachedLock(keeper, raw, on_drop, exclusion, codec)
            found = self._by_name.setdefault(raw, made)
        found._check_options(on_drop, exclusion, codec)
        try:
            found._start()
        except DlmError:
            if not found._kept.machine.attached:
                self._forget(found)
            raise
        return found

    def _running_keeper(self) -> Keeper:
        if self._closed:
            raise Closed("the connection to the lockspace is closed")
        if self._connect is None:
            raise Unsupported("this Lockspace cannot connect again; make it by connect()")
        keeper = self._keeper
        if keeper is None:
            made = Keeper(self._connect, self._forget, self._unmade)
            keeper = self._keepers.setdefault("keeper", made)
            if keeper is None:
                raise Closed("the connection to the lockspace is closed")
        keeper.begin()
        return keeper

    def _unmade(self, keeper: Keeper) -> None:
        """It could not connect: the next one may."""
        if self._keeper is keeper:
            self._keepers.pop("keeper", None)

    def close(self) -> None:
        """Let all cached locks go and leave. Raises nothing where there is nothing to leave.

        What cannot be unlocked keeps nothing else from being: it is raised at the end.
        """
        if self._pid != os.getpid():
            return
        self.check_may_close()
        self._closed = True
        keeper = self._keepers.setdefault("keeper", None)
        if keeper is not None:
            failed = keeper.let_all_go()
            keeper.stop()
            if failed:
                raise failed[0]

    def abandon(self) -> None:
        """Die, in a test: leave as by the loss of the machine; whoever waits gets Closed."""
        keeper = self._keeper
        if keeper is not None and keeper.connected:
            keeper.stack.abandon()  # type: ignore[attr-defined]
            keeper.post(None)  # it may sleep on the descriptor that is gone, and not notice

    def check_may_close(self) -> None:
        """Raise Busy in an on_drop, which `close` would wait for."""
        keeper = self._keeper
        if keeper is not None and self._pid == os.getpid() and keeper.is_own_thread():
            raise Busy("the connection cannot be closed in an on_drop: it would wait for itself")

    def in_use(self) -> list[CachedLock]:
        """Return the open locks that have uses under way."""
        locks = list(self._by_name.values())
        return [lock for lock in locks if lock.shared_uses or lock.exclusive_uses]

    def _forget(self, lock: CachedLock) -> None:
        if self._by_name.get(lock.name) is lock:
            self._by_name.pop(lock.name, None)
