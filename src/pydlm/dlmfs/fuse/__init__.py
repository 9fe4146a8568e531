"""libfuse3's low-level interface, driven by whoever waits on its descriptor. Knows no locks."""

from pydlm.dlmfs.fuse.operations import Changes, Operations, PollHandle
from pydlm.dlmfs.fuse.request import Attributes, Caller, Request
from pydlm.dlmfs.fuse.session import Session

__all__ = ["Attributes", "Caller", "Changes", "Operations", "PollHandle", "Request", "Session"]
