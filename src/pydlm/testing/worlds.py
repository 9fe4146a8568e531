"""Where recordings are played: on the model, or on a stack."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, Protocol, cast

from pydlm.errors import StackUnavailable
from pydlm.testing.cluster import ClusterWorlds, Commands
from pydlm.testing.model import Model
from pydlm.testing.processes import ProcessWorlds
from pydlm.testing.recording import Scenario, Step
from pydlm.types import LockFlag

__all__ = ["MANY_NODES", "Connection", "ModelWorlds", "StackWorlds", "World", "Worlds", "worlds"]


#: Of worlds in which any connection can stand for a node.
MANY_NODES = 1000


class Connection(Protocol):
    """What a client needs: verbs of the Stack contract, which says what they do."""

    # ruff: noqa: D102
    @property
    def this_node(self) -> int: ...
    def lock(self, name: bytes, mode: Any, flags: LockFlag = ..., *, lkid: int = ...) -> int: ...
    def convert(
        self, lkid: int, mode: Any, flags: LockFlag = ..., *, lvb: bytes | None = ...
    ) -> None: ...
    def unlock(self, lkid: int, flags: LockFlag = ..., *, lvb: bytes | None = ...) -> None: ...
    def deadlock_cancel(self, lkid: int) -> None: ...
    def purge(self, node: int) -> None: ...
    def abandon(self) -> None: ...
    def disconnect(self) -> None: ...
    def dispatch(self, limit: int = ...) -> Sequence[object]: ...


class World(Protocol):
    """A place for one scenario: its clients, connected."""

    clients: dict[str, Connection]

    def name(self, step: Step) -> bytes:
        """Return the resource's name here."""

    def settle(self) -> None:
        """Wait until all events that the last step leads to can be dispatched."""

    def kill_client(self, client: str) -> None:
        """Let a client die without goodbye."""

    def kill_node(self, node: int) -> None:
        """Let a node die, with its clients."""

    def close(self) -> None:
        """Disconnect who is left."""


class Worlds(Protocol):
    """Where scenarios can be played."""

    @property
    def nodes(self) -> int:
        """How many nodes it has; scenarios with more cannot be played."""

    def open(self, scenario: Scenario) -> World:
        """Return a fresh world for a scenario."""

    def close(self) -> None:
        """Give back what was kept from one scenario to the next."""


class ModelWorlds:
    """Every scenario on a model of its own."""

    def __init__(self, *, kernel: bool = False) -> None:
        self.kernel = kernel

    nodes = MANY_NODES

    def open(self, scenario: Scenario) -> World:
        """Return a fresh model."""
        return _ModelWorld(scenario, self.kernel)

    def close(self) -> None:
        """Do nothing: nothing was kept."""


class _ModelWorld:
    def __init__(self, scenario: Scenario, kernel: bool) -> None:
        self.model = Model(scenario.lvb_len, kernel=kernel)
        self.clients: dict[str, Connection] = {
            client: self.model.client(node) for client, node in scenario.clients.items()
        }

    def name(self, step: Step) -> bytes:
        return step.resource

    def settle(self) -> None:
        pass  # all is done when a call returns

    def kill_client(self, client: str) -> None:
        self.clients[client].abandon()

    def kill_node(self, node: int) -> None:
        self.model.kill_node(node)

    def close(self) -> None:
        self.model.invariants()


class StackWorlds:
    """Scenarios on a stack, in lockspaces that are used again."""

    def __init__(self, stack: str) -> None:
        self.stack = stack
        self.anchors: dict[int, Connection] = {}  #: by size of LVB; each keeps a lockspace alive
        self.count = 0

    nodes = MANY_NODES

    def open(self, scenario: Scenario) -> World:
        """Connect the scenario's clients; its resources get names that are new in the lockspace."""
        self.count += 1
        if scenario.literal:
            # Its names may be those of another scenario.
            return _StackWorld(self, scenario, self.lockspace(f"n{self.count}"))
        lockspace = self.lockspace(f"v{scenario.lvb_len}")
        if scenario.lvb_len not in self.anchors:
            self.anchors[scenario.lvb_len] = self.connect(lockspace, scenario.lvb_len)
        return _StackWorld(self, scenario, lockspace)

    def lockspace(self, suffix: str) -> str:
        """Return the name of a lockspace of this run."""
        return f"replay-{os.getpid()}-{id(self):x}-{suffix}"

    def connect(self, lockspace: str, lvb_len: int) -> Connection:
        """Connect to the stack."""
        # Only where a stack is wanted: the model needs none.
        from pydlm.stackglue import connect_stack

        connection: Any = connect_stack(self.stack, lockspace, lvb_len=lvb_len)
        if not hasattr(connection, "abandon"):
            connection.disconnect()
            raise StackUnavailable(
                f"stack {self.stack!r} has no abandon(), so no death can be played on it"
            )
        return cast("Connection", connection)

    def close(self) -> None:
        """Leave the lockspaces."""
        for anchor in self.anchors.values():
            anchor.disconnect()
        self.anchors.clear()


class _StackWorld:
    def __init__(self, worlds: StackWorlds, scenario: Scenario, lockspace: str) -> None:
        self.nodes = scenario.clients
        self.prefix = b"" if scenario.literal else b"%d." % worlds.count
        # Of nobody in the scenario: it stays when all of them have died.
        self.keeper = worlds.connect(lockspace, scenario.lvb_len)
        self.clients = {
            client: worlds.connect(lockspace, scenario.lvb_len) for client in scenario.clients
        }
        self.ids = {client: stack.this_node for client, stack in self.clients.items()}
        self.living = set(scenario.clients)

    def name(self, step: Step) -> bytes:
        return step.resource if step.literal else self.prefix + step.resource

    def settle(self) -> None:
        pass  # all is done when a call returns

    def kill_client(self, client: str) -> None:
        self.clients[client].abandon()
        self.living.discard(client)

    def kill_node(self, node: int) -> None:
        dead = [client for client in self.nodes if self.nodes[client] == node]
        for client in dead:
            if client in self.living:
                self.kill_client(client)
        # An orphan is kept by its node; it does not outlive that.
        for client in dead:
            self.keeper.purge(self.ids[client])

    def close(self) -> None:
        for client in self.living:
            self.clients[client].disconnect()
        for number in self.ids.values():
            self.keeper.purge(number)
        self.keeper.disconnect()


def worlds(stack: str, commands: Commands | None = None) -> Worlds:
    """Return where ``--stack NAME`` plays: on the model, the model in kernel mode, or a stack.

    `commands` are for a stack of several nodes.
    """
    if stack == "model":
        return ModelWorlds()
    if stack == "model-kernel":
        return ModelWorlds(kernel=True)
    if stack == "host":
        return ProcessWorlds(stack)
    if stack == "fsdlm":
        return ClusterWorlds(stack, commands or Commands())
    return StackWorlds(stack)
