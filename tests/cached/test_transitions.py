"""The state machine alone: each row of its table, and each race, forced both ways."""

from __future__ import annotations

import contextlib
import errno
from typing import Any

import pytest

from pydlm import Closed, DlmError, LockLost, LockspaceFull, Mode
from pydlm._core import Gate
from pydlm.cached.actions import (
    Action,
    Attach,
    Cancel,
    Down,
    Outcome,
    RunOnDrop,
    State,
    Unlock,
    Up,
    Waiter,
    Wake,
)
from pydlm.cached.state import StateMachine
from pydlm.types import ECANCEL, EUNLOCK

NL, PR, EX = Mode.NL, Mode.PR, Mode.EX
DONE, EXPIRED, NOT_AT_ONCE = Outcome.DONE, Outcome.EXPIRED, Outcome.NOT_AT_ONCE


class Machine(StateMachine):
    """One on which uses end by name, as a gate without threads reports them."""

    def __init__(self, *, exclusion: bool = True, tell: bool = False) -> None:
        self.gate = Gate(exclusion, self._left)
        self.heard: list[Action] = []
        super().__init__(self.gate, tell=tell)
        self.first = Waiter()
        assert self.attach(self.first) == [Attach()]
        assert self.completed(0, NL) == [Wake(self.first, DONE)]

    def _left(self, gate: object) -> None:
        self.heard += self.ended()

    def end(self, exclusive: bool) -> list[Action]:
        self.heard = []
        (self.gate.exclusive() if exclusive else self.gate.shared()).__exit__(None, None, None)
        return self.heard

    def open_to(self) -> tuple[bool, bool]:
        """Whether shared and exclusive uses may pass without asking."""
        found = []
        for exclusive in (False, True):
            use = self.gate.exclusive() if exclusive else self.gate.shared()
            try:
                use.__enter__()
            except NotImplementedError:
                found.append(False)
            else:
                self.gate.dismiss(exclusive)
                found.append(True)
        return found[0], found[1]


def at(level: Mode, **options: Any) -> Machine:
    """A machine that keeps `level`, and nobody uses it."""
    machine = Machine(**options)
    if level > NL:
        waiter = Waiter(exclusive=level is EX)
        assert machine.want(waiter) == [Up(level, False)]
        assert machine.completed(0, level) == [Wake(waiter, DONE)]
        machine.end(waiter.exclusive)
    assert (machine.state, machine.level) == (State.ATTACHED, level)
    return machine


def inside(machine: Machine, exclusive: bool) -> Waiter:
    waiter = Waiter(exclusive)
    assert machine.want(waiter) == [Wake(waiter, DONE)]
    return waiter


# The gate.


@pytest.mark.parametrize(
    ("level", "open_to"), [(NL, (False, False)), (PR, (True, False)), (EX, (True, True))]
)
def test_the_gate_is_as_open_as_the_level(level: Mode, open_to: tuple[bool, bool]) -> None:
    assert at(level).open_to() == open_to


def test_uses_exclude_each_other_at_the_gate() -> None:
    machine = at(EX)
    inside(machine, False)
    assert machine.open_to() == (True, False)
    machine.end(False)
    inside(machine, True)
    assert machine.open_to() == (False, False)


def test_without_exclusion_they_do_not() -> None:
    machine = at(EX, exclusion=False)
    inside(machine, True)
    assert machine.open_to() == (True, True)


def test_the_line_is_fair() -> None:
    machine = at(EX)
    inside(machine, False)
    writer, reader, later = Waiter(True), Waiter(), Waiter(True)
    assert machine.want(writer) == []
    assert machine.open_to() == (False, False), "a new reader would pass the writer"
    assert machine.want(reader) == machine.want(later) == []
    assert machine.end(False) == [Wake(writer, DONE)]
    assert machine.end(True) == [Wake(reader, DONE)]
    assert machine.end(False) == [Wake(later, DONE)]
    machine.end(True)
    assert machine.open_to() == (True, True)


def test_who_waits_for_the_lock_manager_holds_nobody_up() -> None:
    machine = at(PR)
    writer, reader = Waiter(True), Waiter()
    assert machine.want(writer) == [Up(EX, False)]
    assert machine.open_to() == (True, False)
    assert machine.want(reader) == [Wake(reader, DONE)]
    assert machine.completed(0, EX) == []  # the reader is in the way, and nobody passes now
    assert machine.open_to() == (False, False)
    assert machine.end(False) == [Wake(writer, DONE)]


# BLOCKED, QUEUED: letting go.


@pytest.mark.parametrize(
    ("level", "wanted", "target"),
    [(EX, EX, NL), (EX, PR, PR), (EX, Mode.CR, PR), (EX, Mode.CW, NL), (PR, EX, NL),
     (PR, Mode.PW, NL), (PR, Mode.CW, NL)],
)  # fmt: skip
def test_an_unused_lock_falls_to_the_highest_compatible_level(
    level: Mode, wanted: Mode, target: Mode
) -> None:
    machine = at(level, tell=True)
    assert machine.blocked(wanted) == [RunOnDrop(target)]
    assert machine.state == State.ATTACHED | State.BLOCKED | State.QUEUED
    assert machine.dropped(target) == [Down(target)]
    assert machine.state == State.ATTACHED | State.BLOCKED | State.BUSY
    assert machine.completed(0, target) == []
    assert (machine.state, machine.level) == (State.ATTACHED, target)


def test_incompatible_uses_wait_for_the_drop_and_compatible_ones_go_on() -> None:
    machine = at(EX, tell=True)
    assert machine.blocked(PR) == [RunOnDrop(PR)]
    assert machine.open_to() == (True, False)
    writer, reader = Waiter(True), Waiter()
    assert machine.want(writer) == []
    assert machine.want(reader) == [Wake(reader, DONE)]
    assert machine.dropped(PR) == [Down(PR)]
    assert machine.completed(0, PR) == [Up(EX, False)]


def test_on_drop_waits_for_the_last_incompatible_use() -> None:
    machine = at(EX, exclusion=False, tell=True)
    inside(machine, True)
    inside(machine, True)
    inside(machine, False)
    assert machine.blocked(PR) == []
    assert machine.end(True) == []
    assert machine.end(True) == [RunOnDrop(PR)]
    assert machine.blocked(EX) == []
    assert machine.open_to() == (False, False)
    # The rest is wanted now too: on_drop hears of that in its turn.
    assert machine.dropped(PR) == []
    assert machine.end(False) == [RunOnDrop(NL)]
    assert machine.dropped(NL) == [Down(NL)]


def test_a_notice_that_has_been_obeyed_means_nothing() -> None:
    machine = at(PR)
    assert machine.blocked(PR) == machine.blocked(NL) == []
    assert machine.state == State.ATTACHED


def test_a_notice_during_the_conversion_down_is_remembered() -> None:
    machine = at(EX)
    assert machine.blocked(PR) == [Down(PR)]
    assert machine.blocked(EX) == []
    assert machine.completed(0, PR) == [Down(NL)]


# IN_CANCEL: a conversion up that turns out to block somebody.


def upgrading(machine: Machine) -> Waiter:
    writer = Waiter(True)
    assert machine.want(writer) == [Up(EX, False)]
    return writer


def test_cancelled_then_down_then_up_again() -> None:
    machine = at(PR, tell=True)
    writer = upgrading(machine)
    assert machine.blocked(EX) == [Cancel()]
    assert machine.state == State.ATTACHED | State.BLOCKED | State.BUSY | State.IN_CANCEL
    assert machine.blocked(EX) == [], "one cancel is enough"
    assert machine.completed(ECANCEL, PR) == [RunOnDrop(NL)]
    assert machine.dropped(NL) == [Down(NL)]
    assert machine.completed(0, NL) == [Up(EX, False)]
    assert machine.completed(0, EX) == [Wake(writer, DONE)]


def test_the_grant_is_faster_than_the_cancel() -> None:
    machine = at(PR)
    writer = upgrading(machine)
    assert machine.blocked(EX) == [Cancel()]
    # Whom it was converted for goes first, and only that one.
    later = Waiter(True)
    assert machine.want(later) == []
    assert machine.completed(0, EX) == [Wake(writer, DONE)]
    assert machine.open_to() == (False, False)
    assert machine.end(True) == [Down(NL)]
    assert machine.completed(0, NL) == [Up(EX, False)]


def test_the_cancel_is_refused_and_the_grant_comes() -> None:
    machine = at(PR)
    writer = upgrading(machine)
    assert machine.blocked(EX) == [Cancel()]
    assert machine.refused(Cancel(), DlmError("granted already")) == []
    assert machine.completed(0, EX) == [Wake(writer, DONE)]


def test_readers_inside_are_waited_for_after_the_cancel() -> None:
    machine = at(PR)
    inside(machine, False)
    writer = upgrading(machine)
    assert machine.blocked(EX) == [Cancel()]
    assert machine.completed(ECANCEL, PR) == []
    assert machine.end(False) == [Down(NL)]
    assert machine.completed(0, NL) == [Up(EX, False)]
    assert machine.completed(0, EX) == [Wake(writer, DONE)]


def test_of_two_that_convert_up_the_one_refused_lets_go() -> None:
    machine = at(PR)
    writer = upgrading(machine)
    assert machine.completed(errno.EDEADLK, PR) == [Down(NL)]
    assert machine.completed(0, NL) == [Up(EX, False)]
    assert machine.completed(0, EX) == [Wake(writer, DONE)]


def test_a_notice_just_after_the_grant_does_not_take_it_away_unused() -> None:
    machine = at(PR)
    inside(machine, False)
    writer = upgrading(machine)
    assert machine.completed(0, EX) == []
    assert machine.blocked(EX) == [], "the writer has been promised a use"
    assert machine.end(False) == [Wake(writer, DONE)]
    assert machine.end(True) == [Down(NL)]


def test_a_promise_ends_with_whom_it_was_made_to() -> None:
    machine = at(PR)
    inside(machine, False)
    writer = upgrading(machine)
    machine.completed(0, EX)
    machine.blocked(PR)
    assert machine.expire(writer) == [Wake(writer, EXPIRED), Down(PR)]


def test_from_nl_nothing_is_cancelled() -> None:
    machine = at(NL)
    writer = upgrading(machine)
    assert machine.blocked(EX) == []
    assert machine.completed(0, EX) == [Wake(writer, DONE)]
    assert machine.end(True) == [Down(NL)], "the notice may have been about what is held now"


# Waiters that leave.


def test_nobody_wants_it_any_more() -> None:
    machine = at(NL)
    writer, reader = upgrading(machine), Waiter()
    assert machine.want(reader) == []
    assert machine.expire(writer) == [Wake(writer, EXPIRED), Cancel()]
    assert machine.completed(ECANCEL, NL) == [Up(PR, False)]
    assert machine.expire(reader) == [Wake(reader, EXPIRED), Cancel()]
    assert machine.completed(0, PR) == []  # the grant was faster: kept
    assert machine.open_to() == (True, False)


def test_time_is_over_just_after_it_was_let_in() -> None:
    machine = at(PR)
    reader = inside(machine, False)
    assert machine.expire(reader) == []
    assert machine.gate.shared_uses == 1


def test_interrupted_just_after_it_was_let_in() -> None:
    machine = at(EX)
    first = inside(machine, True)
    second = Waiter(True)
    machine.want(second)
    assert machine.abandon(first) == [Wake(second, DONE)]
    assert machine.abandon(first) == [], "once"
    assert (machine.gate.shared_uses, machine.gate.exclusive_uses) == (0, 1)


def test_interrupted_before_it_stood_in_line() -> None:
    assert at(EX).abandon(Waiter(True)) == []


# Tries.


def test_a_try_takes_what_nobody_has() -> None:
    machine = at(NL)
    waiter = Waiter(True, trying=True)
    assert machine.want(waiter) == [Up(EX, True)]
    assert machine.completed(0, EX) == [Wake(waiter, DONE)]


def test_a_try_is_refused_by_the_lock_manager() -> None:
    machine = at(NL)
    waiter, patient = Waiter(True, trying=True), Waiter()
    assert machine.want(waiter) == [Up(EX, True)]
    assert machine.want(patient) == []
    assert machine.completed(errno.EAGAIN, NL) == [Wake(waiter, NOT_AT_ONCE), Up(PR, False)]


def test_a_try_fails_where_a_request_is_under_way() -> None:
    machine = at(NL)
    upgrading(machine)
    waiter = Waiter(trying=True)
    assert machine.want(waiter) == [Wake(waiter, NOT_AT_ONCE)]


def test_a_try_fails_where_a_use_is_in_the_way() -> None:
    machine = at(PR)
    inside(machine, False)
    waiter = Waiter(True, trying=True)
    assert machine.want(waiter) == [Wake(waiter, NOT_AT_ONCE)], "without a conversion"


def test_a_try_for_which_a_reader_came_too_early_gives_way_to_a_notice() -> None:
    machine = at(PR)
    waiter = Waiter(True, trying=True)
    assert machine.want(waiter) == [Up(EX, True)]
    inside(machine, False)
    assert machine.blocked(Mode.CW) == [Cancel()]
    assert machine.completed(0, EX) == [Wake(waiter, NOT_AT_ONCE)]
    assert machine.end(False) == [Down(NL)]


def test_a_try_that_comes_to_nothing_holds_no_drop_up() -> None:
    machine = at(PR)
    waiter = Waiter(True, trying=True)
    assert machine.want(waiter) == [Up(EX, True)]
    inside(machine, False)
    assert machine.blocked(PR) == []
    assert machine.completed(0, EX) == [Wake(waiter, NOT_AT_ONCE), Down(PR)]


def test_who_passes_the_gate_while_uses_are_counted_is_counted() -> None:
    class Busy:
        """Others try to pass just before a count is read."""

        exclusion = True

        def __init__(self) -> None:
            self.inner = Gate(True, lambda gate: None)
            self.allow, self.admit = self.inner.allow, self.inner.admit
            self.dismiss = self.inner.dismiss

        @property
        def shared_uses(self) -> int:
            return self.inner.shared_uses

        @property
        def exclusive_uses(self) -> int:
            found = self.inner.exclusive_uses
            with contextlib.suppress(NotImplementedError):
                self.inner.exclusive().__enter__()
            return found

    gate = Busy()
    machine = StateMachine(gate, tell=False)
    machine.attach(Waiter())
    machine.completed(0, NL)
    machine.want(Waiter(True))
    machine.completed(0, EX)
    gate.inner.exclusive().__exit__(None, None, None)
    assert machine.ended() == []
    actions = machine.blocked(EX)
    assert actions == ([] if gate.inner.exclusive_uses else [Down(NL)])


# IN_TEARDOWN, and loss.


def test_close_runs_on_drop_then_unlocks() -> None:
    machine, closer = at(EX, tell=True), Waiter()
    assert machine.close(closer) == [RunOnDrop(NL)]
    assert machine.dropped(NL) == [Unlock()]
    assert machine.completed(EUNLOCK, None) == [Wake(closer, DONE)]
    late = Waiter()
    (wake,) = machine.want(late)
    assert isinstance(wake, Wake) and isinstance(wake.outcome, Closed)


def test_close_under_a_use_and_under_waiters() -> None:
    machine, closer, writer = at(EX), Waiter(), Waiter(True)
    inside(machine, False)
    machine.want(writer)
    sent_away, released = machine.close(closer)
    assert isinstance(sent_away, Wake) and isinstance(sent_away.outcome, Closed)
    assert released == Wake(closer, DONE), "it may be inside the use itself"
    assert machine.open_to() == (False, False)
    assert machine.end(False) == [Unlock()]


def test_close_takes_a_request_back_first() -> None:
    machine, closer = at(NL), Waiter()
    upgrading(machine)
    _, cancel = machine.close(closer)
    assert cancel == Cancel()
    assert machine.completed(ECANCEL, NL) == [Unlock()]
    assert machine.completed(EUNLOCK, None) == [Wake(closer, DONE)]


def test_let_go() -> None:
    machine, waiter, other = at(EX, tell=True), Waiter(), Waiter()
    assert machine.let_go(waiter) == [RunOnDrop(NL)]
    assert machine.dropped(NL) == [Down(NL)]
    assert machine.completed(0, NL) == [Wake(waiter, DONE)]
    assert machine.let_go(other) == [Wake(other, DONE)], "there is nothing"


def test_lost() -> None:
    machine, writer = at(PR), Waiter(True)
    machine.want(writer)
    (wake,) = machine.completed(EUNLOCK, None)
    assert isinstance(wake, Wake) and isinstance(wake.outcome, LockLost)
    assert machine.level is NL and machine.closed
    assert machine.completed(0, EX) == machine.blocked(EX) == machine.ended() == []


def test_a_request_is_refused() -> None:
    machine, writer, reader = at(NL), Waiter(True), Waiter()
    full = LockspaceFull("full")
    machine.want(writer)
    machine.want(reader)
    woken = machine.refused(Up(EX, False), full)
    assert woken == [Wake(writer, full), Wake(reader, full)]
    assert machine.state == State.ATTACHED


def test_the_lock_cannot_be_made() -> None:
    machine, waiter = StateMachine(Gate(True, lambda gate: None), tell=False), Waiter()
    full = LockspaceFull("full")
    assert machine.attach(waiter) == [Attach()]
    assert machine.refused(Attach(), full) == [Wake(waiter, full)]
