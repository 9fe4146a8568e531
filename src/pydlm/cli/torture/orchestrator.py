"""The course of the torture: who writes, who reads, and when they go on to the next value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from pydlm.cli.torture.nodes import NoAnswer, Node
from pydlm.cli.torture.player import Order, Role, Wrong

__all__ = ["PATIENCE", "Broken", "Orchestrator"]

#: Seconds a node may take for one step before it counts as hanging.
PATIENCE: Final = 60.0


class Broken(Exception):
    """The lock manager failed; `wrong` says where it showed."""

    def __init__(self, wrong: Wrong) -> None:
        super().__init__(str(wrong))
        self.wrong = wrong


class Orchestrator:
    """Leads the nodes through the iterations.

    An iteration has two steps. First one node writes while all others read, and they may find
    the last value or the next. Then all read, and must find the next. Which node writes rotates.
    """

    def __init__(self, nodes: Sequence[Node], patience: float = PATIENCE) -> None:
        self.nodes = nodes
        self.iterations = 0  # finished
        self.checks = 0  # values read and found right
        self.contended = 0  # locks given up while somebody waited for them
        self._patience = patience

    def iterate(self) -> None:
        """Run one iteration. Raises Broken, and DlmError if a lock could not be had at all."""
        this = self.iterations + 1
        writer = self.nodes[self.iterations % len(self.nodes)]
        self._step(this, {node: Role.WRITE if node is writer else Role.RACE for node in self.nodes})
        self._step(this, dict.fromkeys(self.nodes, Role.READ))
        self.iterations = this

    def _step(self, iteration: int, roles: dict[Node, Role]) -> None:
        for node, role in roles.items():
            node.post(Order(iteration, role))
        # All are heard before the first wrong value ends it, so that no answer is left over.
        wrong: list[Wrong] = []
        for node, role in roles.items():
            try:
                answer = node.answer(self._patience)
            except NoAnswer:
                found = f"no answer within {self._patience:g} seconds"
                raise Broken(
                    Wrong(node.number, iteration, role.value, "the lock to be granted", found)
                ) from None
            self.contended += answer.waited_for
            if answer.wrong is None:
                self.checks += 1
            else:
                wrong.append(answer.wrong)
        if wrong:
            raise Broken(wrong[0])
