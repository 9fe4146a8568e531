"""What the stacks on the core's arena have in common."""

from __future__ import annotations

from typing import Final

from pydlm import _core
from pydlm.contract import Lock
from pydlm.errors import BadArgument

__all__ = ["ARENA_CAPABILITIES", "DEFAULT_CAPACITY", "DEFAULT_LVB_LEN", "refuse_other_size"]

#: Locks, and resources, that a lockspace has room for.
DEFAULT_CAPACITY: Final = 1 << 20
#: Bytes of a lock value block.
DEFAULT_LVB_LEN: Final = 64

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

# The core knows nothing of contracts.
Lock.register(_core.Lock)


def refuse_other_size(
    arena: _core.Arena, capacity: int | None, lvb_len: int | None, otherwise: str
) -> None:
    """Raise BadArgument if a lockspace exists in another size than the one asked for."""
    for what, wanted, found in (
        ("capacity", capacity, arena.capacity),
        ("lvb_len", lvb_len, arena.lvb_len),
    ):
        if wanted is not None and wanted != found:
            raise BadArgument(
                f"lockspace {arena.name!r} exists with {what} {found}, not {wanted}; "
                f"leave {what} out, or {otherwise}"
            )
