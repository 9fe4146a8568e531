"""libo2dlm's numbers, by their names: lock levels, flags, limits and error codes."""

from __future__ import annotations

import errno as _errno
import os
from enum import IntEnum, IntFlag
from typing import Final

from pydlm.errors import DlmError

__all__ = [
    "O2DLM_DOMAIN_MAX_LEN",
    "O2DLM_ET_BAD_DOMAIN_DIR",
    "O2DLM_ET_BAST_UNSUPPORTED",
    "O2DLM_ET_BUSY_DOMAIN_DIR",
    "O2DLM_ET_BUSY_LOCK",
    "O2DLM_ET_DOMAIN_BUSY",
    "O2DLM_ET_DOMAIN_CREATE",
    "O2DLM_ET_DOMAIN_DESTROY",
    "O2DLM_ET_DOMAIN_DIR",
    "O2DLM_ET_FAILED_UNLOCKS",
    "O2DLM_ET_INTERNAL_FAILURE",
    "O2DLM_ET_INVALID_ARGS",
    "O2DLM_ET_INVALID_LOCK_LEVEL",
    "O2DLM_ET_INVALID_LOCK_NAME",
    "O2DLM_ET_LOCKING",
    "O2DLM_ET_LVB_INVALID",
    "O2DLM_ET_LVB_READ",
    "O2DLM_ET_LVB_WRITE",
    "O2DLM_ET_NAME_TOO_LONG",
    "O2DLM_ET_NO_DOMAIN_DIR",
    "O2DLM_ET_NO_FS",
    "O2DLM_ET_NO_FS_DIR",
    "O2DLM_ET_NO_MEMORY",
    "O2DLM_ET_OPEN_DLM_DIR",
    "O2DLM_ET_OUTPUT_ERROR",
    "O2DLM_ET_RANDOM",
    "O2DLM_ET_RECURSIVE_LOCK",
    "O2DLM_ET_SEEK",
    "O2DLM_ET_SERVICE_UNAVAILABLE",
    "O2DLM_ET_STATFS",
    "O2DLM_ET_TRYLOCK_FAILED",
    "O2DLM_ET_UNKNOWN_LOCK",
    "O2DLM_ET_UNLINK",
    "O2DLM_LEVEL_EXMODE",
    "O2DLM_LEVEL_PRMODE",
    "O2DLM_LOCK_ID_MAX_LEN",
    "O2DLM_TRYLOCK",
    "O2DLM_VALID_FLAGS",
    "ErrorCode",
    "Level",
    "LockFlags",
    "O2dlmError",
]

#: Bytes of a lock's name, and of a domain's, with the NUL that ends it in C.
O2DLM_LOCK_ID_MAX_LEN: Final = 32
O2DLM_DOMAIN_MAX_LEN: Final = 255


class Level(IntEnum):
    """What a lock is taken for (``enum o2dlm_lock_level``)."""

    PRMODE = 0  #: beside others who read
    EXMODE = 1  #: alone, to write


class LockFlags(IntFlag):
    """How a lock is taken."""

    TRYLOCK = 0x01  #: fail with TRYLOCK_FAILED instead of waiting


O2DLM_LEVEL_PRMODE: Final = Level.PRMODE
O2DLM_LEVEL_EXMODE: Final = Level.EXMODE
O2DLM_TRYLOCK: Final = LockFlags.TRYLOCK
O2DLM_VALID_FLAGS: Final = LockFlags.TRYLOCK

# ERROR_TABLE_BASE_o2dl of <o2dlm/o2dlm_err.h>: com_err's number for the table's name, "o2dl".
_BASE: Final = -1485330944


class ErrorCode(IntEnum):
    """What went wrong (``O2DLM_ET_*``, an ``errcode_t`` of com_err)."""

    NO_MEMORY = _BASE
    SERVICE_UNAVAILABLE = _BASE + 1
    INVALID_LOCK_NAME = _BASE + 2
    INVALID_LOCK_LEVEL = _BASE + 3
    INTERNAL_FAILURE = _BASE + 4
    NAME_TOO_LONG = _BASE + 5
    STATFS = _BASE + 6
    NO_FS_DIR = _BASE + 7
    NO_FS = _BASE + 8
    OPEN_DLM_DIR = _BASE + 9
    NO_DOMAIN_DIR = _BASE + 10
    BAD_DOMAIN_DIR = _BASE + 11
    BUSY_DOMAIN_DIR = _BASE + 12
    DOMAIN_DIR = _BASE + 13
    DOMAIN_DESTROY = _BASE + 14
    DOMAIN_CREATE = _BASE + 15
    RANDOM = _BASE + 16
    BUSY_LOCK = _BASE + 17
    OUTPUT_ERROR = _BASE + 18
    UNLINK = _BASE + 19
    UNKNOWN_LOCK = _BASE + 20
    RECURSIVE_LOCK = _BASE + 21
    LOCKING = _BASE + 22
    FAILED_UNLOCKS = _BASE + 23
    INVALID_ARGS = _BASE + 24
    TRYLOCK_FAILED = _BASE + 25
    LVB_READ = _BASE + 26
    LVB_WRITE = _BASE + 27
    SEEK = _BASE + 28
    DOMAIN_BUSY = _BASE + 29
    BAST_UNSUPPORTED = _BASE + 30
    LVB_INVALID = _BASE + 31


O2DLM_ET_NO_MEMORY: Final = ErrorCode.NO_MEMORY
O2DLM_ET_SERVICE_UNAVAILABLE: Final = ErrorCode.SERVICE_UNAVAILABLE
O2DLM_ET_INVALID_LOCK_NAME: Final = ErrorCode.INVALID_LOCK_NAME
O2DLM_ET_INVALID_LOCK_LEVEL: Final = ErrorCode.INVALID_LOCK_LEVEL
O2DLM_ET_INTERNAL_FAILURE: Final = ErrorCode.INTERNAL_FAILURE
O2DLM_ET_NAME_TOO_LONG: Final = ErrorCode.NAME_TOO_LONG
O2DLM_ET_STATFS: Final = ErrorCode.STATFS
O2DLM_ET_NO_FS_DIR: Final = ErrorCode.NO_FS_DIR
O2DLM_ET_NO_FS: Final = ErrorCode.NO_FS
O2DLM_ET_OPEN_DLM_DIR: Final = ErrorCode.OPEN_DLM_DIR
O2DLM_ET_NO_DOMAIN_DIR: Final = ErrorCode.NO_DOMAIN_DIR
O2DLM_ET_BAD_DOMAIN_DIR: Final = ErrorCode.BAD_DOMAIN_DIR
O2DLM_ET_BUSY_DOMAIN_DIR: Final = ErrorCode.BUSY_DOMAIN_DIR
O2DLM_ET_DOMAIN_DIR: Final = ErrorCode.DOMAIN_DIR
O2DLM_ET_DOMAIN_DESTROY: Final = ErrorCode.DOMAIN_DESTROY
O2DLM_ET_DOMAIN_CREATE: Final = ErrorCode.DOMAIN_CREATE
O2DLM_ET_RANDOM: Final = ErrorCode.RANDOM
O2DLM_ET_BUSY_LOCK: Final = ErrorCode.BUSY_LOCK
O2DLM_ET_OUTPUT_ERROR: Final = ErrorCode.OUTPUT_ERROR
O2DLM_ET_UNLINK: Final = ErrorCode.UNLINK
O2DLM_ET_UNKNOWN_LOCK: Final = ErrorCode.UNKNOWN_LOCK
O2DLM_ET_RECURSIVE_LOCK: Final = ErrorCode.RECURSIVE_LOCK
O2DLM_ET_LOCKING: Final = ErrorCode.LOCKING
O2DLM_ET_FAILED_UNLOCKS: Final = ErrorCode.FAILED_UNLOCKS
O2DLM_ET_INVALID_ARGS: Final = ErrorCode.INVALID_ARGS
O2DLM_ET_TRYLOCK_FAILED: Final = ErrorCode.TRYLOCK_FAILED
O2DLM_ET_LVB_READ: Final = ErrorCode.LVB_READ
O2DLM_ET_LVB_WRITE: Final = ErrorCode.LVB_WRITE
O2DLM_ET_SEEK: Final = ErrorCode.SEEK
O2DLM_ET_DOMAIN_BUSY: Final = ErrorCode.DOMAIN_BUSY
O2DLM_ET_BAST_UNSUPPORTED: Final = ErrorCode.BAST_UNSUPPORTED
O2DLM_ET_LVB_INVALID: Final = ErrorCode.LVB_INVALID

# Where no system call has said it.
_ERRNO: Final = {
    ErrorCode.SERVICE_UNAVAILABLE: _errno.ENODEV,
    ErrorCode.NAME_TOO_LONG: _errno.ENAMETOOLONG,
    ErrorCode.NO_FS: _errno.ENODEV,
    ErrorCode.NO_FS_DIR: _errno.ENOTDIR,
    ErrorCode.BUSY_LOCK: _errno.EBUSY,
    ErrorCode.UNLINK: _errno.ENOENT,
    ErrorCode.UNKNOWN_LOCK: _errno.ENOENT,
    ErrorCode.RECURSIVE_LOCK: _errno.EDEADLK,
    ErrorCode.TRYLOCK_FAILED: _errno.ETXTBSY,
    ErrorCode.BAST_UNSUPPORTED: _errno.EOPNOTSUPP,
    ErrorCode.LVB_INVALID: _errno.ENODATA,
}


class O2dlmError(DlmError):
    """A call of `pydlm.o2dlm` failed: `code` says how, `errno` what the system said, if it did."""

    def __init__(
        self, code: ErrorCode, message: str, *, cause: OSError | DlmError | None = None
    ) -> None:
        if isinstance(cause, OSError) and cause.errno:
            message = f"{message}: {os.strerror(cause.errno)}"
        elif cause is not None:
            message = f"{message}: {cause}"
        said = None if cause is None else cause.errno
        super().__init__(
            f"{message} (O2DLM_ET_{code.name})", errno=said or _ERRNO.get(code, _errno.EINVAL)
        )
        self.code = code
        self.__cause__ = cause

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions are pickled with their arguments, of which this one has others.
        return _remade, (str(self), self.errno, self.code)


def _remade(message: str, number: int, code: ErrorCode) -> O2dlmError:
    error = O2dlmError.__new__(O2dlmError, message)
    error.args = (message,)
    error.errno = number
    error.code = code
    return error
