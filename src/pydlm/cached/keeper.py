"""The cached locks of one connection, and the thread that keeps them.

It alone drives their state machines and calls the stack, so neither needs a lock, and no signal
handler can strike between two steps of either: Python runs those in the main thread. Users leave
messages; where they wait, they wait for the answer.
"""

from __future__ import annotations

import contextlib
import logging
import select
import threading
from collections.abc import Callable
from typing import Any

from pydlm._core import Mailbox
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
from pydlm.cached.callbacks import Callbacks
from pydlm.cached.kept import Kept
from pydlm.contract import Stack
from pydlm.errors import Closed, DlmError, Unsupported
from pydlm.types import Blocked, Completion, Event, LockFlag, Mode

__all__ = ["NEEDED", "Keeper"]

#: What a stack must be able to do to have cached locks on it.
NEEDED = ("bast", "cancel", "convert", "modes6")

_log = logging.getLogger("pydlm")


class Keeper:
    """One client of the lockspace, with the cached locks that are on it."""

    def __init__(self, stack: Stack, forget: Callable[[Any], object]) -> None:
        lacking = sorted({*NEEDED} - stack.capabilities)
        if lacking:
            raise Unsupported(
                f"the stack {stack.name!r} cannot keep locks: it lacks {', '.join(lacking)}"
            )
        self.stack = stack
        #: Called by a lock that is closed.
        self.forget = forget
        self.callbacks = Callbacks()
        self._mail = Mailbox()
        self.post = self._mail.post
        self._locks: dict[int, Kept] = {}  # by lkid
        self._error: DlmError | None = None
        self._thread = threading.Thread(target=self._keep, name="pydlm-cached", daemon=True)
        self._thread.start()

    # What users' threads call.

    def ask(self, kept: Kept, step: Callable[..., list[Action]], *args: Any) -> None:
        """Have a lock's machine take a step. Raises Closed."""
        if not self.post((kept, step, args)):
            raise self._error or Closed("the connection to the lockspace is closed")

    def is_own_thread(self) -> bool:
        """Whether this thread must not wait for answers, as they might wait for it."""
        return threading.current_thread() in (self._thread, self.callbacks.thread)

    def stop(self) -> None:
        """Leave the lockspace: whoever waits gets Closed. Idempotent."""
        self.post(None)
        self._thread.join()
        self.callbacks.stop()
        self.stack.disconnect()

    # The thread.

    def _keep(self) -> None:
        try:
            self._serve()
        except BaseException as error:
            _log.exception("the cached locks on stack %r are lost", self.stack.name)
            failed = DlmError(f"the keeper of cached locks has failed: {error!r}")
            self._error = error if isinstance(error, DlmError) else failed
        finally:
            for message in self._mail.close():
                self._read(message)
            for kept in list(self._locks.values()):
                self._cut_off(kept)

    def _cut_off(self, kept: Kept) -> None:
        """Leave a lock that is still there, and perhaps in use.

        What somebody was about to change is invalid, as after a death; anything else is kept.
        """
        machine = kept.machine
        if not kept.gate.exclusive_uses and not machine.state & State.BUSY:
            with contextlib.suppress(DlmError):
                self._ask_stack(kept, Unlock())
        gone = self._error or Closed("the connection to the lockspace is closed")
        self._do(kept, machine.lost(gone))

    def _serve(self) -> None:
        poll = select.poll()
        poll.register(self._mail.fileno(), select.POLLIN)
        poll.register(self.stack.fileno(), select.POLLIN)
        while True:
            poll.poll()
            # Requests are often granted at once: look again before going to sleep.
            busy = True
            while busy:
                busy = False
                for message in self._mail.take():
                    busy = True
                    if message is None:
                        return
                    self._read(message)
                for event in self.stack.dispatch():
                    busy = True
                    self._route(event)

    def _read(self, message: Any) -> None:
        if isinstance(message, tuple):
            kept, step, args = message
            self._do(kept, step(*args))
        elif message is not None:  # a gate: its last use of a kind has ended
            kept = message._kept
            self._do(kept, kept.machine.ended())

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
                self.callbacks.run(self, kept, action.mode)
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
            _log.error("the cached lock on %r is lost: %s", kept.name, error)
            self._locks.pop(kept.lkid, None)
        self._do(kept, kept.machine.refused(action, error))
