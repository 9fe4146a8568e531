"""Three nodes, driven at random, one event at a time: what must never be, and what must come."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.cached.driven import HandWaiter, Node

from pydlm import Mode
from pydlm.cached.actions import Outcome, State

_names = itertools.count()

NODES = st.integers(0, 2)


class ThreeNodes(RuleBasedStateMachine):
    """The model is what a user may rely on: who is in, who waits, what on_drop was told."""

    @initialize(exclusion=st.booleans())
    def connect(self, exclusion: bool) -> None:
        name = f"three-{next(_names)}"
        self.exclusion = exclusion
        self.nodes = [Node(name, exclusion=exclusion) for _ in range(3)]
        self.waiting: list[list[HandWaiter]] = [[], [], []]
        self.inside: list[list[HandWaiter]] = [[], [], []]
        self.levels = [Mode.NL] * 3
        # Lowest level that on_drop has returned for since the level last rose.
        self.told: list[Mode] = [Mode.EX] * 3

    def teardown(self) -> None:
        if not hasattr(self, "nodes"):
            return
        self.everything_comes_to_an_end()
        for node in self.nodes:
            node.stack.disconnect()

    # What may happen.

    @rule(i=NODES, exclusive=st.booleans(), trying=st.sampled_from([False, False, True]))
    def want(self, i: int, exclusive: bool, trying: bool) -> None:
        self.waiting[i].append(self.nodes[i].want(exclusive, trying))
        self.look(i)

    @rule(i=NODES, exclusive=st.booleans())
    def pass_the_gate(self, i: int, exclusive: bool) -> None:
        """Begin a use the short way, if the gate is open to it."""
        lock = self.nodes[i].lock
        use = lock.exclusive() if exclusive else lock.shared()
        lock._begin = _no_way  # type: ignore[method-assign]
        try:
            use.__enter__()
        except _NoWay:
            return
        # Nobody whom it is in the way of may be waiting in line before it.
        waiter = HandWaiter(exclusive)
        waiter.outcome, waiter.admitted = Outcome.DONE, True
        self.inside[i].append(waiter)

    @precondition(lambda self: any(self.inside))
    @rule(i=NODES, n=st.integers(0, 5))
    def end(self, i: int, n: int) -> None:
        if self.inside[i]:
            waiter = self.inside[i].pop(n % len(self.inside[i]))
            self.nodes[i].end(waiter.exclusive)
            self.look(i)

    @rule(i=NODES)
    def deliver_one(self, i: int) -> None:
        self.nodes[i].deliver()
        self.look(i)

    @rule(i=NODES)
    def deliver_all(self, i: int) -> None:
        while self.nodes[i].deliver():
            self.look(i)

    @rule(i=NODES)
    def on_drop_returns(self, i: int) -> None:
        queued = self.nodes[i].callbacks.queued
        assert len(queued) <= 1
        if queued:
            self.told[i] = min(self.told[i], queued[0])
            self.nodes[i].dropped()
            self.look(i)

    @precondition(lambda self: any(self.waiting))
    @rule(i=NODES, n=st.integers(0, 5), interrupted=st.booleans())
    def give_up(self, i: int, n: int, interrupted: bool) -> None:
        if self.waiting[i]:
            waiter = self.waiting[i][n % len(self.waiting[i])]
            self.nodes[i].step("abandon" if interrupted else "expire", waiter)
            assert waiter.outcome is not None
            self.look(i)

    @rule(i=NODES)
    def let_go(self, i: int) -> None:
        self.nodes[i].step("let_go", HandWaiter())
        self.look(i)

    def look(self, i: int) -> None:
        """See who was let in, and what became of the level."""
        node, level = self.nodes[i], self.nodes[i].machine.level
        for waiter in [w for w in self.waiting[i] if w.outcome is not None]:
            self.waiting[i].remove(waiter)
            if waiter.admitted:
                assert waiter.outcome is Outcome.DONE
                self.inside[i].append(waiter)
        if level < self.levels[i]:
            assert self.told[i] <= level, "let go before on_drop had returned"
        if level != self.levels[i]:
            self.told[i] = Mode.EX
            self.levels[i] = level
        assert not node.mail.take()

    # What must never be.

    @invariant()
    def uses_are_covered_and_compatible(self) -> None:
        if not hasattr(self, "nodes"):
            return
        for i, node in enumerate(self.nodes):
            uses = [w.exclusive for w in self.inside[i]]
            assert node.lock.exclusive_uses == sum(uses)
            assert node.lock.shared_uses == len(uses) - sum(uses)
            needed = max((Mode.EX if x else Mode.PR for x in uses), default=Mode.NL)
            assert needed <= node.machine.level
            if self.exclusion and True in uses:
                assert len(uses) == 1
            # What the machine believes is never more than what the lock manager has granted.
            granted = node.stack.lock_status(node.kept.lkid).granted
            assert (granted is not None and node.machine.level <= granted) or node.fetch()
        for a, b in itertools.combinations(range(3), 2):
            assert not (any(w.exclusive for w in self.inside[a]) and self.inside[b]), (
                "two nodes are in at once"
            )

    @invariant()
    def nobody_new_is_let_in_that_a_notice_is_about(self) -> None:
        if not hasattr(self, "nodes"):
            return
        for node in self.nodes:
            machine = node.machine
            if machine.state & State.BLOCKED and not machine.state & State.BUSY:
                probe = node.lock.exclusive()
                node.lock._begin = _no_way  # type: ignore[method-assign]
                with pytest.raises(_NoWay):
                    probe.__enter__()

    # What must come.

    def everything_comes_to_an_end(self) -> None:
        """Whoever is in leaves, whoever waits comes in: nothing is lost, and nothing goes round."""
        for _ in range(10_000):
            moved = False
            for i, node in enumerate(self.nodes):
                moved |= node.deliver()
                self.look(i)
                if node.callbacks.queued:
                    self.on_drop_returns(i)
                    moved = True
                if self.inside[i]:
                    self.end(i, 0)
                    moved = True
            self.uses_are_covered_and_compatible()
            if not moved:
                break
        else:
            pytest.fail("it goes on for ever")
        for i, node in enumerate(self.nodes):
            assert not self.waiting[i], f"node {i} waits for ever: {node.machine.state}"
            assert not node.machine.state & (State.BUSY | State.QUEUED | State.IN_CANCEL)


class _NoWay(Exception):
    pass


def _no_way(exclusive: bool, blocking: bool, timeout: float) -> None:
    raise _NoWay


TestThreeNodes = ThreeNodes.TestCase
TestThreeNodes.settings = settings(max_examples=300, stateful_step_count=60)
