"""Joins or leaves a lockspace: ``python _lockspace.py join|leave NAME PERMISSIONS FLAGS``.

A program of its own, and so without pydlm: the kernel waits for dlm_controld in a way that nothing
interrupts, SIGKILL included. Who called the kernel in its own process could not even exit.
Prints 0, or the number of the error.
"""

from __future__ import annotations

import ctypes
import sys


def _main(what: str, name: bytes, permissions: int, flags: int) -> int:
    dlm = ctypes.CDLL("libdlm.so.3", use_errno=True)
    for function in (dlm.dlm_new_lockspace, dlm.dlm_open_lockspace):
        function.restype = ctypes.c_void_p
    dlm.dlm_release_lockspace.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int]
    if what == "join":
        handle = dlm.dlm_new_lockspace(name, permissions, flags)
        return 0 if handle else ctypes.get_errno()
    handle = dlm.dlm_open_lockspace(name)
    if not handle or dlm.dlm_release_lockspace(name, handle, 0):
        return ctypes.get_errno()
    return 0


if __name__ == "__main__":
    _what, _name, _permissions, _flags = sys.argv[1:]
    sys.stdout.write(str(_main(_what, _name.encode(), int(_permissions), int(_flags))))
