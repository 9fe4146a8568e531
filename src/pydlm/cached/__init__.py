"""Cached locks: kept by the connection until somebody else asks, as userdlm does in the kernel.

Read `state`, the machine; `keeper`, the thread that drives it; `lock`, what the user has.
"""

from pydlm.cached.connection import CachedLocks
from pydlm.cached.lock import CachedLock, OnDrop
from pydlm.cached.values import Codec

__all__ = ["CachedLock", "CachedLocks", "Codec", "OnDrop"]
