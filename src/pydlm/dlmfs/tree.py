"""The inodes of a mount: the root, its domains, their locks."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from itertools import count
from time import time_ns
from typing import TYPE_CHECKING, Final

from pydlm.dlmfs.fuse import Attributes, Caller, Changes

if TYPE_CHECKING:
    from pydlm.dlmfs.domain import Domain
    from pydlm.dlmfs.lockfile import LockFile

__all__ = ["ROOT", "Node", "Tree"]

#: The inode number of the root.
ROOT: Final = 1


class Node:
    """An inode. As long as it has a parent, or is the root, it has a name."""

    __slots__ = (
        "atime",
        "children",
        "ctime",
        "domain",
        "file",
        "gid",
        "ino",
        "lookups",
        "mode",
        "mtime",
        "name",
        "parent",
        "size",
        "uid",
    )

    def __init__(self, ino: int, parent: Node | None, name: bytes, mode: int, uid: int, gid: int):
        self.ino = ino
        self.parent = parent
        self.name = name
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.size = 0
        self.lookups = 0  #: entries that the kernel has been given, and has not forgotten
        self.atime = self.mtime = self.ctime = time_ns()
        #: By name, in the order of their inode numbers; None: this is a file.
        self.children: dict[bytes, Node] | None = {} if stat.S_ISDIR(mode) else None
        self.domain: Domain | None = None
        self.file: LockFile | None = None

    @property
    def attributes(self) -> Attributes:
        """What `stat` shows."""
        links = 1 if self.children is None else 2
        if self.ino == ROOT:
            links += len(self.children or ())
        return Attributes(
            self.ino,
            self.mode,
            links,
            self.uid,
            self.gid,
            self.size,
            self.atime,
            self.mtime,
            self.ctime,
        )

    def change(self, changes: Changes) -> None:
        """Set what is to be set; the kernel has seen to it that the caller may."""
        if changes.mode is not None:
            self.mode = stat.S_IFMT(self.mode) | stat.S_IMODE(changes.mode)
        self.uid = self.uid if changes.uid is None else changes.uid
        self.gid = self.gid if changes.gid is None else changes.gid
        self.atime = self.atime if changes.atime is None else changes.atime
        self.mtime = self.mtime if changes.mtime is None else changes.mtime
        self.ctime = time_ns()


class Tree:
    """All inodes, by number. A number is never used again."""

    def __init__(self, mode: int, uid: int, gid: int) -> None:
        self._numbers = count(ROOT)
        self.root = Node(next(self._numbers), None, b"", stat.S_IFDIR | mode, uid, gid)
        self._nodes = {ROOT: self.root}

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[Node]:
        return iter(self._nodes.values())

    def get(self, ino: int) -> Node | None:
        """Return an inode that the kernel still knows, or one with a name."""
        return self._nodes.get(ino)

    def child(self, parent: int, name: bytes) -> Node | None:
        """Return what a directory has under a name."""
        directory = self._nodes.get(parent)
        return None if directory is None else (directory.children or {}).get(name)

    def add(self, parent: Node, name: bytes, mode: int, caller: Caller) -> Node:
        """Make an inode in a directory, owned by the caller; a set-group-ID directory's group."""
        gid = caller.gid
        if parent.mode & stat.S_ISGID:
            gid = parent.gid
            mode |= stat.S_ISGID if stat.S_ISDIR(mode) else 0
        node = Node(next(self._numbers), parent, name, mode, caller.uid, gid)
        assert parent.children is not None
        parent.children[name] = self._nodes[node.ino] = node
        parent.mtime = parent.ctime = node.ctime
        return node

    def remove(self, node: Node) -> None:
        """Take its name away; it is gone when the kernel has forgotten it."""
        parent, node.parent = node.parent, None
        if parent is not None and parent.children is not None:
            del parent.children[node.name]
            parent.mtime = parent.ctime = time_ns()
        self._drop(node)

    def forget(self, ino: int, lookups: int) -> None:
        """The kernel has forgotten `lookups` of the entries that it was given."""
        node = self._nodes.get(ino)
        if node is not None:
            node.lookups -= lookups
            self._drop(node)

    def _drop(self, node: Node) -> None:
        if node.parent is None and node.lookups <= 0 and node.ino != ROOT:
            self._nodes.pop(node.ino, None)
