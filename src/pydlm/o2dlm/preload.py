"""Running foreign programs linked with libo2dlm on a pydlm mount: see src/o2dlm/preload.c.

The dynamic linker does not complain of a library that it cannot preload, it leaves it out. So what
can be seen of the program beforehand is looked at here.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import stat
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from pydlm.errors import BadArgument, DlmError, Unsupported

__all__ = ["LIBRARY", "check_program", "find_program", "preload_environment", "preload_library"]

LIBRARY: Final = "libo2dlm_preload.so"
#: Interpreters of interpreters that the kernel follows (BINPRM_MAX_RECURSION is 4 or 5).
_SCRIPTS: Final = 4
_PT_INTERP: Final = 3


def preload_library() -> Path:
    """Return the library's path. Raises Unsupported if it was not built."""
    path = Path(__file__).with_name(LIBRARY)
    if not path.exists():
        raise Unsupported(f"{path} is not there: install pydlm-locks anew, it builds the library")
    return path


def preload_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment with the library added to LD_PRELOAD, behind what is there.

    Raises BadArgument where the library's path cannot be named there.
    """
    path = str(preload_library())
    if re.search(r"[\s:]", path):
        raise BadArgument(
            f"the path of the library, {path!r}, has blanks or colons, which separate paths in "
            "LD_PRELOAD: install pydlm-locks elsewhere"
        )
    before = re.split(r"[\s:]+", environment.get("LD_PRELOAD", ""))
    together = [*filter(None, (name for name in before if name != path)), path]
    return {**environment, "LD_PRELOAD": ":".join(together)}


def find_program(name: str) -> Path:
    """Return the program's path, found as a shell would.

    Raises DlmError: ENOENT if there is none, EACCES if it cannot be run.
    """
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    if os.path.isdir(name):
        raise DlmError(f"{name!r} is a directory, no program", errno=errno.EACCES)
    if "/" in name and os.path.exists(name):
        raise DlmError(f"{name!r} may not be run: no permission", errno=errno.EACCES)
    where = "there is no such file" if "/" in name else "it is in no directory of $PATH"
    raise DlmError(f"program {name!r} not found: {where}", errno=errno.ENOENT)


def check_program(path: Path) -> None:
    """Raise Unsupported if the dynamic linker would leave the library out of this program.

    That is so where the program has no dynamic linker, where that is one for other libraries than
    this one, and where running it changes what the process may do (ld.so(8), secure-execution
    mode). Of what cannot be read, nothing is known, and nothing raised.
    """
    path = _interpreter(path)
    try:
        program, status = _elf(path), path.stat()
    except OSError:
        return
    ours = _elf(preload_library())
    if program is None or ours is None:
        return  # the kernel may know more formats than ELF
    if not program.dynamic:
        why: str | None = "it is linked statically, and has no dynamic linker that would do it"
    elif program.built_for != ours.built_for:
        why = "it was built for another machine or word size"
    else:
        why = _privilege(path, status)
    if why is not None:
        raise Unsupported(f"the library cannot be preloaded into {str(path)!r}: {why}")


class _Elf(NamedTuple):
    built_for: tuple[bytes, int]  #: EI_CLASS and EI_DATA, e_machine
    dynamic: bool  #: asks for a dynamic linker


def _elf(path: Path) -> _Elf | None:
    """Return what the headers of an ELF file say; None if it is something else. See elf(5)."""
    with path.open("rb") as file:
        head = file.read(64)
        wide = head[4:5] == b"\x02"
        if head[:4] != b"\x7fELF" or len(head) < (64 if wide else 52):
            return None
        order = "<" if head[5] == 1 else ">"
        machine = struct.unpack_from(order + "H", head, 18)[0]
        at, size, count = (
            *struct.unpack_from(order + ("Q" if wide else "I"), head, 32 if wide else 28),
            *struct.unpack_from(order + "HH", head, 54 if wide else 42),
        )
        if at >= os.fstat(file.fileno()).st_size:
            return None
        file.seek(at)
        table = file.read(size * count)
    kinds = {
        struct.unpack_from(order + "I", table, start)[0]
        for start in range(0, len(table) - 3, max(size, 4))
    }
    return _Elf((head[4:6], machine), _PT_INTERP in kinds)


def _interpreter(path: Path) -> Path:
    """Return the program that runs a script, or the path itself."""
    for _ in range(_SCRIPTS):
        try:
            with path.open("rb") as file:
                line = file.readline(256)
        except OSError:
            break
        words = line[2:].split()
        if not line.startswith(b"#!") or not words:
            break
        path = Path(os.fsdecode(words[0]))
    return path


def _privilege(path: Path, status: os.stat_result) -> str | None:
    """Return why the kernel would run the program in secure-execution mode, or None."""
    group_too = stat.S_ISGID | stat.S_IXGRP
    if status.st_mode & stat.S_ISUID and status.st_uid != os.getuid():
        return "it is setuid to another user, and the linker preloads no library for those"
    if status.st_mode & group_too == group_too and status.st_gid != os.getgid():
        return "it is setgid to another group, and the linker preloads no library for those"
    try:
        os.getxattr(path, "security.capability")
    except OSError:
        return None
    if os.getuid() == 0:
        return None  # has them all anyway
    return "its file has capabilities, and the linker preloads no library for those"
