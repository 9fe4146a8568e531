"""Joins or leaves a lockspace: ``python -m ... join|leave NAME PERMISSIONS FLAGS``.

A program of its own: the kernel waits for dlm_controld in a way that nothing interrupts, SIGKILL
included. Who called the kernel in its own process could not even exit. Prints 0, or the number of
the error.
"""

from __future__ import annotations

import sys

from pydlm.stacks.fsdlm.libdlm import load


def _main(what: str, lockspace: str, permissions: int, flags: int) -> int:
    try:
        if what == "join":
            load().new_lockspace(lockspace, permissions, flags)
        else:
            load().release_lockspace(lockspace)
    except OSError as error:
        return error.errno or -1
    return 0


if __name__ == "__main__":
    _what, _lockspace, _permissions, _flags = sys.argv[1:]
    sys.stdout.write(str(_main(_what, _lockspace, int(_permissions), int(_flags))))
