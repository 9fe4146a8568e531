"""Whose turn it is to use a handle, and what it has asked the stack for.

All of it runs in the loop's thread, and nothing of it ever waits: a task that is cancelled leaves
at once, and what it leaves is cleared away here when the stack answers. So there is no second wait
that a second cancellation could strike.
"""

from __future__ import annotations

import contextlib
import errno
import logging
from collections import OrderedDict
from copy import copy
from typing import TYPE_CHECKING

from pydlm.aio.wait import Wait
from pydlm.blocking.handle import Handle
from pydlm.blocking.machine import Phase, may_wait
from pydlm.errors import BadArgument, Busy, Closed, DlmError, NotHeld
from pydlm.types import EUNLOCK, Completion, LockFlag, Mode

if TYPE_CHECKING:
    import asyncio

    from pydlm.aio.connection import Connection

__all__ = ["Machine"]

_NO_FLAGS = LockFlag(0)
_log = logging.getLogger("pydlm")


class Machine(Handle):
    """The state of one handle. The stack's completions move it on."""

    __slots__ = ("_last", "_leaving", "_line", "_phase", "_waiter", "_watchers")

    _conn: Connection

    def __init__(self, conn: Connection, name: bytes) -> None:
        self._phase = Phase.SHUT  # until it is open
        super().__init__(conn, name)
        self._watchers: set[asyncio.Future[Mode]] | None = None
        # Those who wait for the handle to be given up, in order. Anybody may leave: no list.
        self._line: OrderedDict[Wait, None] = OrderedDict()
        self._waiter: Wait | None = None  # who waits for the request under way
        self._last: Wait | None = None  # for whom the mode that is held was granted
        self._leaving = False  # released, once a conversion that nobody waits for has ended
        if conn.keeps_null:
            # NL is compatible with all, and EXPEDITE passes whoever waits. Should the completion
            # take its time, whoever acquires meanwhile stands in line.
            self._request(Phase.RELEASING, Mode.NL, LockFlag.EXPEDITE)
        else:
            self._phase = Phase.IDLE

    def _check_open(self) -> None:
        self._conn.check_live()
        if self._phase is Phase.SHUT:
            raise Closed("the lock is closed")

    # Asking the stack. Whoever calls one of these pumps afterwards.

    def _request(
        self, phase: Phase, mode: Mode, flags: LockFlag = _NO_FLAGS, w: Wait | None = None
    ) -> None:
        """Ask for `mode`; where the stack refuses to, all is as before."""
        self._ask(mode, flags)
        self._phase, self._waiter = phase, w

    def _ask(self, mode: Mode, flags: LockFlag) -> None:
        stack = self._conn.stack
        with_block, value = self._block.carried(self._granted, mode)
        if not self._lkid:
            self._lkid = stack.lock(self._name, mode, flags | with_block)
            self._conn.own(self._lkid, self)
        elif mode is Mode.NL and not self._conn.keeps_null:
            stack.unlock(self._lkid, with_block, lvb=value)
        else:
            if may_wait(self._granted, mode):
                # Or else readers would pass a waiting writer for ever. The lock manager takes it
                # for these conversions only.
                flags |= LockFlag.QUECVT
            stack.convert(self._lkid, mode, flags | with_block if flags else with_block, lvb=value)
        self._asked, self._cancelling = mode, False

    def _acquire(self, w: Wait) -> bool:
        """Make the request of `w`, or let it stand in line; False: it would have to."""
        if self._phase is Phase.IDLE:
            self._request(Phase.ASKING, w.mode, w.flags, w)
            self._conn.pump()
        elif w.flags & LockFlag.NOQUEUE:
            return False
        else:
            self._line[w] = None
        return True

    def _call_next(self) -> None:
        """Ask for the first in line, if the handle is idle."""
        while self._line and self._phase is Phase.IDLE:
            w, _ = self._line.popitem(last=False)
            try:
                self._request(Phase.ASKING, w.mode, w.flags, w)
            except DlmError as error:
                w.finish(error)

    # What the stack answers.

    def completed(self, event: Completion) -> None:
        """Move on: what was asked for has been granted or refused."""
        if self._asked is None:
            return
        if event.status in (0, EUNLOCK):
            granted = event.granted or Mode.NL
            self._block.granted(self._granted, granted, event)
            self._token = event.token or self._token
            self._conn.forget_notice(self._lkid)
            self._blocked = None
        elif self._phase is Phase.RELEASING and self._granted > Mode.NL:
            _log.error("the lock %r is not released: status %s", self._name, event.status)
        if event.granted is None:
            self._lkid = 0
        self._granted = event.granted or Mode.NL
        self._asked = None
        w, self._waiter = self._waiter, None
        if w is not None:
            w.status = event.status
        self._move_on(w)

    def _move_on(self, w: Wait | None) -> None:
        """Let follow what follows from what is granted, now that nothing is under way."""
        if w is not None and w.status == 0:
            self._last = w
        leaving, self._leaving = self._leaving, False
        if self._granted > Mode.NL:
            self._phase = Phase.HELD
            if leaving:
                self._give_back()
            elif w is not None and w.disowned:
                self._undo(w)
        else:
            self._phase = Phase.IDLE
        if w is not None:
            w.finish()
        self._call_next()

    def noticed(self, mode: Mode) -> bool:
        """Somebody wants `mode`; return whether this lock is in the way."""
        if self._phase is Phase.SHUT or self._granted.compatible(mode):
            return False
        self._blocked = max(mode, self._blocked or mode)
        watchers, self._watchers = self._watchers, None
        for future in watchers or ():
            if not future.done():
                future.set_result(self._blocked)
        return True

    # Those who no longer want what they have asked for.

    def _withdraw(self, w: Wait) -> None:
        """See that nothing stays of a task that leaves by an exception."""
        w.disowned = True
        if self._phase is Phase.SHUT or not self._conn.alive:
            return
        if w in self._line:
            del self._line[w]
            return
        # It may have been granted already: that is in the arena, or has been taken in and the task
        # was just not run. In the first case this undoes it.
        self._conn.pump()
        if self._waiter is w:
            self._take_back()
        else:
            self._undo(w)
        self._conn.pump()

    def _undo(self, w: Wait) -> None:
        """Undo what was granted to `w`, if nobody has done anything with the handle since."""
        if self._phase is not Phase.HELD or self._last is not w:
            return
        self._last = None
        if w.acquiring:
            self._give_back()
        elif (
            w.before is not None
            and w.before is not self._granted
            and "trylock" in self._conn.stack.capabilities
        ):
            # Between PR and CW others may have come in; then it stays as it is.
            with contextlib.suppress(DlmError):
                self._request(Phase.CONVERTING, w.before, LockFlag.NOQUEUE)

    def _give_back(self) -> None:
        try:
            self._request(Phase.RELEASING, Mode.NL)
        except DlmError:
            self._drop()

    def _release(self) -> None:
        """Release, or do so as soon as the task that converts, and has left, is done with."""
        if self._phase is Phase.CONVERTING and not self._leaving:
            if self._waiter is not None and not self._waiter.disowned:
                raise Busy("release of a lock that is being converted; cancel() that first")
            self._leaving = True
        elif self._phase is Phase.HELD:
            self._request(Phase.RELEASING, Mode.NL)
            self._conn.pump()
        else:
            raise NotHeld("release unlocked lock")

    def _holds(self) -> bool:
        return self._phase in (Phase.HELD, Phase.CONVERTING) and not self._leaving

    def _usable(self) -> Mode:
        return self._granted if self._holds() else Mode.NL

    def _take_back(self) -> None:
        """Cancel what is waited for. How the request ends is for its completion to say."""
        if (
            self._asked is None
            or self._cancelling
            or self._phase not in (Phase.ASKING, Phase.CONVERTING)
            or "cancel" not in self._conn.stack.capabilities
        ):
            return
        self._cancelling = True
        try:
            with contextlib.suppress(BadArgument, Busy):  # it is being cancelled already
                self._conn.stack.unlock(self._lkid, LockFlag.CANCEL)
        except DlmError as error:
            self._give_up(error)

    def _give_up(self, error: DlmError) -> None:
        """The stack does not take a request back: for its task, it has ended all the same."""
        w = self._waiter
        if w is not None:
            if w.acquiring:
                self._waiter = None
                self._drop()
            w.finish(error)

    def _drop(self) -> None:
        """Unlock what the stack will not convert. The next request makes another lock."""
        flags = self._flags_to_drop()
        lkid, self._lkid = self._lkid, 0
        self._asked, self._granted, self._blocked = None, Mode.NL, None
        self._phase = Phase.IDLE
        if lkid:
            try:
                self._conn.unlock(lkid, flags, None)
            except DlmError as error:
                _log.error("the lock %r stays until the connection ends: %s", self._name, error)
        self._call_next()

    def _expire(self, w: Wait) -> None:
        """The time of `w` is over. What has been granted meanwhile counts."""
        if w.done or self._phase is Phase.SHUT:
            return
        w.expired = True
        if w in self._line:
            del self._line[w]
            w.status = errno.EAGAIN
            w.finish()
            return
        self._conn.pump()
        if self._waiter is w:
            self._take_back()
            self._conn.pump()

    def _dismiss(self, error: Exception) -> bool:
        """Send the line home; return whether there was anybody."""
        found = bool(self._line)
        while self._line:
            self._line.popitem(last=False)[0].finish(error)
        return found

    # The end.

    def disconnected(self) -> None:
        """The connection is about to end: say what the stack cannot know, and shut."""
        flags, value = self._last_words()
        lkid, says = self._lkid, self._granted >= Mode.PW
        self.shut(Closed("the connection to the lockspace is closed"))
        if says and lkid:
            with contextlib.suppress(DlmError):
                self._conn.stack.unlock(lkid, flags, lvb=value)

    def shut(self, error: Exception) -> None:
        """Nothing more can be asked through this handle; end all waits with `error`."""
        self._phase = Phase.SHUT
        self._granted, self._asked, self._lkid = Mode.NL, None, 0
        self._dismiss(error)
        w, self._waiter = self._waiter, None
        if w is not None:
            w.finish(error)
        watchers, self._watchers = self._watchers, None
        for future in watchers or ():
            if not future.done() and not future.get_loop().is_closed():
                future.set_exception(copy(error))  # each gets a traceback of its own
