"""Which dlmfs is mounted at a place, what it can do, and which node this is there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

from pydlm.errors import StackUnavailable

__all__ = [
    "CAPABILITIES_FILE",
    "KERNEL_DLMFS",
    "PYDLM_MOUNT",
    "Place",
    "capabilities_on",
    "dlmfs_type",
]

#: File system types, as /proc/self/mountinfo has them.
KERNEL_DLMFS: Final = "ocfs2_dlmfs"
PYDLM_MOUNT: Final = "fuse.dlmfs"

#: Where ocfs2_dlmfs says what it can do (fs/ocfs2/dlmfs/dlmfs.c, libo2dlm/capabilities.c).
CAPABILITIES_FILE: Final = "/sys/module/ocfs2_dlmfs/parameters/capabilities"
#: The cluster stack in use (fs/ocfs2/stackglue.c).
_CLUSTER_STACK: Final = Path("/sys/fs/ocfs2/cluster_stack")
_O2CB_NODES: Final = "/sys/kernel/config/cluster"
_DLM_NODES: Final = "/sys/kernel/config/dlm/cluster/comms"

#: What any dlmfs can do. A waiting open cannot be taken back, but who waited can go.
_ALWAYS: Final = frozenset({"stackglue", "cancel", "lvb"})


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


class Place(NamedTuple):
    """A mounted dlmfs."""

    path: str
    in_kernel: bool
    cluster_stack: str  #: of the kernel's: o2cb, pcmk, ...; else empty
    capabilities: frozenset[str]
    this_node: int

    @classmethod
    def find(cls, path: str) -> Place:
        """Look at what is mounted on `path`. Raises StackUnavailable."""
        if not path:
            raise StackUnavailable(
                "the dlmfs stack needs to know where dlmfs is mounted: stack='dlmfs:/dlm'"
            )
        path = os.path.abspath(path)
        try:
            directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StackUnavailable(
                f"cannot open {path}: {error.strerror}; mount a dlmfs there, by "
                f"`pydlm mount {path}` or by `mount -t ocfs2_dlmfs none {path}`"
            ) from error
        try:
            kind, device = dlmfs_type(directory), os.fstat(directory).st_dev
        finally:
            os.close(directory)
        if kind is None:
            raise StackUnavailable(
                f"{path} is on no dlmfs; mount one there, by `pydlm mount {path}` or by "
                f"`mount -t ocfs2_dlmfs none {path}`"
            )
        if kind == PYDLM_MOUNT:
            # Mounts are the nodes, and each has a device of its own.
            return cls(path, False, "", capabilities_on(None), os.minor(device))
        return cls._of_kernel(path)

    @classmethod
    def _of_kernel(cls, path: str) -> Place:
        try:
            cluster_stack = _CLUSTER_STACK.read_text().strip()
        except OSError as error:
            raise StackUnavailable(
                f"cannot tell which cluster stack serves {path}: {_CLUSTER_STACK}: {error.strerror}"
            ) from error
        try:
            words = frozenset(Path(CAPABILITIES_FILE).read_text().split())
        except FileNotFoundError:
            words = frozenset()  # a kernel before 2.6.34
        this_node = _o2cb_node() if cluster_stack == "o2cb" else _dlm_node()
        return cls(path, True, cluster_stack, capabilities_on(cluster_stack, words), this_node)


def capabilities_on(
    cluster_stack: str | None, words: frozenset[str] = frozenset({"bast"})
) -> frozenset[str]:
    """Return what dlmfs can do on a cluster stack of the kernel's; None: what `pydlm mount` can.

    `words` are those of `CAPABILITIES_FILE`. On user-space cluster stacks there is no trylock: an
    O_NONBLOCK open that would have to wait never returns.
    """
    trylock = {"trylock"} if cluster_stack in (None, "o2cb") else set()
    return _ALWAYS | (words & {"bast"}) | trylock


def _o2cb_node() -> int:
    """Return this node's number and 1: o2cb counts from 0."""
    for node in Path(_O2CB_NODES).glob("*/node/*"):
        if (node / "local").read_text().strip() == "1":
            return int((node / "num").read_text()) + 1
    raise StackUnavailable(f"o2cb has no node here: none below {_O2CB_NODES} is marked as local")


def _dlm_node() -> int:
    for node in Path(_DLM_NODES).glob("*"):
        if (node / "local").read_text().strip() == "1":
            return int((node / "nodeid").read_text())
    raise StackUnavailable(
        f"fs/dlm has no node here: none below {_DLM_NODES} is marked as local; is dlm_controld up?"
    )
