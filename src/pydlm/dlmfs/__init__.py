"""dlmfs in user space: a file system whose directories are lockspaces and whose files are locks."""

from pydlm.dlmfs.serve import CREATORS, OWNERS, Mount

__all__ = ["CREATORS", "OWNERS", "Mount"]
