"""The life of a cached lock on its node: userdlm's states, as a machine without threads and I/O.

Inputs are its methods: what local users want, what the lock manager tells, what the callback
did. Each returns the actions that are to be done now, in this order, by whoever drives it. One
input at a time; only the gate's counters may change in between.

========== ======================================== =======================================
state      is set by                                is cleared by
========== ======================================== =======================================
ATTACHED   completion of the first request (NL)     completion of the unlock; loss
BUSY       any request                              its completion, or its failure
BLOCKED    a notice (BAST) that the level is in the the level is in nobody's way, as after a
           way of; EDEADLK; `let_go`                down-conversion
IN_CANCEL  a cancel of the up-conversion that is    the completion of that: cancelled, or
           under way                                granted because that was faster
QUEUED     on_drop has been given out               `dropped`: on_drop has returned
IN_TEARDOWN `close`; loss                           never
========== ======================================== =======================================

What is done next depends on them in this order:

=========================== ================================================================
QUEUED                      wait for on_drop
BUSY                        wait for the completion; but cancel a conversion up if what is
                            held meanwhile blocks somebody, if nobody wants it any
                            more, or with IN_TEARDOWN
not ATTACHED                nothing: it is gone
IN_TEARDOWN                 when no use is left: on_drop, then unlock
BLOCKED                     when no use is left that the new level is too low for: on_drop, then
                            convert down to the highest level in nobody's way
somebody waits for a level  convert up
=========================== ================================================================
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from pydlm.cached.actions import (
    Action,
    Attach,
    Cancel,
    Counters,
    Down,
    Outcome,
    RunOnDrop,
    State,
    Unlock,
    Up,
    Waiter,
    Wake,
)
from pydlm.cached.line import Line, needs
from pydlm.errors import Closed, DlmError, LockLost
from pydlm.types import ECANCEL, EUNLOCK, Mode

__all__ = ["StateMachine"]

# The same as plain numbers, and in tables: an enumeration's own operators cost ten times as much.
_ATTACHED, _BUSY, _BLOCKED, _IN_CANCEL, _QUEUED, _IN_TEARDOWN = (
    flag.value for flag in State if flag
)

#: By mode: the highest level that is not in its way.
_BELOW = tuple(
    next(level for level in (Mode.EX, Mode.PR, Mode.NL) if level.compatible(mode)) for mode in Mode
)
#: By level: whether it is in the way of each mode.
_IN_THE_WAY = tuple(tuple(not level.compatible(mode) for mode in Mode) for level in Mode)


class StateMachine:
    """One cached lock. `level` is what the node holds: NL, PR or EX."""

    def __init__(self, gate: Counters, *, tell: bool) -> None:
        self._gate = gate
        #: Whether on_drop is to be run at all.
        self.tell = tell
        self._state = 0
        self.level = Mode.NL
        #: The strictest mode that others want and the level is in the way of; NL: none.
        self.blocking = Mode.NL
        #: Why it is gone, if it was not closed.
        self.error: DlmError | None = None
        self._asked = Mode.NL  # of the request under way
        self._at_once = False
        self._told: Mode | None = None  # on_drop has returned for a drop to this level
        self._line = Line()
        self._leavers: list[Waiter] = []  # wait for the lock to be let go
        self._actions: list[Action] = []

    @property
    def state(self) -> State:
        """What it is in now."""
        return State(self._state)

    # Inputs of local users.

    def attach(self, waiter: Waiter) -> list[Action]:
        """Begin. `waiter` is woken when the lock is there."""
        self._leavers.append(waiter)
        self._request(Attach(), Mode.NL)
        return self._take()

    def be_attached(self, waiter: Waiter) -> list[Action]:
        """As `attach`, which somebody else may have done, or be about to."""
        if self.closed or self._state & _ATTACHED:
            self._wake(waiter, self._reason() if self.closed else Outcome.DONE)
            return self._take()
        if not self._state & _BUSY:
            return self.attach(waiter)
        self._leavers.append(waiter)
        return self._take()

    def want(self, waiter: Waiter) -> list[Action]:
        """A use wants to begin; it stands in line, first come, first served."""
        if self.closed:
            self._wake(waiter, self._reason())
            return self._take()
        self._line.add(waiter)
        return self._settle()

    def expire(self, waiter: Waiter) -> list[Action]:
        """Its time is over; if it has been let in meanwhile, that is what counts."""
        if waiter in self._line:
            self._leave(waiter, Outcome.EXPIRED)
        return self._settle()

    def abandon(self, waiter: Waiter) -> list[Action]:
        """It has gone, whether it was let in or not."""
        if waiter in self._line:
            self._leave(waiter, Outcome.EXPIRED)
        elif waiter.admitted:
            waiter.admitted = False
            self._gate.dismiss(waiter.exclusive)
        return self._settle()

    def ended(self) -> list[Action]:
        """A use has ended that somebody may wait for."""
        return self._settle()

    def let_go(self, waiter: Waiter) -> list[Action]:
        """Drop to NL as if somebody wanted EX.

        `waiter` is woken when that is through; at once if it has to wait for a use to end.
        """
        if self.level == Mode.NL or self.closed:
            self._wake(waiter, Outcome.DONE)
            return self._take()
        self.blocking = Mode.EX
        self._state |= _BLOCKED
        self._leavers.append(waiter)
        return self._settle()

    def close(self, waiter: Waiter) -> list[Action]:
        """Let nobody in any more, then unlock; `waiter` is woken as by `let_go`."""
        self._state |= _IN_TEARDOWN
        self._leavers.append(waiter)
        self._send_away(self._reason())
        return self._settle()

    def dropped(self, mode: Mode) -> list[Action]:
        """on_drop(mode) has returned."""
        self._state &= ~_QUEUED
        self._told = mode
        return self._settle()

    def turn_away(self, unless: Callable[[Waiter], bool]) -> list[Action]:
        """Whoever stands in line gets Closed, but for those `unless` returns True for."""
        for waiter in [w for w in self._line if not unless(w)]:
            self._leave(waiter, Closed("the connection to the lockspace is closed"))
        return self._settle()

    # Inputs of the lock manager.

    def completed(self, status: int, granted: Mode | None) -> list[Action]:
        """The request under way has ended."""
        if status == EUNLOCK:
            asked_for = self._state & _IN_TEARDOWN
            self._detach(None if asked_for else LockLost("the lock manager has lost the lock"))
            return self._take()
        if not self._state & _BUSY:
            return []
        before, asked = self.level, self._asked
        self._state &= ~(_BUSY | _IN_CANCEL)
        if status == 0 and granted is not None:
            self._state |= _ATTACHED
            self.level = granted
            if granted > before:
                self._promise(before)
            else:
                self._told = None
        elif granted is None and status != errno.EAGAIN and asked == Mode.NL:
            self._detach(DlmError("the lock cannot be had", errno=status))
        elif status == errno.EAGAIN:
            self._dismiss_trying()
        elif status == errno.EDEADLK:
            # Somebody else converts up, and what we hold is in the way: that one goes first.
            self.blocking = Mode.EX
            self._state |= _BLOCKED
        elif status != ECANCEL:
            self._send_away(DlmError("the lock cannot be converted", errno=status))
        return self._settle()

    def blocked(self, mode: Mode) -> list[Action]:
        """A notice: somebody else wants `mode`, and what is held is in the way."""
        # On its way up, it may be that the notice is about what will be held.
        held = max(self.level, self._asked) if self._state & _BUSY else self.level
        if not self.closed and _IN_THE_WAY[held][mode]:
            self.blocking = max(self.blocking, mode)
            self._state |= _BLOCKED
        return self._settle()

    def lost(self, error: DlmError) -> list[Action]:
        """Nothing can be asked of the lock manager any more, or the lock is gone there."""
        self._detach(error)
        return self._take()

    def refused(self, action: Action, error: DlmError) -> list[Action]:
        """The lock manager did not take the request that `action` asked for."""
        if isinstance(action, Cancel):
            return []  # the conversion ends some other way
        if not isinstance(action, Up):
            return self.lost(error)
        self._state &= ~(_BUSY | _IN_CANCEL)
        # Who has what it needs in the level that is held goes on.
        self._send_away(error, above=self.level)
        return self._settle()

    # What follows from them.

    @property
    def attached(self) -> bool:
        """Whether there is a lock."""
        return bool(self._state & _ATTACHED)

    @property
    def closed(self) -> bool:
        """Whether no use can begin any more."""
        return bool(self._state & _IN_TEARDOWN) or self.error is not None

    @property
    def gone(self) -> bool:
        """Whether there is no lock any more, and none will be."""
        return self.closed and not self._state & (_ATTACHED | _BUSY)

    @property
    def owes_on_drop(self) -> bool:
        """Whether EX may not be let go as if all were well: on_drop has not returned for it."""
        return self.tell and self.level == Mode.EX and self._told is not Mode.NL

    def _reason(self) -> BaseException:
        return self.error or Closed("the cached lock is closed")

    def _available(self) -> Mode:
        """Return the level that new uses may count on."""
        if self.closed or not self._state & _ATTACHED:
            return Mode.NL
        if self._state & _BLOCKED:
            return min(self.level, _BELOW[self.blocking])
        return self.level

    def _settle(self) -> list[Action]:
        """Do what can be done now."""
        # First shut, then count: whoever passes in between would not be seen.
        self._gate.allow(False, False, True)
        if self._state & _BLOCKED and not (
            self._state & _BUSY or _IN_THE_WAY[self.level][self.blocking]
        ):
            self.blocking = Mode.NL
            self._state &= ~_BLOCKED
        stopped = self._admit()
        self._advance()
        if self._line.trying and not (
            self._state & _BUSY and (self._at_once or not self._state & _ATTACHED)
        ):
            self._dismiss_trying()
            stopped = stopped and bool(self._line)
            self._advance()  # a promise to one of them may have been in the way
        available = self._available()
        self._gate.allow(
            available >= Mode.PR and not stopped,
            available >= Mode.EX and not stopped,
            stopped or bool(self._state & (_BLOCKED | _IN_TEARDOWN)),
        )
        return self._take()

    def _admit(self) -> bool:
        """Let in, from the head of the line, who can be; return whether uses hold others up.

        Who waits for the lock manager holds nobody up who need not.
        """
        gate, available = self._gate, self._available()
        line = self._line
        if available < Mode.EX and not line.promised and not line.trying:
            if available < Mode.PR or not line.readers:
                return False
        admitted = []
        stopped = False
        for waiter in line:
            if needs(waiter) > (self.level if waiter.promised else available):
                continue
            if self._in_use_against(needs(waiter)):
                stopped = True
                break
            gate.admit(waiter.exclusive)
            waiter.admitted = True
            admitted.append(waiter)
        for waiter in admitted:
            self._leave(waiter, Outcome.DONE)
        return stopped

    def _advance(self) -> None:
        """Make the next request, or none; at most one is under way."""
        state = self._state
        if state & _QUEUED:
            return
        if state & _BUSY:
            if self._asked > self.level and not state & _IN_CANCEL and self._unwanted():
                self._state |= _IN_CANCEL
                self._actions.append(Cancel())
            return
        if not state & _ATTACHED:
            self._release_leavers()
        elif state & _IN_TEARDOWN:
            if self._drop_to(Mode.NL):
                self._request(Unlock(), Mode.NL)
        elif state & _BLOCKED:
            target = _BELOW[self.blocking]
            if self._drop_to(target):
                self._request(Down(target), target)
        else:
            self._release_leavers()
            need = self._line.need
            if need > self.level:
                self._request(Up(need, False), need)
            elif self._line.trying:
                need = max(needs(w) for w in self._line if w.trying)
                if need > self.level and not self._in_use_against(need):
                    self._request(Up(need, True), need, at_once=True)

    def _in_use_against(self, need: Mode) -> bool:
        """Return whether uses on this node keep one from beginning that needs `need`."""
        gate = self._gate
        return gate.exclusion and bool(
            gate.exclusive_uses or (need is Mode.EX and gate.shared_uses)
        )

    def _drop_to(self, target: Mode) -> bool:
        """Return whether nothing is left to be done before the level falls to `target`."""
        gate = self._gate
        if gate.exclusive_uses or (target < Mode.PR and gate.shared_uses) or self._line.promised:
            self._release_leavers()  # one of them may be what they wait for
            return False
        told = self._told is not None and self._told <= target
        if self.tell and self.level > target and not told:
            self._state |= _QUEUED
            self._actions.append(RunOnDrop(target))
            return False
        return True

    def _unwanted(self) -> bool:
        """Return whether the conversion up that is under way should be taken back."""
        if self.closed:
            return True
        if self._state & _BLOCKED and _IN_THE_WAY[self.level][self.blocking]:
            return True
        return not self._at_once and self._line.need < self._asked

    def _promise(self, before: Mode) -> None:
        """Those whom the lock was converted up for go first, or others' notices starve them."""
        for waiter in self._line:
            if before < needs(waiter) <= self.level:
                self._line.promise(waiter)
                if waiter.exclusive and self._gate.exclusion:
                    break

    def _request(
        self, action: Attach | Up | Down | Unlock, mode: Mode, *, at_once: bool = False
    ) -> None:
        self._state |= _BUSY
        self._asked = mode
        self._at_once = at_once
        self._actions.append(action)

    def _detach(self, error: DlmError | None) -> None:
        """There is no lock any more."""
        self._state = _IN_TEARDOWN
        self.level = self.blocking = Mode.NL
        self.error = self.error or error
        self._gate.allow(False, False, False)
        self._send_away(self._reason())
        self._release_leavers()

    # The line.

    def _leave(self, waiter: Waiter, outcome: Outcome | BaseException) -> None:
        self._line.remove(waiter)
        self._wake(waiter, outcome)

    def _send_away(self, error: BaseException, above: Mode = Mode.NL) -> None:
        for waiter in [w for w in self._line if needs(w) > above]:
            self._leave(waiter, error)

    def _dismiss_trying(self) -> None:
        for waiter in [w for w in self._line if w.trying]:
            self._leave(waiter, Outcome.NOT_AT_ONCE)

    def _release_leavers(self) -> None:
        outcome: Outcome | BaseException = self.error or Outcome.DONE
        for waiter in self._leavers:
            self._wake(waiter, outcome)
        self._leavers.clear()

    def _wake(self, waiter: Waiter, outcome: Outcome | BaseException) -> None:
        self._actions.append(Wake(waiter, outcome))

    def _take(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions
