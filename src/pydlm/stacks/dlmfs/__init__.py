"""The `dlmfs` stack: locks as files on a mounted dlmfs, the kernel's ocfs2_dlmfs or `pydlm mount`.

The node owns a lock there, and tells only other nodes that it is wanted. So that the connections of
one node exclude each other as well, whoever has a file open takes flock(2) on it too.
"""

from pydlm.stacks.dlmfs.stack import DlmfsStack

__all__ = ["DlmfsStack"]
