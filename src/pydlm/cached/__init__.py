"""Cached locks: kept by the connection until somebody else asks, as userdlm does in the kernel.

Read `state`, the machine; `driver`, which does what that says; `keeper`, the thread that runs
both; `lock`, what the user has.
"""

from pydlm.cached.connection import CachedLocks
from pydlm.cached.lock import CachedLock, OnDrop
from pydlm.cached.values import Codec

__all__ = ["CachedLock", "CachedLocks", "Codec", "OnDrop"]
