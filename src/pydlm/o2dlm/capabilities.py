"""What a place can do that locks are at, and which file systems are a dlmfs."""

from __future__ import annotations

import os
from typing import Final

from pydlm.o2dlm.codes import ErrorCode, O2dlmError

__all__ = ["CAPABILITIES_FILE", "KERNEL_DLMFS", "PYDLM_MOUNT", "dlmfs_capabilities", "dlmfs_type"]

#: Where ocfs2_dlmfs says what it can do, as libo2dlm reads it (libo2dlm/capabilities.c).
CAPABILITIES_FILE: Final = "/sys/module/ocfs2_dlmfs/parameters/capabilities"

#: File system types, as /proc/self/mountinfo has them.
KERNEL_DLMFS: Final = "ocfs2_dlmfs"
PYDLM_MOUNT: Final = "fuse.dlmfs"


def dlmfs_type(descriptor: int) -> str | None:
    """Return the type of the dlmfs that an open file is on; None if that is another file system.

    libo2dlm asks for the file system's magic, which for FUSE is the same whatever it serves. The
    table of mounts names both kinds.
    """
    device = os.fstat(descriptor).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
        for line in table:
            # id, parent's id, major:minor, ... - type, source, options: see proc(5).
            mount, _, kind = line.partition(" - ")
            if mount.split(" ", 3)[2] == wanted:
                found = kind.split(" ", 1)[0]
                return found if found in (KERNEL_DLMFS, PYDLM_MOUNT) else None
    return None


def dlmfs_capabilities(kind: str) -> frozenset[str]:
    """Return what a dlmfs of that type can do.

    The kernel's says so in a parameter of its module; an old module without it can do nothing
    beyond locks. pydlm's mount always can do both. Raises SERVICE_UNAVAILABLE.
    """
    if kind == PYDLM_MOUNT:
        return frozenset(("bast", "stackglue"))
    try:
        with open(CAPABILITIES_FILE, encoding="ascii", errors="replace") as parameter:
            return frozenset(parameter.readline().split())
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise O2dlmError(
            ErrorCode.SERVICE_UNAVAILABLE, f"cannot read {CAPABILITIES_FILE}", cause=error
        ) from error
