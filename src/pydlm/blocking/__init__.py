"""Blocking locks made of the asynchronous verbs of a stack that brings none of its own.

* `connection`: BlockingLocks, one connection: opens locks, sorts the stack's events.
* `lock`: StackLock, the handle as the user sees it; `held`: its context manager.
* `machine`: who may use a handle now, and what it has asked the stack for.
* `handle`: what a handle shows and checks; `pydlm.aio` has that in common.
* `block`: the rules of the lock value block.
* `reader`: which of the waiting threads reads the stack's descriptor, and where the others sleep.
* `deadlock`: who waits for whom, where the stack has refused a conversion.
* `arguments`: what the callers pass, checked as threading.Lock checks it.
"""

from pydlm.blocking.connection import BlockingLocks
from pydlm.blocking.lock import StackLock

__all__ = ["BlockingLocks", "StackLock"]
