"""Nodes of one lockspace within a test, and their deaths."""

from __future__ import annotations

import os
import sys
from itertools import count
from typing import Any, Protocol

from pydlm.contract import Stack
from pydlm.errors import BadArgument, DlmError
from pydlm.lockspace import Lockspace, connect
from pydlm.types import Mode

__all__ = ["Node", "Nodes"]

_serial = count(1)


class Node(Protocol):
    """A connection: a `Lockspace`, or one of asyncio."""

    @property
    def stack(self) -> Stack:
        """The stack underneath."""
        ...


class Nodes:
    """Connections to a lockspace of its own on the local stack; each stands for a node."""

    def __init__(self) -> None:
        #: The lockspace's name, for connections of other kinds.
        self.name = f"test {os.getpid()} {next(_serial)}"
        self._nodes: list[Lockspace] = []

    def __call__(self, number: int = 1, **options: Any) -> list[Lockspace]:
        """Return so many more nodes. `options` are those of `pydlm.connect`.

        Raises BadArgument for less than one.
        """
        if number < 1:
            raise BadArgument(f"the number of nodes is at least 1, not {number}")
        joined = []
        for _ in range(number):
            joined.append(connect(self.name, "local", **options))
            self._nodes.append(joined[-1])
        return joined

    def kill(self, node: Node) -> None:
        """Let a node die, as by the loss of its machine.

        Its locks are gone, whoever waited for them goes on, what it held in PW or EX has an invalid
        lock value block, and the others are told NodeDown. Its handles raise Closed. Raises
        BadArgument for a node that is on another stack, Closed for one that is dead or closed.
        One of asyncio is killed in its own loop.
        """
        if not hasattr(node, "stack"):
            raise TypeError(
                "a node is a connection, by dlm_nodes(2) or aio.connect(dlm_nodes.name), "
                f"not {type(node).__name__}"
            )
        abandon = getattr(node.stack, "abandon", None)
        if abandon is None:
            raise BadArgument(f"a node on the stack {node.stack.name!r} cannot be killed")
        if (aio := sys.modules.get("pydlm.aio")) and isinstance(node, aio.AsyncLockspace):
            abandon = node._conn.abandon
        abandon()
        if isinstance(node, Lockspace):
            node._cached.abandon()

    def held(self, node: Lockspace) -> list[str]:
        """Describe the locks of `node` that are held or waited for; none if it is closed.

        Of cached locks, the uses that are under way.
        """
        try:
            locks = [status for status in node.dump() if status.client == node.node]
        except DlmError:
            return []
        uses = [
            f"{lock.name!r} in use, {lock.shared_uses} shared and {lock.exclusive_uses} exclusive"
            for lock in node._cached.in_use()
        ]
        return uses + [
            f"{status.name!r} held in {status.granted or Mode.NL}"
            + (f", {status.requested} wanted" if status.requested is not None else "")
            for status in locks
            if (status.granted or Mode.NL) > Mode.NL or status.requested is not None
        ]

    def close(self) -> None:
        """Close all nodes, the dead ones too."""
        while self._nodes:
            self._nodes.pop().close()
