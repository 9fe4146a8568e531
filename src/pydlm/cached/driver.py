"""What a cached lock's machine says is to be done, done; what the stack tells, told to it.

Whoever runs this sees to it that one step comes after the other: a thread, or an event loop.
"""

from __future__ import annotations

import contextlib
import logging
from abc import ABC, abstractmethod

from pydlm.cached.actions import (
    Action,
    Attach,
    Cancel,
    Down,
    RunOnDrop,
    State,
    Unlock,
    Up,
    Wake,
)
from pydlm.cached.kept import Kept
from pydlm.contract import Stack
from pydlm.errors import Closed, DlmError, Unsupported
from pydlm.types import Blocked, Completion, Event, LockFlag, Mode

__all__ = ["NEEDED", "Driver"]

#: What a stack must be able to do to have cached locks on it.
NEEDED = ("bast", "cancel", "convert", "modes6")

_log = logging.getLogger("pydlm")


class Driver(ABC):
    """The cached locks of one client of the lockspace."""

    def __init__(self, stack: Stack) -> None:
        lacking = sorted({*NEEDED} - stack.capabilities)
        if lacking:
            raise Unsupported(
                f"the stack {stack.name!r} cannot keep locks: it lacks {', '.join(lacking)}"
            )
        self.stack = stack
        self._locks: dict[int, Kept] = {}  # by lkid
        self._error: DlmError | None = None

    @abstractmethod
    def run_on_drop(self, kept: Kept, mode: Mode) -> None:
        """Have a lock's on_drop called; tell its machine `dropped` when that has returned."""

    def _cut_off(self, kept: Kept) -> None:
        """Leave a lock that is still there, and perhaps in use.

        What somebody was about to change, or on_drop to flush, is invalid, as after a death: such
        a lock is left to the stack's disconnect. Anything else is kept.
        """
        machine = kept.machine
        changing = kept.gate.exclusive_uses or machine.owes_on_drop
        if not changing and not machine.state & State.BUSY:
            with contextlib.suppress(DlmError):
                self._ask_stack(kept, Unlock())
        gone = self._error or Closed("the connection to the lockspace is closed")
        self._do(kept, machine.lost(gone))

    def _route(self, event: Event) -> None:
        if not isinstance(event, Blocked | Completion):
            return
        kept = self._locks.get(event.lkid)
        if kept is None:
            return
        if isinstance(event, Blocked):
            self._do(kept, kept.machine.blocked(event.mode))
            return
        if event.granted is None:
            del self._locks[event.lkid]
        elif event.status == 0:
            kept.block.granted(kept.machine.level, event.granted, event)
            if event.granted is Mode.EX and self._mark(kept):
                return
        self._do(kept, kept.machine.completed(event.status, event.granted))

    def _mark(self, kept: Kept) -> bool:
        """Write the block as it is, once; return whether a completion of that will come.

        A lock manager does not report that a block has become invalid before it was written for the
        first time. But who has EX may be about to do that, and its death must be seen.
        """
        if kept.marked or not kept.block.valid or "lvb" not in self.stack.capabilities:
            return False
        kept.marked = True
        flags, value = kept.block.carried(Mode.EX, Mode.EX)
        try:
            self.stack.convert(kept.lkid, Mode.EX, flags, lvb=value)
        except DlmError:
            return False
        return True

    def _do(self, kept: Kept, actions: list[Action]) -> None:
        """Carry actions out."""
        for action in actions:
            if isinstance(action, Wake):
                action.waiter.tell(action.outcome)
            elif isinstance(action, RunOnDrop):
                self.run_on_drop(kept, action.mode)
            else:
                try:
                    self._ask_stack(kept, action)
                except DlmError as error:
                    self._refused(kept, action, error)
        kept.show_blocked()

    def _ask_stack(self, kept: Kept, action: Action) -> None:
        stack, held = self.stack, kept.machine.level
        if isinstance(action, Attach):
            flags, _ = kept.block.carried(Mode.NL, Mode.NL)
            # NL is compatible with all, and EXPEDITE passes whoever waits: granted at once.
            kept.lkid = stack.lock(kept.name, Mode.NL, flags | LockFlag.EXPEDITE)
            self._locks[kept.lkid] = kept
        elif isinstance(action, Up):
            flags, value = kept.block.carried(held, action.mode)
            # QUECVT: or else those who ask for what others share pass those who wait, for ever.
            flags |= LockFlag.QUECVT
            if action.at_once:
                flags |= LockFlag.NOQUEUE
            stack.convert(kept.lkid, action.mode, flags, lvb=value)
        elif isinstance(action, Down):
            flags, value = kept.block.carried(held, action.mode)
            stack.convert(kept.lkid, action.mode, flags, lvb=value)
        elif isinstance(action, Unlock):
            flags, value = kept.block.carried(held, Mode.NL)
            stack.unlock(kept.lkid, flags, lvb=value)
        elif isinstance(action, Cancel):
            stack.unlock(kept.lkid, LockFlag.CANCEL)

    def _refused(self, kept: Kept, action: Action, error: DlmError) -> None:
        if not isinstance(action, Attach | Up | Cancel):
            with contextlib.suppress(Exception):  # whatever handlers of logging do
                _log.error("the cached lock on %r is lost: %s", kept.name, error)
            self._locks.pop(kept.lkid, None)
        self._do(kept, kept.machine.refused(action, error))
