"""What the kernel says about the nodes of the cluster, and of a lockspace.

dlm_controld tells the kernel through configfs which nodes there are, and which of them have
joined a lockspace:

    /sys/kernel/config/dlm/cluster/comms/NODE/{nodeid,local}    nodes of the cluster
    /sys/kernel/config/dlm/cluster/spaces/LOCKSPACE/nodes/NODE  nodes of a lockspace

A node that leaves a lockspace stays a node of the cluster; one that dies, or whose cluster stack is
stopped, does not. The kernel sends no uevents about either (those of dlm are how it asks
dlm_controld to join and leave), but changes of directories can be watched.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from pydlm.errors import StackUnavailable
from pydlm.stacks.fsdlm.libdlm import Libdlm

__all__ = ["Membership", "this_node"]

_CLUSTER: Final = Path("/sys/kernel/config/dlm/cluster")

_CREATED: Final = 0x100  # IN_CREATE
_DELETED: Final = 0x200  # IN_DELETE
_BUFFER: Final = 1 << 14


def this_node() -> int:
    """Return this host's node id. Raises StackUnavailable where it has none."""
    comms = _CLUSTER / "comms"
    try:
        for node in comms.iterdir():
            if (node / "local").read_text().strip() == "1":
                return int((node / "nodeid").read_text())
    except OSError as error:
        raise StackUnavailable(
            f"{comms} cannot be read ({error.strerror}): is configfs mounted, and does "
            "dlm_controld run?"
        ) from error
    raise StackUnavailable(f"{comms} has no node that is this one: is corosync up?")


class Membership:
    """Watches the nodes of a lockspace, and notices those that die."""

    def __init__(self, libdlm: Libdlm, lockspace: str) -> None:
        self._nodes = _CLUSTER / "spaces" / lockspace / "nodes"
        try:
            self._fd = libdlm.watch(str(self._nodes), _CREATED | _DELETED)
        except OSError as error:
            raise StackUnavailable(f"{self._nodes} cannot be watched: {error.strerror}") from error
        self._known = self._listed()

    def fileno(self) -> int:
        """Return a descriptor that is readable when something may have changed."""
        return self._fd

    def died(self) -> list[int]:
        """Return the nodes that have died since this was asked. Never blocks."""
        if not self._changed():
            return []
        now = self._listed()
        gone, self._known = self._known - now, now
        comms = _CLUSTER / "comms"
        return sorted(node for node in gone if not (comms / str(node)).exists())

    def nodes(self) -> set[int]:
        """Return the nodes that have joined now."""
        return self._listed()

    def close(self) -> None:
        """Stop watching."""
        os.close(self._fd)

    def _listed(self) -> set[int]:
        try:
            return {int(name) for name in os.listdir(self._nodes)}
        except OSError:
            return set()  # the lockspace is being left

    def _changed(self) -> bool:
        changed = False
        while True:
            try:
                changed = bool(os.read(self._fd, _BUFFER)) or changed
            except BlockingIOError:
                return changed
