"""A lock held for the length of a `with`."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

from pydlm.errors import LockTimeout, WouldBlock
from pydlm.types import Mode

if TYPE_CHECKING:
    from pydlm.blocking.lock import StackLock

__all__ = ["Held"]


class Held:
    """The context manager of `StackLock.held`."""

    def __init__(self, lock: StackLock, mode: Mode, blocking: bool, timeout: float) -> None:
        self._lock = lock
        self._how = mode, blocking, timeout

    def __enter__(self) -> StackLock:
        mode, blocking, timeout = self._how
        if not self._lock.acquire(blocking, timeout, mode=mode):
            what = f"{self._lock.name!r} could not be had in {mode.name}"
            if blocking:
                raise LockTimeout(f"{what} within {timeout} seconds")
            raise WouldBlock(f"{what} at once")
        return self._lock

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._lock.release()
