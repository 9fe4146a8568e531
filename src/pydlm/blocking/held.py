"""A lock held for the length of a `with`."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from pydlm.blocking.reader import Wait
from pydlm.errors import LockTimeout, WouldBlock
from pydlm.types import Mode

if TYPE_CHECKING:
    from pydlm.blocking.lock import StackLock

__all__ = ["Held"]


class Held:
    """The context manager of `StackLock.held`."""

    __slots__ = ("_how", "_lock")

    def __init__(self, lock: StackLock, mode: Mode, blocking: bool, timeout: float) -> None:
        self._lock = lock
        self._how = mode, blocking, timeout

    def __enter__(self) -> StackLock:
        mode, blocking, timeout = self._how
        lock, w = self._lock, Wait(acquiring=True)
        terms = lock._terms(mode, blocking, timeout)
        try:
            if lock._take(w, *terms):
                return lock
        except BaseException as error:
            lock._leave(w, error)
            raise
        what = f"{lock.name!r} could not be had in {mode.name}"
        if blocking:
            raise LockTimeout(f"{what} within {timeout} seconds")
        raise WouldBlock(f"{what} at once")

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._lock.__exit__(exc_type, exc, tb)
