"""The locking protocol's version, agreed on by the nodes of a lockspace.

As ocfs2's user-space stacks do it (fs/ocfs2/stack_user.c, version_lock): who is first in the
lockspace writes its own version into the lock value block of one lock, and all keep that lock in
PR while they are in. Who comes later goes down to the minor version that is running, or stays out.

=========================== ======================================================================
lock                        what for
=========================== ======================================================================
``pydlm-protocol``          its block has the version
``pydlm-protocol-1.0``      kept by all who speak 1.0, as o2cb loses the block when a node dies
``pydlm-protocol-turn``     held by who cannot find out while another does
``pydlm-protocol-2``, ...   where none can try locks: as the first one, whose block became invalid
=========================== ======================================================================
"""

from __future__ import annotations

import errno
import os
import select
import time
from itertools import count
from typing import Final, NamedTuple, Protocol, runtime_checkable

from pydlm.contract import Stack
from pydlm.errors import StackUnavailable
from pydlm.types import Completion, LockFlag, Mode, StatusFlag

__all__ = ["PROTOCOL", "VERSION_LOCK", "Version", "negotiate"]

#: The lock that the version is in: a name that every stack can have.
VERSION_LOCK: Final = b"pydlm-protocol"
_TURN_LOCK: Final = VERSION_LOCK + b"-turn"
_MAGIC: Final = b"pydlm"
_PAUSE: Final = 0.02  # seconds


@runtime_checkable
class _Keeping(Protocol):
    """A stack whose node keeps a lock that was let go until another node wants it."""

    def forget(self, name: bytes) -> None:
        """Have the node let go of a lock that nobody here has any more."""


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
    if "trylock" not in stack.capabilities:
        return _in_turn(stack, own, deadline)
    pause = _PAUSE
    while True:
        # Whoever gets EX is alone: what an earlier one has left in the block binds nobody.
        lkid, first = _lock(stack, VERSION_LOCK, Mode.EX, LockFlag.NOQUEUE, deadline)
        if first.status == 0:
            if "convert" in stack.capabilities:
                stack.convert(lkid, Mode.PR, LockFlag.VALBLK, lvb=_said(own))
                _completed(stack, lkid, deadline)
                return _spoken(stack, own, deadline)
            # Others may come before it is had again: it is theirs then, and asked for as theirs.
            _unlock(stack, lkid, deadline, _said(own))
        lkid, granted = _lock(stack, VERSION_LOCK, Mode.PR, LockFlag(0), deadline)
        if running := _running(granted) or _heard(stack, own, deadline):
            return _spoken(stack, _agreed(running, own), deadline)
        # The first one has died before it could write: begin again.
        _unlock(stack, lkid, deadline)
        if time.monotonic() + pause > deadline:
            raise StackUnavailable(
                "somebody is in the lockspace, but speaks no version of pydlm's locking protocol "
                f"that this pydlm, {own.major}.{own.minor}, knows of: upgrade it, or stop the "
                "others first"
            )
        time.sleep(pause)
        pause = min(2 * pause, 1.0)


def _spoken(stack: Stack, version: Version, deadline: float) -> Version:
    """Let it be known that it is spoken, even if the block dies with a node, as it does on o2cb."""
    _lock(stack, _name_of(version), Mode.PR, LockFlag(0), deadline)
    return version


def _heard(stack: Stack, own: Version, deadline: float) -> Version | None:
    """Return which version that can be agreed on is spoken by others, if any is."""
    # One after the other: who listens to nobody has EX for a moment, and so might be heard.
    turn, _ = _lock(stack, _TURN_LOCK, Mode.EX, LockFlag(0), deadline)
    running = None
    for minor in range(own.minor + 1):
        version = Version(own.major, minor)
        lkid, tried = _lock(stack, _name_of(version), Mode.EX, LockFlag.NOQUEUE, deadline)
        if tried.status:
            running = version
            break
        _unlock(stack, lkid, deadline)
        if isinstance(stack, _Keeping):
            stack.forget(_name_of(version))
    _unlock(stack, turn, deadline)
    return running


def _in_turn(stack: Stack, own: Version, deadline: float) -> Version:
    """Negotiate where no lock can be tried: one after the other, so that nobody need try.

    If whoever was alone has died, the block is invalid, and on dlmfs remains so for the node that
    writes it. So a next block is taken instead. When further nodes die, an earlier block may seem
    valid again, with whatever was in it: what counts is the last one that says something.
    What all have left without a word, killed, goes on to count as long as some kernel remembers it.
    """
    turn, _ = _lock(stack, _TURN_LOCK, Mode.EX, LockFlag(0), deadline)
    running = None
    silent: list[tuple[bytes, int]] = []  # one after the other, at the end
    for number in count(1):
        name = VERSION_LOCK + (b"-%d" % number if number > 1 else b"")
        lkid, granted = _lock(stack, name, Mode.PR, LockFlag(0), deadline)
        said = _running(granted)
        if said or granted.flags & StatusFlag.VALNOTVALID:
            running = said or running
            silent.clear()  # it is kept, so that it is not forgotten
            continue
        silent.append((name, lkid))
        if len(silent) == 2:
            break
    for _, lkid in silent:
        _unlock(stack, lkid, deadline)
    if running is None:
        # Nobody is in, and in our turn nobody comes.
        name = silent[0][0]
        lkid, _ = _lock(stack, name, Mode.EX, LockFlag(0), deadline)
        _unlock(stack, lkid, deadline, _said(own))
        _lock(stack, name, Mode.PR, LockFlag(0), deadline)
        running = own
    _unlock(stack, turn, deadline)
    return _agreed(running, own)


def _name_of(version: Version) -> bytes:
    return VERSION_LOCK + b"-%d.%d" % version


def _said(version: Version) -> bytes:
    return _MAGIC + bytes(version)


def _running(granted: Completion) -> Version | None:
    """Return what the block says, if it says anything."""
    block = granted.lvb or b""
    if granted.flags & StatusFlag.VALNOTVALID or not block.startswith(_MAGIC):
        return None
    return Version(*block[len(_MAGIC) :][:2])


def _agreed(running: Version, own: Version) -> Version:
    if running.major == own.major and running.minor <= own.minor:
        return running
    raise StackUnavailable(
        f"the nodes of this lockspace speak version {running.major}.{running.minor} of "
        f"pydlm's locking protocol, and this pydlm {own.major}.{own.minor}: upgrade "
        f"{'the others' if running.major < own.major else 'it'}, or stop them first"
    )


def _lock(
    stack: Stack, name: bytes, mode: Mode, flags: LockFlag, deadline: float
) -> tuple[int, Completion]:
    lkid = stack.lock(name, mode, flags | LockFlag.VALBLK)
    completion = _completed(stack, lkid, deadline)
    if completion.status and not (completion.status == errno.EAGAIN and flags & LockFlag.NOQUEUE):
        raise StackUnavailable(
            "the version of pydlm's locking protocol cannot be looked up: "
            f"{os.strerror(completion.status)}",
            errno=completion.status,
        )
    return lkid, completion


def _unlock(stack: Stack, lkid: int, deadline: float, block: bytes | None = None) -> None:
    stack.unlock(lkid, LockFlag(0) if block is None else LockFlag.VALBLK, lvb=block)
    _completed(stack, lkid, deadline)


def _completed(stack: Stack, lkid: int, deadline: float) -> Completion:
    poll = select.poll()
    poll.register(stack.fileno(), select.POLLIN)
    while (left := deadline - time.monotonic()) > 0:
        for event in stack.dispatch():
            if isinstance(event, Completion) and event.lkid == lkid:
                return event
        poll.poll(left * 1000)
    raise StackUnavailable(
        "no answer about the version of pydlm's locking protocol, by the lock manager or by those "
        "who are in the lockspace; is a node of the cluster hanging?"
    )
