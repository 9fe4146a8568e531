"""The locking protocol's version, agreed on by the nodes of a lockspace.

As ocfs2's user-space stacks do it (fs/ocfs2/stack_user.c, version_lock): who is first in the
lockspace writes its own version into the lock value block of one lock, and all keep that lock in
PR while they are in. Who comes later goes down to the minor version that is running, or stays out.
"""

from __future__ import annotations

import errno
import select
import time
from typing import Final, NamedTuple

from pydlm.contract import Stack
from pydlm.errors import StackUnavailable
from pydlm.types import Completion, LockFlag, Mode, StatusFlag

__all__ = ["PROTOCOL", "VERSION_LOCK", "Version", "negotiate"]

#: The lock that the version is in: a name that every stack can have.
VERSION_LOCK: Final = b"pydlm-protocol"
_MAGIC: Final = b"pydlm"


class Version(NamedTuple):
    """Nodes of different majors cannot share a lockspace; of different minors, by the lower one."""

    major: int
    minor: int


#: What this pydlm speaks.
PROTOCOL: Final = Version(1, 0)


def negotiate(stack: Stack, own: Version = PROTOCOL, timeout: float = 30.0) -> Version:
    """Return the version that is to be spoken from now on, until `stack` is disconnected.

    Called before anybody else uses `stack`. Raises StackUnavailable if those who are in the
    lockspace speak another one, or if the lock cannot be had within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        # Whoever gets EX is alone: what an earlier one has left in the block binds nobody.
        lkid, first = _lock(stack, Mode.EX, LockFlag.NOQUEUE, deadline)
        if first.status == 0:
            said = _MAGIC + bytes(own)
            if "convert" in stack.capabilities:
                stack.convert(lkid, Mode.PR, LockFlag.VALBLK, lvb=said)
                _completed(stack, lkid, deadline)
                return own
            # Others may come before it is had again: it is theirs then, and asked for as theirs.
            stack.unlock(lkid, LockFlag.VALBLK, lvb=said)
            _completed(stack, lkid, deadline)
        elif first.status != errno.EAGAIN:
            raise StackUnavailable("the version of the locking protocol cannot be looked up")
        lkid, granted = _lock(stack, Mode.PR, LockFlag(0), deadline)
        block = granted.lvb or b""
        if not granted.flags & StatusFlag.VALNOTVALID and block.startswith(_MAGIC):
            running = Version(*block[len(_MAGIC) :][:2])
            if running.major == own.major and running.minor <= own.minor:
                return running
            raise StackUnavailable(
                f"the nodes of this lockspace speak version {running.major}.{running.minor} of "
                f"pydlm's locking protocol, and this pydlm {own.major}.{own.minor}: upgrade "
                f"{'the others' if running.major < own.major else 'it'}, or stop them first"
            )
        # The first one has died before it could write: begin again.
        stack.unlock(lkid)
        _completed(stack, lkid, deadline)


def _lock(stack: Stack, mode: Mode, flags: LockFlag, deadline: float) -> tuple[int, Completion]:
    lkid = stack.lock(VERSION_LOCK, mode, flags | LockFlag.VALBLK)
    return lkid, _completed(stack, lkid, deadline)


def _completed(stack: Stack, lkid: int, deadline: float) -> Completion:
    poll = select.poll()
    poll.register(stack.fileno(), select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        for event in stack.dispatch():
            if isinstance(event, Completion) and event.lkid == lkid:
                return event
        poll.poll(left * 1000)
    raise StackUnavailable(
        "no answer of the lock manager about the version of the locking protocol; is a node of the "
        "cluster hanging?"
    )
