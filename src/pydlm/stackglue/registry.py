"""Stacks by name: pydlm's own, and those of the entry point group ``pydlm.stacks``.

A stack is named ``name`` or ``name:locator``. A name that was asked for is used or fails;
nothing is tried in its place. ``auto`` is what this host runs.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from pydlm.contract import Stack
from pydlm.errors import BadArgument, StackUnavailable
from pydlm.stackglue.agnostic import AGNOSTIC, running_stack
from pydlm.stackglue.protocol import negotiate

__all__ = [
    "DEFAULT_STACK",
    "STACK_VARIABLE",
    "connect_stack",
    "find_stack",
    "stack_connector",
    "stack_names",
]

#: Names the stack where the program does not.
STACK_VARIABLE: Final = "PYDLM_STACK"
DEFAULT_STACK: Final = "local"
_ENTRY_POINT_GROUP: Final = "pydlm.stacks"

# Our own work also where the package was not installed, and cannot be replaced by accident.
_BUILT_IN: Final = {
    "local": ("pydlm.stacks.local", "LocalStack"),
    "host": ("pydlm.stacks.host", "HostStack"),
    "dlmfs": ("pydlm.stacks.dlmfs", "DlmfsStack"),
    "fsdlm": ("pydlm.stacks.fsdlm", "FsdlmStack"),
}


def _plugins() -> dict[str, EntryPoint]:
    return {
        point.name: point
        for point in entry_points(group=_ENTRY_POINT_GROUP)
        if point.name not in _BUILT_IN
    }


def stack_names() -> list[str]:
    """Return the names of all stacks that are installed; whether they work here is not asked."""
    return [*_BUILT_IN, *sorted(_plugins())]


def find_stack(name: str) -> type[Stack]:
    """Return the stack called `name`. Raises StackUnavailable, with the first error as cause."""
    if name in _BUILT_IN:
        module, attribute = _BUILT_IN[name]
        stack: type[Stack] = getattr(import_module(module), attribute)
        return stack
    point = _plugins().get(name)
    if point is None:
        raise StackUnavailable(
            f"no stack is called {name!r}; there are: {', '.join(stack_names())}"
        )
    try:
        loaded = point.load()
    except Exception as error:
        raise StackUnavailable(
            f"stack {name!r} ({point.value}) cannot be loaded: {error!r}"
        ) from error
    if not (isinstance(loaded, type) and issubclass(loaded, Stack)):
        raise StackUnavailable(
            f"stack {name!r} ({point.value}) is no pydlm.contract.Stack; derive it from that"
        )
    return loaded


def connect_stack(stack: str | None, lockspace: str, **options: Any) -> Stack:
    """Connect to `lockspace` on the stack named ``name[:locator]``.

    None: the one that the environment variable PYDLM_STACK names, or `local`.
    """
    return stack_connector(stack, lockspace, **options)()


def stack_connector(stack: str | None, lockspace: str, **options: Any) -> Callable[[], Stack]:
    """Return what makes a connection, as often as it is called, each a client of its own."""
    if not isinstance(lockspace, str):
        raise TypeError(f"the name of a lockspace is str, not {type(lockspace).__name__}")
    if stack is not None and not isinstance(stack, str):
        raise TypeError(f"stack is 'name' or 'name:locator', a str, not {type(stack).__name__}")
    chosen = stack or os.environ.get(STACK_VARIABLE) or DEFAULT_STACK
    try:
        size = len(lockspace.encode())
    except UnicodeEncodeError:
        size = 0
    if not 1 <= size <= 64 or "\0" in lockspace or "/" in lockspace or lockspace.startswith("."):
        raise BadArgument(
            f"lockspace name {lockspace!r} is not 1 to 64 bytes of UTF-8 without '/' and NUL, "
            "and without a leading dot"
        )
    name, _, locator = (running_stack() if chosen == AGNOSTIC else chosen).partition(":")
    return partial(_connect, find_stack(name), lockspace, locator, options)


def _connect(kind: type[Stack], lockspace: str, locator: str, options: dict[str, Any]) -> Stack:
    deadline = time.monotonic() + options.get("timeout", 30.0)
    stack = kind.connect(lockspace, locator, **options)
    if getattr(stack, "negotiates", False):  # the core's own clients need not
        try:
            negotiate(stack, timeout=max(1.0, deadline - time.monotonic()))
        except BaseException:
            stack.disconnect()
            raise
    return stack
