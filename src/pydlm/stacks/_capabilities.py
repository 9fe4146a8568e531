"""What the stacks on the core's arena can do."""

from __future__ import annotations

from typing import Final

__all__ = ["ARENA_CAPABILITIES"]

ARENA_CAPABILITIES: Final = frozenset(
    {
        "bast",
        "stackglue",
        "modes6",
        "convert",
        "trylock",
        "cancel",
        "lvb",
        "ivvalblk",
        "fencing",
        "deadlock",
        "persistent",
        "native",
        "dump",
    }
)
