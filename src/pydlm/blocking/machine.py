"""Whose turn it is to use a handle, and what it has asked the stack for."""

from __future__ import annotations

import contextlib
from collections import deque
from enum import Enum, auto
from functools import partial
from itertools import starmap
from typing import TYPE_CHECKING

from pydlm.blocking.handle import Handle
from pydlm.blocking.reader import EventFd, Wait
from pydlm.errors import BadArgument, Busy, Closed, DlmError
from pydlm.types import EUNLOCK, Completion, LockFlag, Mode

if TYPE_CHECKING:
    from pydlm.blocking.connection import BlockingLocks

__all__ = ["Machine", "Phase", "may_wait"]


def may_wait(held: Mode, mode: Mode) -> bool:
    """Return whether a conversion may have to wait for others."""
    return mode > held or (held, mode) == (Mode.PR, Mode.CW)


class Phase(Enum):
    """What becomes of a handle just now."""

    IDLE = auto()  #: nobody holds it
    TURN = auto()  #: given up to the first in line, who has not come yet
    ASKING = auto()  #: a thread has asked for it
    HELD = auto()
    CONVERTING = auto()  #: held, and a thread has asked for another mode
    RELEASING = auto()
    SHUT = auto()


class Machine(Handle):
    """The state of one handle.

    The stack's completions move it on, in whichever thread reads them; the threads that use the
    handle ask, and sleep until they have been answered. The connection's guard covers it all:
    what says so is called with the guard held.
    """

    __slots__ = ("_fd", "_line", "_phase", "_seen", "_waiter")

    _conn: BlockingLocks

    def __init__(self, locks: BlockingLocks, name: bytes) -> None:
        super().__init__(locks, name)
        self._fd: EventFd | None = None
        self._line: deque[Wait] = deque()  # threads that wait for the handle to be given up
        self._waiter: Wait | None = None  # who asked last
        self._seen: Completion | None = None
        self._phase = Phase.IDLE  # last: without it, it was never made

    # The guard is held in all of the following, down to the next such line.

    def _check_open(self) -> None:
        if self._phase is Phase.SHUT and not self._conn.closed:
            raise Closed("the lock is closed")
        self._conn.check_live()

    def _request(self, w: Wait, phase: Phase, mode: Mode, flags: LockFlag = LockFlag(0)) -> None:
        """Ask the stack for `mode`. The completion ends `w`, and may do so before this returns."""
        self._phase, self._waiter = phase, w
        w.done = False
        self._ask(w, mode, flags)
        self._conn.pump()

    def _ask(self, w: Wait, mode: Mode, flags: LockFlag = LockFlag(0)) -> None:
        stack = self._conn.stack
        # First the note, then the verb: see `_withdraw`.
        self._asked, self._cancelling, w.sent = mode, False, False
        with_block, value = self._block.carried(self._granted, mode)
        try:
            if not self._lkid:
                lkids: list[int] = []
                try:
                    # One call in C: no signal handler can raise between having and keeping it.
                    lkids.extend(starmap(stack.lock, [(self._name, mode, flags | with_block)]))
                finally:
                    if lkids:
                        self._lkid = lkids[0]
                        self._conn.own(self._lkid, self)
            elif mode is Mode.NL and not self._conn.keeps_null:
                stack.unlock(self._lkid, with_block, lvb=value)
            else:
                if may_wait(self._granted, mode):
                    # Or else readers would pass a waiting writer for ever. The lock manager
                    # takes it for these conversions only.
                    flags |= LockFlag.QUECVT
                stack.convert(self._lkid, mode, flags | with_block, lvb=value)
        except DlmError:
            self._asked = None
            raise
        w.sent = True

    def completed(self, event: Completion) -> None:
        """Move on: what was asked for has been granted or refused.

        Given the same event again, this goes on where a signal handler has ended it.
        """
        if self._asked is not None and event is not self._seen:
            granted = event.granted or Mode.NL
            if event.status in (0, EUNLOCK):
                self._block.granted(self._granted, granted, event)
                self._token = event.token or self._token
                self._conn.forget_notice(self._lkid)
                self._unblock()
            if event.granted is None:
                self._lkid = 0
            if self._waiter is not None:
                self._waiter.status = event.status
            self._granted = granted
            self._asked, self._seen = None, event
        if self._asked is None:
            self._move_on()

    def _move_on(self) -> None:
        """Let follow what follows from what is granted, now that nothing is under way."""
        w = self._waiter
        if w is not None and w.disowned:
            try:
                if self._phase is Phase.ASKING and self._granted > Mode.NL:
                    self._give_back(w)
                    return
                if self._phase is Phase.CONVERTING and self._is_past(w):
                    self._go_back(w)
                    return
            except DlmError:
                self._drop(w)
        if self._phase in (Phase.ASKING, Phase.CONVERTING, Phase.RELEASING):
            if self._granted > Mode.NL:
                self._phase = Phase.HELD
            else:
                self._call_next()
        elif self._phase is Phase.TURN:
            self._call_next()
        if w is not None:
            self._conn.finish(w)

    def noticed(self, mode: Mode) -> bool:
        """Somebody wants `mode`; return whether this lock is in the way."""
        if self._phase is Phase.SHUT or self._granted.compatible(mode):
            return False
        self._blocked = max(mode, self._blocked or mode)
        if self._fd is not None:
            self._fd.show(True)
        return True

    def _unblock(self) -> None:
        self._blocked = None
        if self._fd is not None:
            self._fd.show(False)

    def _give_back(self, w: Wait) -> None:
        """Release what was granted to a thread that no longer wants it."""
        self._phase = Phase.RELEASING
        w.done = False
        self._ask(w, Mode.NL)

    def _is_past(self, w: Wait) -> bool:
        """Return whether `w` has left a conversion that was granted, and can be undone."""
        capable = "trylock" in self._conn.stack.capabilities
        return capable and w.before is not None and w.before is not self._granted

    def _go_back(self, w: Wait) -> None:
        """Undo a conversion whose caller believes in the old mode.

        Between PR and CW others may have come in; then it stays as it is.
        """
        before, w.before = w.before, None
        assert before is not None
        self._phase, w.done = Phase.CONVERTING, False
        self._ask(w, before, LockFlag.NOQUEUE)

    def _call_next(self) -> None:
        """Hand the idle handle to the first in line, who leaves the line when it comes."""
        if self._line:
            self._phase = Phase.TURN
            self._conn.finish(self._line[0])
        else:
            self._phase = Phase.IDLE

    def _dismiss(self) -> bool:
        """Send the line home, but for whom it is the turn; return whether there was anybody."""
        stays = 1 if self._phase is Phase.TURN else 0
        found = len(self._line) > stays
        while len(self._line) > stays:
            self._conn.finish(self._line.pop())
        return found

    def _take_back(self) -> None:
        """Cancel what a thread waits for. How the request ends is for its completion to say."""
        self._conn.pump()
        if (
            self._asked is not None
            and self._phase in (Phase.ASKING, Phase.CONVERTING)
            and not self._cancelling
        ):
            with contextlib.suppress(BadArgument, Busy):  # it is being cancelled already
                self._conn.stack.unlock(self._lkid, LockFlag.CANCEL)
            self._cancelling = True
            self._conn.pump()

    def _withdraw(self, w: Wait, refused: bool) -> bool:
        """See that nothing stays of a thread that leaves by an exception.

        Return whether something is under way still, which the end of `w` will tell. `refused`: the
        exception was the stack's. Otherwise the thread may have been anywhere, and may be so a
        second time: this can be called again.
        """
        if self._phase is Phase.SHUT:
            return False
        w.disowned = True
        if w in self._line:
            self._line.remove(w)
        if self._phase is Phase.TURN:
            self._call_next()
        self._conn.pump()
        if self._waiter is not w:
            return False
        if self._asked is not None and not w.sent and not self._has_reached_stack():
            self._asked = None
        if self._asked is not None:
            if "cancel" in self._conn.stack.capabilities:
                self._take_back()
        elif self._phase is Phase.HELD and w.acquiring:
            self._give_back(w)
        elif self._phase is Phase.HELD and self._is_past(w):
            self._go_back(w)
        elif self._phase is Phase.RELEASING and not refused:
            self._ask(w, Mode.NL)
        elif self._granted > Mode.NL:
            self._phase = Phase.HELD
        elif self._phase in (Phase.ASKING, Phase.RELEASING):
            self._call_next()
        self._conn.pump()
        return self._asked is not None

    def _drop(self, w: Wait) -> None:
        """Unlock what `w` has acquired or waits for, where the stack no longer says how it ended.

        The handle is as good as new: the next request makes another lock.
        """
        if self._waiter is not w or not w.acquiring or self._phase is Phase.SHUT:
            return
        flags = self._flags_to_drop()
        lkid, self._lkid = self._lkid, 0
        self._asked, self._granted = None, Mode.NL
        self._unblock()
        if lkid:
            self._conn.unlock(lkid, flags, None, Wait())
        self._call_next()

    def _has_reached_stack(self) -> bool:
        """Ask the stack whether it knows of the request under way."""
        try:
            status = self._conn.stack.lock_status(self._lkid)
        except DlmError:
            return False
        return status.requested is not None or (status.granted or Mode.NL) != self._granted

    def disconnected(self) -> None:
        """The connection is about to end: say what the stack cannot know, and shut."""
        flags, value = self._last_words()
        says = self._granted >= Mode.PW and self._phase is not Phase.SHUT
        self._shut()
        if says:
            with contextlib.suppress(DlmError):
                self._conn.stack.unlock(self._lkid, flags, lvb=value)

    def _unlock_for_good(self, w: Wait) -> None:
        """Shut, and unlock; `w` ends when that is done. Called again, it does what has failed."""
        flags, value = self._last_words()
        self._shut()
        if self._lkid:
            self._conn.unlock(self._lkid, flags, value, w)
            self._lkid = 0
        else:
            w.done = True

    def _shut(self) -> None:
        self._phase = Phase.SHUT
        self._dismiss()
        if self._asked is not None and self._waiter is not None:
            self._conn.finish(self._waiter)
        if self._fd is not None:
            self._fd.close()

    # The guard is not held in what follows.

    def _see_through(self, w: Wait, deadline: float | None) -> None:
        """Wait for the request of `w` to end; take it back when the deadline has come."""
        locks = self._conn
        if w.done or locks.wait(w, deadline):
            return
        with locks.guard:
            if self._waiter is w and not w.done:
                w.expired = True
                self._take_back()
        locks.wait(w, None)

    def _leave(self, w: Wait, error: BaseException) -> None:
        """Leave by `error`, and nothing behind."""
        locks, refused = self._conn, isinstance(error, DlmError)
        if not locks.alive:
            return
        # No signal handler comes to another thread: what is raised there is the stack's error.
        elsewhere = partial(self._settle, w, refused, Exception)
        if not refused and "cancel" not in locks.stack.capabilities:
            locks.spawn(elsewhere)  # it takes as long as it takes
            return
        try:
            self._settle(w, refused, DlmError)
        except BaseException:
            locks.spawn(elsewhere)  # Ctrl-C again
            raise

    def _settle(self, w: Wait, refused: bool, failure: type[Exception]) -> None:
        locks = self._conn
        try:
            with locks.guard:
                under_way = self._withdraw(w, refused)
            if under_way:
                locks.wait(w, None)
        except failure:
            with contextlib.suppress(failure), locks.guard:
                self._drop(w)
