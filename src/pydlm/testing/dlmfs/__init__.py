"""Replay recordings of ocfs2_dlmfs: processes make the recorded system calls on mounts."""

from pydlm.testing.dlmfs.player import Result, mounts, replay
from pydlm.testing.dlmfs.recording import load

__all__ = ["Result", "load", "mounts", "replay"]
