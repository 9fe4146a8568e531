"""The lock value block of one handle: what each request carries, what each grant brings."""

from __future__ import annotations

from pydlm.contract import Stack
from pydlm.errors import DlmError, LVBInvalid
from pydlm.types import Completion, LockFlag, Mode, StatusFlag

__all__ = ["Block"]


def _reads(held: Mode, mode: Mode) -> bool:
    """Return whether going from `held` to `mode` reads the resource's block into the lock."""
    return mode > held or mode == held < Mode.PW


def _writes(held: Mode, mode: Mode) -> bool:
    """Return whether it writes the lock's block to the resource."""
    return held >= Mode.PW and not _reads(held, mode)


class Block:
    """A lock value block. The connection's guard covers it.

    `written` outlives whatever the stack reads into the lock meanwhile: PW to EX reads the block,
    and must not undo what the holder has written in PW.
    """

    __slots__ = ("_can_invalidate", "_exists", "_sent", "_stack", "valid", "value", "written")

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._exists = "lvb" in stack.capabilities
        self._can_invalidate = "ivvalblk" in stack.capabilities
        self._sent: bytes | None = None
        #: As the last grant read it.
        self.value = bytes(stack.lvb_len) if self._exists else b""
        self.valid = True
        #: What the holder has written and nobody else has seen.
        self.written: bytes | None = None

    def carried(self, held: Mode, mode: Mode) -> tuple[LockFlag, bytes | None]:
        """Return the flags and the value that a request from `held` to `mode` takes along.

        VALBLK always: without it the kernel once handed out stale bytes. Who has not written
        leaves the block as it is: the stack writes back what it read; what was invalid would
        become valid by that, so it is invalidated anew.
        """
        self._sent = None
        if not self._exists:
            return LockFlag(0), None
        if not _writes(held, mode):
            return LockFlag.VALBLK, None
        self._sent = self.written
        if self._sent is None and not self.valid and self._can_invalidate:
            return LockFlag.VALBLK | LockFlag.IVVALBLK, None
        return LockFlag.VALBLK, self._sent

    def is_valid(self) -> bool:
        """Return whether what a holder would read may be believed."""
        return self.written is not None or self.valid

    def read(self, name: bytes, how: str) -> bytes:
        """Return what its holder has written, or else what the stack has brought.

        Raises LVBInvalid, for the resource `name`; `how` says how it may be written.
        """
        if (written := self.written) is not None:  # a cached lock's keeper may publish it just now
            return written
        if self.valid:
            return self.value
        raise LVBInvalid(
            f"the lock value block of {name!r} is invalid: whoever was changing it died; "
            f"rebuild what it stands for and write it {how}"
        )

    def is_invalid_in(self, lkid: int) -> bool:
        """Ask the stack whether the block of a lock is invalid, where no completion has told."""
        if not self._can_invalidate or not lkid:
            return False
        try:
            return not self._stack.lvb_valid(lkid)
        except DlmError:
            return False  # the lock is gone

    def granted(self, held: Mode, mode: Mode, event: Completion) -> None:
        """Take note of the grant that `event` tells of."""
        if not self._exists:
            return
        if _reads(held, mode):
            self.valid = not event.flags & StatusFlag.VALNOTVALID
            if event.lvb is not None:
                self.value = event.lvb
        elif self._sent is not None and _writes(held, mode):
            # Valid from now on, whatever the completion says: its flag is about what was read.
            self.value, self.valid = self._sent, True
            if self.written is self._sent:  # not written again meanwhile
                self.written = None
