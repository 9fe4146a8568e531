"""What is written to, and read from, the device of a lockspace: ``linux/dlm_device.h``, 64 bits.

libdlm is not used for this. Up to 4.2.0 at least, its unlock never passes the caller's lock
value block (with VALBLK, the resource receives what was on the stack), and its dispatch does not
hand on for which mode a blocking notice is.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

from pydlm.errors import StackUnavailable

__all__ = [
    "BLOCKING",
    "COMPLETION",
    "LVB_LEN",
    "RESULT_SIZE",
    "VERSION_SIZE",
    "Requests",
    "Result",
    "result",
]

LVB_LEN: Final = 32  # DLM_USER_LVB_LEN

# struct dlm_write_request with struct dlm_lock_params: version, command, is64bit; then mode,
# namelen, flags, lkid, parent, xid, timeout, castparam, castaddr, bastparam, bastaddr, lksb, lvb;
# the name follows. The kernel hands the addresses back and never looks where they point;
# but none may be 0.
_REQUEST: Final = Struct("=3I BB2x BBxxIII QQ QQQQQ 32s")
_LOCK: Final = 1
_UNLOCK: Final = 2
_DEADLOCK: Final = 7

# The same with struct dlm_purge_params, as long as the kernel wants every request to be.
_PURGE: Final = Struct(f"=3I BB2x II {_REQUEST.size - 24}x")
_PURGE_COMMAND: Final = 6

# struct dlm_lock_result: version, length, astaddr, astparam, lksb's address; struct dlm_lksb:
# status, lkid, flags, the block's address; then the mode of a blocking notice, and where the
# block is, if one came along.
_RESULT: Final = Struct("=3I I QQQ iIB7xQ B3xI")

#: What comes back as the address of the function to call, and so tells the two apart.
COMPLETION: Final = 1
BLOCKING: Final = 2

#: What to read: a result, and the block that may follow it.
RESULT_SIZE: Final = _RESULT.size + LVB_LEN
#: Who reads just as much is told the version that the kernel speaks.
VERSION_SIZE: Final = 12
_VERSION: Final = Struct("=3I")
_MAJOR: Final = 6  # DLM_DEVICE_VERSION_MAJOR


class Requests:
    """Makes requests in the version that the kernel speaks. Raises StackUnavailable."""

    __slots__ = ("_version",)

    def __init__(self, version: bytes) -> None:
        self._version: tuple[int, int, int] = _VERSION.unpack(version)
        if self._version[0] != _MAJOR:
            spoken = ".".join(map(str, self._version))
            raise StackUnavailable(
                f"the kernel's dlm devices speak version {spoken}, and pydlm {_MAJOR} only; "
                "look for a newer pydlm"
            )

    def lock(
        self, mode: int, flags: int, lkid: int, tag: int, lvb: bytes, name: bytes = b""
    ) -> bytes:
        """Return a request for a new lock on `name`, or for a conversion of `lkid`.

        Its results carry `tag`.
        """
        return self._pack(_LOCK, mode, flags, lkid, tag, lvb, len(name)) + name

    def unlock(self, flags: int, lkid: int, tag: int, lvb: bytes) -> bytes:
        """Return a request to unlock or, with CANCEL, to take back what `lkid` waits for."""
        return self._pack(_UNLOCK, 0, flags, lkid, tag, lvb, 0)

    def deadlock_cancel(self, lkid: int) -> bytes:
        """Return a request to take back what `lkid` waits for, with EDEADLK."""
        return self._pack(_DEADLOCK, 0, 0, lkid, 0, bytes(LVB_LEN), 0)

    def purge(self, node: int, pid: int) -> bytes:
        """Return a request to drop the orphans of a node's process; pid 0: of all of them."""
        return _PURGE.pack(*self._version, _PURGE_COMMAND, 1, node, pid)

    def _pack(
        self, command: int, mode: int, flags: int, lkid: int, tag: int, lvb: bytes, size: int
    ) -> bytes:
        return _REQUEST.pack(
            *self._version,
            *(command, 1),
            *(mode, size, flags, lkid, 0),
            *(0, 0),
            *(tag, COMPLETION, tag, BLOCKING, 1),
            lvb,
        )


class Result(NamedTuple):
    """One result."""

    kind: int  #: COMPLETION or BLOCKING
    tag: int
    status: int
    lkid: int
    flags: int
    mode: int  #: of a blocking notice
    lvb: bytes | None


def result(record: bytes) -> Result:
    """Take a record apart."""
    (_, _, _, _, kind, tag, _, status, lkid, flags, _, mode, offset) = _RESULT.unpack_from(record)
    lvb = record[offset : offset + LVB_LEN] if offset else None
    return Result(kind, tag, status, lkid, flags, mode, lvb)
