"""Who waits for whom, where the stack has refused a conversion because it would never end.

That is all that locks made of verbs know of deadlocks. They search for no other cycles: the stack
knows of no threads, and the handles know of nothing but their own process.
"""

from __future__ import annotations

import os
import threading

from pydlm.contract import Stack
from pydlm.errors import DeadlockError, DeadlockMember
from pydlm.types import Mode, Queue

__all__ = ["conversion_deadlock"]


def conversion_deadlock(
    stack: Stack, name: bytes, lkid: int, granted: Mode, wanted: Mode
) -> DeadlockError:
    """Return the error that names this conversion, and the one that waits for this lock."""
    me = f"process {os.getpid()} thread {threading.get_native_id()}"
    cycle = [DeadlockMember(name, wanted, granted, me, lkid)]
    for other in stack.dump(name) if "dump" in stack.capabilities else ():
        asked = other.requested
        if asked is not None and other.queue is Queue.CONVERT and not granted.compatible(asked):
            who = f"process {other.owner >> 32} thread {other.owner & 0xFFFFFFFF}"
            cycle.append(DeadlockMember(name, asked, other.granted, who, other.lkid))
            break
    steps = "; ".join(f"{m.owner} waits for {m.wanted.name} on {m.resource!r}" for m in cycle)
    return DeadlockError(f"deadlock: {steps}; this request was given up", cycle=tuple(cycle))
