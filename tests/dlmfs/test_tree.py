"""Inodes, without a mount."""

from __future__ import annotations

import stat

from pydlm.dlmfs.fuse import Caller, Changes
from pydlm.dlmfs.tree import ROOT, Tree

ME = Caller(1000, 100, 1)


def test_a_removed_inode_stays_until_the_kernel_has_forgotten_it() -> None:
    tree = Tree(0o755, 0, 0)
    node = tree.add(tree.root, b"d", stat.S_IFDIR | 0o700, ME)
    node.lookups = 3
    tree.forget(node.ino, 2)
    tree.remove(node)
    assert tree.child(ROOT, b"d") is None and tree.get(node.ino) is node
    tree.forget(node.ino, 1)
    assert tree.get(node.ino) is None and len(tree) == 1


def test_one_with_a_name_stays_though_it_is_forgotten() -> None:
    tree = Tree(0o755, 0, 0)
    node = tree.add(tree.root, b"d", stat.S_IFDIR | 0o700, ME)
    node.lookups = 1
    tree.forget(node.ino, 1)
    assert tree.child(ROOT, b"d") is node
    tree.forget(12345, 1)
    tree.forget(ROOT, 1)
    assert tree.get(ROOT) is tree.root


def test_numbers_are_never_used_again() -> None:
    tree = Tree(0o755, 0, 0)
    seen = set()
    for _ in range(10):
        node = tree.add(tree.root, b"d", stat.S_IFDIR | 0o700, ME)
        seen.add(node.ino)
        tree.remove(node)
    assert len(seen) == 10 and ROOT not in seen


def test_attributes() -> None:
    tree = Tree(0o2755, 0, 7)
    domain = tree.add(tree.root, b"d", stat.S_IFDIR | 0o700, ME)
    file = tree.add(domain, b"l", stat.S_IFREG | 0o640, ME)
    assert tree.root.attributes.nlink == 3
    assert (domain.gid, oct(domain.mode)) == (7, "0o42700")
    assert (file.uid, file.gid, oct(file.mode)) == (1000, 7, "0o100640")
    file.change(Changes(0o106_600, None, 5, 1, 2))
    found = file.attributes
    assert (found.uid, found.gid, found.atime, found.mtime) == (1000, 5, 1, 2)
    assert oct(found.mode) == "0o106600" and found.nlink == 1
