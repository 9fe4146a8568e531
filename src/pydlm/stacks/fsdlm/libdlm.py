"""libdlm by cffi, loaded when the first connection is made: lockspaces; and libc's inotify.

Once a node has joined, its lockspace is opened without libdlm, which wants the control device even
for that, and so root.
"""

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
dlm_lshandle_t dlm_new_lockspace(const char *name, unsigned int mode, uint32_t flags);
dlm_lshandle_t dlm_open_lockspace(const char *name);
int dlm_release_lockspace(const char *name, dlm_lshandle_t ls, int force);

int inotify_init1(int flags);
int inotify_add_watch(int fd, const char *path, uint32_t mask);
"""


class Libdlm:
    """The library's functions. Those that fail raise OSError."""

    def __init__(self, ffi: Any) -> None:
        self._ffi = ffi
        self._null = ffi.NULL
        self._dlm = ffi.dlopen(LIBRARY)
        self._c = ffi.dlopen(None)

    def new_lockspace(self, lockspace: str, permissions: int, flags: int) -> None:
        """Have this node join a lockspace. May never return, see `_lockspace`."""
        if self._dlm.dlm_new_lockspace(os.fsencode(lockspace), permissions, flags) == self._null:
            raise self._error()

    def release_lockspace(self, lockspace: str) -> None:
        """Have this node leave a lockspace. May never return, see `_lockspace`."""
        name = os.fsencode(lockspace)
        handle = self._dlm.dlm_open_lockspace(name)
        if handle == self._null or self._dlm.dlm_release_lockspace(name, handle, 0):
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
