"""The `local` stack: a lockspace in the memory of this process.

Each connection is a client of its own; several stand for several nodes.
"""

from __future__ import annotations

import os
import threading
from typing import ClassVar
from weakref import WeakValueDictionary

from pydlm import _core
from pydlm.contract import NativeStack
from pydlm.errors import BadArgument
from pydlm.stacks._capabilities import ARENA_CAPABILITIES

__all__ = ["LocalStack"]

_DEFAULT_CAPACITY = 1 << 20
_DEFAULT_LVB_LEN = 64

_arenas: WeakValueDictionary[str, _core.Arena] = WeakValueDictionary()
_arenas_guard = threading.Lock()


def _after_fork_in_child() -> None:
    # The child's copies may have been caught half-way through a change by another thread.
    global _arenas, _arenas_guard
    _arenas = WeakValueDictionary()
    _arenas_guard = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)


class LocalStack(_core.Client):
    """A connection to a lockspace of this process. The lockspace lasts as long as one is open."""

    name: ClassVar[str] = "local"
    capabilities: ClassVar[frozenset[str]] = ARENA_CAPABILITIES

    @classmethod
    def connect(
        cls,
        lockspace: str,
        locator: str = "",
        *,
        capacity: int | None = None,
        lvb_len: int | None = None,
        deadlock_wait: float | None = 1.0,
    ) -> LocalStack:
        """Join `lockspace`; who comes first creates it.

        `capacity`: locks, and resources, it has room for (default 1,048,576). `lvb_len`: bytes of
        a lock value block (default 64). `deadlock_wait`: seconds after which a waiter looks
        for a deadlock; 0 at once, None never. Raises BadArgument where the lockspace exists and is
        of another size.
        """
        if locator:
            raise BadArgument(f"the local stack has no place to choose; {locator!r} means nothing")
        with _arenas_guard:
            arena = _arenas.get(lockspace)
            if arena is None:
                arena = _core.Arena(
                    lockspace,
                    capacity=_DEFAULT_CAPACITY if capacity is None else capacity,
                    lvb_len=_DEFAULT_LVB_LEN if lvb_len is None else lvb_len,
                )
                _arenas[lockspace] = arena
        for what, wanted, found in (
            ("capacity", capacity, arena.capacity),
            ("lvb_len", lvb_len, arena.lvb_len),
        ):
            if wanted is not None and wanted != found:
                raise BadArgument(
                    f"lockspace {lockspace!r} exists with {what} {found}, not {wanted}; "
                    f"leave {what} out, or close its connections first"
                )
        return cls(arena, deadlock_wait=deadlock_wait)


NativeStack.register(LocalStack)
