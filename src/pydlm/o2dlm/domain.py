"""What `Context` asks of the place where the locks are: files on a dlmfs, or a stack.

Names are bytes, and have been checked. All raise O2dlmError.
"""

from __future__ import annotations

from typing import Protocol

from pydlm.o2dlm.codes import Level

__all__ = ["Domain", "HeldLock"]


class HeldLock(Protocol):
    """A lock that the context holds."""

    def fileno(self) -> int:
        """Return a descriptor that is readable while the lock is in somebody's way."""

    def read(self, length: int) -> bytes:
        """Return the first bytes of the lock value block; none if it is invalid."""

    def write(self, data: bytes) -> int:
        """Put bytes at its beginning; return how many it had room for. The rest stays."""

    def unlock(self) -> None:
        """Give the lock up; the domain may keep it until another node asks."""


class Domain(Protocol):
    """The domain that the context has joined."""

    @property
    def capabilities(self) -> frozenset[str]:
        """What it can do, in the words of ocfs2_dlmfs: `bast`, `stackglue`."""

    def lock(self, name: bytes, level: Level, *, trying: bool) -> HeldLock:
        """Take a lock, waiting unless `trying`: TRYLOCK_FAILED, LOCKING."""

    def drop(self, name: bytes) -> None:
        """Have a lock forgotten that nobody of this node holds: BUSY_LOCK, UNLINK."""

    def leave(self) -> None:
        """Leave the domain; remove it where nobody of this node is in it any more."""
