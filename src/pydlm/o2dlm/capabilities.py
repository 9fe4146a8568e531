"""What a dlmfs can do, in the words of libo2dlm."""

from __future__ import annotations

from pydlm.o2dlm.codes import ErrorCode, O2dlmError
from pydlm.stacks.dlmfs.place import CAPABILITIES_FILE, PYDLM_MOUNT

__all__ = ["dlmfs_capabilities"]


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
