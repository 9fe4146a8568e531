"""The rules by which `pydlm mount` does something else than the recordings of ocfs2_dlmfs.

All of them, as `pydlm.testing.deviations` has those of fs/dlm: those that are wanted, because users
are better off without what the kernel does, and those where FUSE leaves no choice.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["DLMFS_RULES", "DlmfsRule"]


class DlmfsRule(NamedTuple):
    """One deviation."""

    name: str
    kernel: str
    mount: str
    why: str
    wanted: bool  #: or else FUSE leaves no choice


DLMFS_RULES = (
    DlmfsRule(
        "trylock",
        "On the user-space cluster stack, O_NONBLOCK against another node hangs for ever.",
        "ETXTBSY at once, as on o2cb.",
        "It says that it does not block.",
        True,
    ),
    DlmfsRule(
        "interrupt",
        "A blocked open returns EINTR only when the lock arrives, and SIGKILL kills no sooner; the "
        "node has the lock cached then.",
        "A signal that is handled, or SIGSTOP, ends it with EINTR at once, SIGKILL kills at once; "
        "so too a blocked unlink. The request is taken back, and nothing of it is left.",
        "A program that cannot be stopped is a fault.",
        True,
    ),
    DlmfsRule(
        "pwrite",
        "Bytes written at an offset land at the start of the block; only count and position obey "
        "the offset.",
        "They land at the offset, and so does what one write after the other writes.",
        "It is what pwrite means, and read already obeys it.",
        True,
    ),
    DlmfsRule(
        "rebuilt",
        "A node that has found the block invalid goes on reading 0 bytes, even what it has written "
        "itself, as long as it keeps the lock.",
        "Once it has been written it is valid again: bytes that were not written are zeros.",
        "Who rebuilds a value must be able to read it back.",
        True,
    ),
    DlmfsRule(
        "magic",
        "statfs reports the magic number of dlmfs, 0x76a9f425.",
        "FUSE's, 0x65735546.",
        "The kernel reports its own for every FUSE file system.",
        False,
    ),
    DlmfsRule(
        "capabilities",
        "/sys/module/ocfs2_dlmfs/parameters/capabilities says `bast stackglue`.",
        "There is no such file, unless the module is loaded too.",
        "It belongs to the kernel module.",
        False,
    ),
    DlmfsRule(
        "append",
        "O_APPEND is ignored: the position begins at 0, and goes on with each write.",
        "What is written lands as if O_APPEND were ignored, but lseek shows a position past the "
        "end.",
        "The kernel moves the position to the end of the 64 bytes before it calls.",
        False,
    ),
    DlmfsRule(
        "close",
        "close(2) returns when the lock may be had elsewhere.",
        "It may return a moment earlier: O_NONBLOCK on another mount can still meet ETXTBSY. "
        "On the same mount, and for who waits, it makes no difference.",
        "FUSE tells of the last close without waiting for an answer. What it waits for, `flush`, "
        "comes with every close of a copy too, so it must not let go.",
        False,
    ),
    DlmfsRule(
        "private-mmap",
        "Every mmap fails with ENODEV.",
        "Only a shared one does; a private one is a copy of the block.",
        "FUSE refuses only shared mappings of files with direct I/O.",
        False,
    ),
    DlmfsRule(
        "domain-names",
        "Any bytes are a domain's name.",
        "UTF-8 only, else EINVAL; the lockspace of `.x` is called `%2Ex`, and that of `%x` `%25x`.",
        "Lockspaces have names that are text, and do not begin with a dot.",
        False,
    ),
)
