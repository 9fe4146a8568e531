"""One lock of a connection: what has been asked for it, and what its results mean."""

from __future__ import annotations

import os
import time
from typing import Final

from pydlm.stacks.fsdlm.records import LVB_LEN, Result
from pydlm.types import EUNLOCK, Completion, LockFlag, LockStatus, Mode, Queue, StatusFlag

__all__ = ["MODES", "NO_BLOCK", "Request"]

NO_BLOCK: Final = bytes(LVB_LEN)

# Plain numbers, and tables for the way back: the operations of enumerations cost more than the
# kernel does.
_VALBLK: Final = int(LockFlag.VALBLK)
_ALTPR: Final = int(LockFlag.ALTPR)
_PR: Final = int(Mode.PR)
_DEMOTED: Final = int(StatusFlag.DEMOTED)
_VALNOTVALID: Final = int(StatusFlag.VALNOTVALID)
_ALTMODE: Final = int(StatusFlag.ALTMODE)
_FLAGS: Final = tuple(StatusFlag(bits) for bits in range(sum(StatusFlag) + 1))
MODES: Final = tuple(Mode)


class Request:
    """A lock, from the moment it is asked for until the kernel says that it is gone."""

    __slots__ = (
        "block",
        "flags",
        "granted",
        "has_block",
        "kernel_id",
        "lkid",
        "name",
        "requested",
        "since",
        "unwanted",
        "valid",
    )

    def __init__(self, tag: int, name: bytes, mode: int, flags: int) -> None:
        self.lkid = tag << 32  # and the kernel's, when it is known
        self.kernel_id = 0
        self.name = name
        self.granted: Mode | None = None
        self.requested: int | None = mode
        self.flags = flags
        self.has_block = bool(flags & _VALBLK)
        self.block = NO_BLOCK  #: its copy of the lock value block
        self.valid = True
        self.since = time.monotonic()
        self.unwanted = False  #: who asked was interrupted, and does not know the lkid

    def identify(self, kernel_id: int) -> int:
        """Take note of the kernel's lkid; return the one to be known by.

        The kernel uses its numbers again, at once. So whoever still has an old one would name
        somebody else's lock; the tag before it is never used again.
        """
        self.kernel_id = kernel_id
        self.lkid = self.lkid >> 32 << 32 | kernel_id
        return self.lkid

    def adopt(self) -> None:
        """It was an orphan's, and is granted without a completion; nobody has told of its block."""
        self.granted, self.requested, self.valid = Mode(self.requested or 0), None, False

    def fill(self, flags: int, lvb: bytes | None) -> bytes:
        """Return the lock value block that a call takes along."""
        if flags & _VALBLK:
            self.has_block = True
        if lvb is not None:
            if not self.has_block:
                return lvb.ljust(LVB_LEN, b"\0")
            self.block = lvb.ljust(LVB_LEN, b"\0")
        return self.block

    def completed(self, result: Result) -> Completion:
        """Take in how a request ended."""
        status = -result.status  # the kernel's are negative
        bits = result.flags & (len(_FLAGS) - 1)
        if status == 0:
            if self.requested is not None:
                self.granted = MODES[self._given(self.requested, bits)]
            self.valid = not bits & _VALNOTVALID
            if result.lvb is not None:
                self.block = result.lvb
        elif status == EUNLOCK:
            self.granted = None
        elif bits & _DEMOTED and self.granted is not None:
            self.granted = Mode.NL
        self.requested = None
        self.since = time.monotonic()
        return Completion(self.lkid, status, _FLAGS[bits], self.granted, result.lvb)

    def _given(self, requested: int, bits: int) -> int:
        if not bits & _ALTMODE:
            return requested
        return _PR if self.flags & _ALTPR and requested != _PR else Mode.CW

    def status(self, node: int) -> LockStatus:
        """Return what is known of it."""
        queue = Queue.GRANTED
        if self.requested is not None:
            queue = Queue.WAITING if self.granted is None else Queue.CONVERT
        requested = None if self.requested is None else Mode(self.requested)
        return LockStatus(
            self.lkid,
            self.name,
            node,
            queue,
            self.granted,
            requested,
            0,
            os.getpid() << 32,
            self.since,
        )
