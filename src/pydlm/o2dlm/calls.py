"""libo2dlm's calls by their names: o2dlm_lock(ctxt, ...) in C is lock(ctxt, ...) here."""

from __future__ import annotations

import os
import secrets
from typing import Final

from pydlm.errors import DlmError
from pydlm.o2dlm.capabilities import dlmfs_capabilities
from pydlm.o2dlm.codes import O2DLM_DOMAIN_MAX_LEN, ErrorCode, O2dlmError
from pydlm.o2dlm.context import Context
from pydlm.o2dlm.domain import Domain
from pydlm.o2dlm.files import FileDomain, path_capabilities
from pydlm.o2dlm.stack import StackDomain
from pydlm.stackglue import find_stack, stack_names
from pydlm.stacks.dlmfs.place import KERNEL_DLMFS

__all__ = [
    "Place",
    "destroy",
    "drop_lock",
    "initialize",
    "lock",
    "lock_with_bast",
    "process_bast",
    "read_lvb",
    "supports_bast",
    "supports_stackglue",
    "unlock",
    "write_lvb",
]

#: Where domains are: a directory on a dlmfs, the name of a stack (``host:/dir``), or None.
Place = str | os.PathLike[str] | None


def initialize(dlmfs_path: Place, domain_name: str) -> Context:
    """Join the domain at a place, making it if it is not there; return the context.

    `dlmfs_path` is the root of a mounted dlmfs: ocfs2_dlmfs or a pydlm mount. All contexts on one
    mount are one node. Or it is the name of an installed stack, ``name`` or ``name:locator``
    (write ``./host`` for a directory of such a name): then the domain is the lockspace, without a
    mount, and each context a node of its own. None is, as in libo2dlm, the stack `fsdlm`.

    Raises O2dlmError: INVALID_ARGS, NAME_TOO_LONG (255 bytes and more). On a mount OPEN_DLM_DIR,
    NO_FS_DIR, STATFS, NO_FS, BAD_DOMAIN_DIR, DOMAIN_CREATE, LOCKING; on a stack
    SERVICE_UNAVAILABLE, DOMAIN_CREATE. Waits only as long as the place takes to answer.
    """
    if not domain_name or "\0" in domain_name:
        raise O2dlmError(ErrorCode.INVALID_ARGS, f"{domain_name!r} is no name for a domain")
    if len(os.fsencode(domain_name)) >= O2DLM_DOMAIN_MAX_LEN:
        raise O2dlmError(
            ErrorCode.NAME_TOO_LONG,
            f"the name of a domain has less than {O2DLM_DOMAIN_MAX_LEN} bytes",
        )
    stack = _stack_of(dlmfs_path)
    domain: Domain
    if stack is not None:
        domain = StackDomain(stack, domain_name)
    else:
        # Like libo2dlm's: a dot and 16 hexadecimal digits, which no user's lock can be called.
        member = f".{secrets.token_hex(8)}".encode()
        domain = FileDomain(_path_of(dlmfs_path), domain_name, member)
    return Context(domain, domain_name)


def supports_bast(at: Context | Place = None) -> bool:
    """Return whether holders are told when another node wants their lock.

    `at` is a context, or a place as of `initialize`. None asks, as libo2dlm does, for what the
    kernel's ocfs2_dlmfs can do; without it, nothing. Raises O2dlmError: SERVICE_UNAVAILABLE, and
    what `initialize` raises where a path is no dlmfs.
    """
    return "bast" in _capabilities(at)


def supports_stackglue(at: Context | Place = None) -> bool:
    """Return whether the same program runs on any stack there; else as `supports_bast`."""
    return "stackglue" in _capabilities(at)


lock: Final = Context.lock
lock_with_bast: Final = Context.lock_with_bast
unlock: Final = Context.unlock
drop_lock: Final = Context.drop_lock
read_lvb: Final = Context.read_lvb
write_lvb: Final = Context.write_lvb
process_bast: Final = Context.process_bast
destroy: Final = Context.destroy


def _stack_of(place: Place) -> str | None:
    """Return the stack that a place names; None if it is a path."""
    if place is None:
        return "fsdlm"
    if isinstance(place, str) and place.partition(":")[0] in stack_names():
        return place
    return None


def _path_of(place: Place) -> str:
    path = os.fspath(place) if isinstance(place, str | os.PathLike) else None
    if not isinstance(path, str) or not path or "\0" in path:
        raise O2dlmError(
            ErrorCode.INVALID_ARGS, f"{place!r} is neither the path of a dlmfs nor a stack"
        )
    return path


def _capabilities(at: Context | Place) -> frozenset[str]:
    if isinstance(at, Context):
        return at.capabilities
    if at is None:
        return dlmfs_capabilities(KERNEL_DLMFS)
    stack = _stack_of(at)
    if stack is None:
        return path_capabilities(_path_of(at))
    try:
        known = find_stack(stack.partition(":")[0]).capabilities
    except DlmError as error:
        raise O2dlmError(
            ErrorCode.SERVICE_UNAVAILABLE, f"cannot use the stack {stack!r}", cause=error
        ) from error
    if not isinstance(known, frozenset):  # a property: it depends on the connection
        raise O2dlmError(
            ErrorCode.SERVICE_UNAVAILABLE,
            f"only a connection to {stack!r} knows what it can do: initialize, and ask the context",
        )
    return known
