"""Locks for asyncio: the stack's own verbs, and the loop watching the lockspace's one descriptor.

>>> import asyncio
>>> from pydlm import aio
>>> async def main():
...     async with aio.connect("orders") as ls:
...         async with ls.lock("invoice:42") as lk:
...             lk.lvb = b"paid"
>>> asyncio.run(main())

Read `machine`, the state of a handle; `connection`, which sorts the events; `lock`, what the user
has.
"""

from pydlm.aio.cached import AsyncCachedLock, AsyncOnDrop
from pydlm.aio.events import Blocked, Event, Events
from pydlm.aio.lock import AsyncLock
from pydlm.aio.lockspace import AsyncLockspace, connect

__all__ = [
    "AsyncCachedLock",
    "AsyncLock",
    "AsyncLockspace",
    "AsyncOnDrop",
    "Blocked",
    "Event",
    "Events",
    "connect",
]
