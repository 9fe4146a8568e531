"""The cached lock as the user sees it."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from pydlm.blocking.reader import EventFd
from pydlm.cached.actions import Outcome
from pydlm.cached.face import Face
from pydlm.cached.kept import ThreadWaiter
from pydlm.cached.values import Codec
from pydlm.errors import Busy, Closed
from pydlm.types import Mode

if TYPE_CHECKING:
    from pydlm.cached.keeper import Keeper

__all__ = ["CachedLock", "OnDrop"]


class CachedLock(Face):
    """A lock that the connection keeps, though nobody uses it, until somebody else asks.

    ``with lock.shared():`` and ``with lock.exclusive():`` use it. While the level that is kept
    suffices, that asks nobody: others get the lock when the uses in their way have ended.
    Uses belong to no thread, and are not reentrant. Made by :meth:`pydlm.Lockspace.cached`.
    """

    def __init__(
        self,
        keeper: Keeper,
        name: bytes,
        on_drop: OnDrop | None,
        exclusion: bool | None,
        codec: Codec | None,
    ) -> None:
        self._keeper = keeper
        super().__init__(keeper.stack, keeper.mail, name, on_drop, exclusion, codec)

    def fileno(self) -> int:
        """Return a descriptor that is readable as long as `blocked` is not None.

        Made on first use, owned by the lock. Raises OSError where there are no more descriptors.
        """
        self._check_live()
        kept = self._kept
        if kept.machine.closed:
            raise Closed("the cached lock is closed")
        descriptor = kept.descriptor
        if descriptor is None:
            descriptor = kept.descriptor = EventFd()
            self._keeper.ask(kept, kept.machine.ended)  # after which it is shown
        return descriptor.fileno()

    # Letting go.

    def drop(self) -> None:
        """Let go now, back to NL, as if somebody else wanted EX.

        Returns when that is through, on_drop included. While a use is under way it returns at
        once, and the lock is let go when the last one ends; so also in on_drop.
        """
        self._check_live()
        self._await(self._kept.machine.let_go)

    def close(self) -> None:
        """Let go for good. New and waiting uses raise Closed. Idempotent.

        Returns when the lock is gone, on_drop included. Uses that are under way go on: then it
        returns at once, and the lock is let go when the last one ends.
        """
        if self.forked or self._kept.machine.error is not None:
            return
        self._keeper.forget(self)
        try:
            self._await(self._kept.machine.close)
        except Closed:
            return

    # How it works inside.

    def _start(self) -> None:
        """Return when the lock is on the stack, whoever makes it. Raises LockspaceFull, Closed."""
        if self._kept.machine.attached:
            return
        if self._keeper.is_keeping():
            raise Busy("a finalizer that runs in the keeper's thread cannot wait for it")
        self._await(self._kept.machine.be_attached, wait=True)

    def _await(self, step: Callable[[ThreadWaiter], Any], *, wait: bool = False) -> None:
        waiter = ThreadWaiter()
        self._keeper.ask(self._kept, step, waiter)
        if wait or not self._keeper.is_own_thread():
            waiter.wait()

    def _begin(self, exclusive: bool, blocking: bool, timeout: float) -> None:
        """Take a use that the gate is not open to."""
        self._check_live()
        in_on_drop = self._keeper.callbacks.is_own_thread()
        if self._keeper.closing and not in_on_drop:
            raise Closed("the connection to the lockspace is closed")
        if self._keeper.is_keeping():
            raise Busy("a finalizer that runs in the keeper's thread cannot wait for it")
        own = in_on_drop and self._runs_on_drop()
        # No time at all: what can be had at once, as of a raw lock.
        trying = own or not blocking or timeout == 0
        waiter = ThreadWaiter(exclusive, trying, in_on_drop=in_on_drop)
        machine, ask = self._kept.machine, self._keeper.ask
        deadline = monotonic() + timeout
        try:
            ask(self._kept, machine.want, waiter)
            outcome = waiter.wait(None if timeout in (-1, 0) else deadline - monotonic())
            if outcome is None:
                ask(self._kept, machine.expire, waiter)
                outcome = waiter.wait()
        except BaseException:
            # Also where a signal handler raises: whatever the keeper has done for us is undone.
            self._keeper.post((self._kept, machine.abandon, (waiter,)))
            raise
        if outcome is Outcome.DONE:
            return
        expired = outcome is Outcome.EXPIRED
        raise self._not_had(exclusive, blocking, timeout, own=own, expired=expired)

    def _runs_on_drop(self) -> bool:
        return self._keeper.callbacks.running is self._kept


#: Called with the lock and the level that it is about to fall to, NL or PR.
OnDrop = Callable[[CachedLock, Mode], object]
