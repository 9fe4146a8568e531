"""Values in a lock value block: a `struct` format, or a pair of functions."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from pydlm.errors import BadArgument

__all__ = ["Codec", "pair_of"]

#: A `struct` format, or (value to bytes, bytes of the whole block to value).
Codec = str | tuple[Callable[[Any], bytes], Callable[[bytes], Any]]


def pair_of(codec: Any, lvb_len: int) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
    """Return the two functions. Of a format with one field the value is that, else a tuple."""
    if not isinstance(codec, str):
        if isinstance(codec, tuple) and len(codec) == 2 and all(callable(f) for f in codec):
            to_bytes, from_bytes = codec
            return to_bytes, from_bytes
        raise TypeError(f"codec is a struct format or a pair of functions, not {codec!r}")
    try:
        fields = struct.Struct(codec)
    except struct.error as error:
        raise BadArgument(f"{codec!r} is no struct format: {error}") from None
    width = len(fields.unpack(bytes(fields.size)))
    if not width:
        raise BadArgument(f"{codec!r} has no fields")
    if fields.size > lvb_len:
        raise BadArgument(
            f"{codec!r} makes {fields.size} bytes; a lock value block here has {lvb_len}"
        )

    def packed(value: Any) -> bytes:
        try:
            return fields.pack(value) if width == 1 else fields.pack(*value)
        except (struct.error, TypeError, OverflowError) as error:
            raise BadArgument(f"{value!r} does not go into the codec {codec!r}: {error}") from None

    if width == 1:
        return packed, lambda block: fields.unpack_from(block)[0]
    return packed, fields.unpack_from
