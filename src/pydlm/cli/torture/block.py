"""What stands in the lock value block: a counter, and a pattern that follows from it.

The pattern fills the block to its last byte and has no byte in common with that of the next
counter but by chance, so neither a part of an older block nor a torn one is taken for a whole.
"""

from __future__ import annotations

from hashlib import shake_128
from typing import Final

__all__ = ["COUNTER_BYTES", "block_of", "counter_of"]

COUNTER_BYTES: Final = 8


def block_of(counter: int, size: int) -> bytes:
    """Return the block for `counter`; for 0 it is the one that nobody has written yet: zeros."""
    if counter == 0:
        return bytes(size)
    head = counter.to_bytes(COUNTER_BYTES, "big")
    return head + shake_128(head).digest(size - COUNTER_BYTES)


def counter_of(block: bytes) -> int | None:
    """Return the counter in `block`, or None if the block is not whole."""
    counter = int.from_bytes(block[:COUNTER_BYTES], "big")
    return counter if block == block_of(counter, len(block)) else None
