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
from pydlm.stacks._arena import (
    ARENA_CAPABILITIES,
    DEFAULT_CAPACITY,
    DEFAULT_LVB_LEN,
    refuse_other_size,
)

__all__ = ["LocalStack"]

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

    __slots__ = ()

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
            # One without connections is gone, though somebody may have an object of it in hand.
            if arena is None or arena.connections == 0:
                arena = _core.Arena(
                    lockspace,
                    capacity=DEFAULT_CAPACITY if capacity is None else capacity,
                    lvb_len=DEFAULT_LVB_LEN if lvb_len is None else lvb_len,
                )
                _arenas[lockspace] = arena
            refuse_other_size(arena, capacity, lvb_len, "close its connections first")
            return cls(arena, deadlock_wait=deadlock_wait)


NativeStack.register(LocalStack)
