"""libdlm by cffi, loaded when the first connection is made: lockspaces, and what else is right."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from typing import Any, Final

from pydlm.errors import StackUnavailable

__all__ = ["CONTROL", "LIBRARY", "Libdlm", "load"]

LIBRARY: Final = "libdlm.so.3"
#: Through which lockspaces are made.
CONTROL: Final = "/dev/misc/dlm-control"

_DECLARATIONS: Final = """
typedef void *dlm_lshandle_t;
dlm_lshandle_t dlm_open_lockspace(const char *name);
int dlm_close_lockspace(dlm_lshandle_t ls);
int dlm_ls_get_fd(dlm_lshandle_t ls);
int dlm_ls_purge(dlm_lshandle_t ls, int nodeid, int pid);
int dlm_ls_deadlock_cancel(dlm_lshandle_t ls, uint32_t lkid, uint32_t flags);

int inotify_init1(int flags);
int inotify_add_watch(int fd, const char *path, uint32_t mask);
"""


class Libdlm:
    """The library's functions. Those that fail raise OSError."""

    def __init__(self, ffi: Any) -> None:
        self._ffi = ffi
        self._dlm = ffi.dlopen(LIBRARY)
        self._c = ffi.dlopen(None)

    def open(self, lockspace: str) -> Any:
        """Open a lockspace that this node has joined; return a handle."""
        handle = self._dlm.dlm_open_lockspace(os.fsencode(lockspace))
        if handle == self._ffi.NULL:
            raise self._error()
        return handle

    def close(self, handle: Any) -> None:
        """Close a lockspace. The kernel drops the locks that were taken through the handle."""
        self._dlm.dlm_close_lockspace(handle)

    def fileno(self, handle: Any) -> int:
        """Return the descriptor of the lockspace's device."""
        return int(self._dlm.dlm_ls_get_fd(handle))

    def purge(self, handle: Any, node: int, pid: int) -> None:
        """Drop the orphans that processes of a node left; pid 0: those of all."""
        if self._dlm.dlm_ls_purge(handle, node, pid) < 0:
            raise self._error()

    def deadlock_cancel(self, handle: Any, lkid: int) -> None:
        """Take back what a lock waits for, with EDEADLK."""
        if self._dlm.dlm_ls_deadlock_cancel(handle, lkid, 0) < 0:
            raise self._error()

    def watch(self, path: str, events: int) -> int:
        """Return a new descriptor on which changes of a directory can be read."""
        fd = int(self._c.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        if fd < 0:
            raise self._error()
        if self._c.inotify_add_watch(fd, os.fsencode(path), events) < 0:
            error = self._error()
            os.close(fd)
            raise error
        return fd

    def _error(self) -> OSError:
        number = self._ffi.errno
        return OSError(number, os.strerror(number))


@cache
def load() -> Libdlm:
    """Load the library. Raises StackUnavailable, and says what to install."""
    try:
        cffi = import_module("cffi")
    except ImportError as error:
        raise StackUnavailable(
            "the stack fsdlm needs cffi: pip install 'pydlm-locks[fsdlm]'"
        ) from error
    ffi: Any = cffi.FFI()
    ffi.cdef(_DECLARATIONS)
    try:
        return Libdlm(ffi)
    except OSError as error:
        raise StackUnavailable(
            f"the stack fsdlm needs {LIBRARY}: install libdlm3 (Debian) or dlm-lib (Fedora)"
        ) from error
