"""Recordings on a stack of the cluster's nodes: an agent on each drives the clients there."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

from pydlm.testing.agent import Agent
from pydlm.testing.recording import Scenario, Step
from pydlm.types import LockFlag, Mode, NodeDown

__all__ = ["ClusterWorlds", "Commands"]

#: Seconds of silence after which nothing more is expected from another node.
_QUIET = 0.015
_ROUNDS = 2
#: After a death, when the survivors go on where they were interrupted.
_QUIET_AFTER_DEATH = 0.2
_DEATH_TIMEOUT = 60.0


class Commands(NamedTuple):
    """Shell commands that reach the cluster's nodes; ``{node}`` stands for a node's number."""

    agents: Sequence[str] = ()  #: run an agent on node 1, 2, ...; none: node 1 is here
    kill: str = ""  #: lets a node die
    boot: str = ""  #: and come back


class ClusterWorlds:
    """Scenarios on a stack whose clients are on several nodes."""

    def __init__(self, stack: str, commands: Commands) -> None:
        self.stack = stack
        self.commands = commands
        self.agents = {1: Agent.here()} if not commands.agents else {}
        for number, command in enumerate(commands.agents, 1):
            self.agents[number] = Agent(["/bin/sh", "-c", command])
        self.count = 0
        self.anchored: dict[str, list[_Client]] = {}  #: what keeps nodes in a lockspace

    @property
    def nodes(self) -> int:
        """How many nodes there are."""
        return max(len(self.commands.agents), 1)

    def open(self, scenario: Scenario) -> _World:
        """Connect the scenario's clients; its resources get names that are new."""
        self.count += 1
        # Names that cannot be changed may be those of another scenario.
        lockspace = f"replay{os.getpid()}" + (f"-{self.count}" if scenario.literal else "")
        if lockspace not in self.anchored:
            if scenario.literal:
                self.forget_all(but=f"replay{os.getpid()}")
            nodes = sorted(set(scenario.clients.values())) if scenario.literal else self.agents
            # One after the other: the first node that locks is the master.
            self.anchored[lockspace] = [_Client(self, node, lockspace) for node in nodes]
        return _World(self, scenario, lockspace)

    def forget_all(self, but: str = "") -> None:
        """Have the nodes leave their lockspaces."""
        for lockspace in [*self.anchored]:
            if lockspace != but:
                for anchor in self.anchored.pop(lockspace):
                    anchor.part("disconnect")

    def collect(self, quiet: float) -> dict[int, dict[int, list[Any]]]:
        """Return the events of all clients, by node and number, until there are no more."""
        found: dict[int, dict[int, list[Any]]] = {}
        silent = 0
        while True:
            for agent in self.agents.values():
                agent.post("events")
            came = {node: agent.answer() for node, agent in self.agents.items()}
            for node, clients in came.items():
                for number, events in clients.items():
                    found.setdefault(node, {}).setdefault(number, []).extend(events)
            silent = 0 if any(came.values()) else silent + 1
            # On one node, all is done when the call returns.
            if silent > (_ROUNDS if len(self.commands.agents) > 1 else 0):
                return found
            if silent:
                time.sleep(quiet)

    def kill(self, node: int) -> None:
        """Let a node die."""
        self._run(self.commands.kill, node)
        self.agents.pop(node).close()

    def revive(self) -> None:
        """Boot the nodes that are dead. All nodes join their lockspaces anew."""
        for node in range(1, self.nodes + 1):
            if node not in self.agents:
                for survivor in self.agents.values():
                    survivor.close()
                self.anchored.clear()
                self._run(self.commands.boot, node)
                self.agents = {
                    n: Agent(["/bin/sh", "-c", c]) for n, c in enumerate(self.commands.agents, 1)
                }
                return

    def _run(self, command: str, node: int) -> None:
        subprocess.run(["/bin/sh", "-c", command.format(node=node)], check=True)

    def close(self) -> None:
        """Leave the lockspaces, and end the agents."""
        self.forget_all()
        for agent in self.agents.values():
            agent.close()


class _Client:
    """A connection on another node, with the verbs of the Stack contract."""

    def __init__(self, worlds: ClusterWorlds, node: int, lockspace: str) -> None:
        self.agent = worlds.agents[node]
        self.node = node
        self.number, self.node_id, self.pid = self.agent.call("connect", worlds.stack, lockspace)
        self.events: list[Any] = []

    @property
    def this_node(self) -> int:
        """What `purge` is told: the process too, for a node's connections are not told apart."""
        both: int = self.node_id << 32 | self.pid
        return both

    def call(self, verb: str, *arguments: Any, **options: Any) -> Any:
        return self.agent.call("call", self.number, verb, *arguments, **options)

    def lock(self, name: bytes, mode: Any, flags: LockFlag = LockFlag(0), *, lkid: int = 0) -> int:
        found: int = self.call("lock", name, mode, flags, lkid=lkid)
        return found

    def convert(
        self, lkid: int, mode: Any, flags: LockFlag = LockFlag(0), *, lvb: bytes | None = None
    ) -> None:
        self.call("convert", lkid, mode, flags, lvb=lvb)

    def unlock(self, lkid: int, flags: LockFlag = LockFlag(0), *, lvb: bytes | None = None) -> None:
        self.call("unlock", lkid, flags, lvb=lvb)

    def deadlock_cancel(self, lkid: int) -> None:
        self.call("deadlock_cancel", lkid)

    def purge(self, node: int) -> None:
        self.call("purge", node >> 32, pid=node & 0xFFFFFFFF)

    def abandon(self) -> None:
        self.agent.call("kill", self.number)

    def disconnect(self) -> None:
        self.part("abandon")  # the node stays in: the anchors are for that

    def part(self, verb: str) -> None:
        self.agent.call("part", self.number, verb)

    def dispatch(self, limit: int = 0) -> Sequence[object]:  # noqa: ARG002 - all, always
        events, self.events = self.events, []
        return events


class _World:
    def __init__(self, worlds: ClusterWorlds, scenario: Scenario, lockspace: str) -> None:
        self.worlds = worlds
        self.nodes = scenario.clients
        self.prefix = b"" if scenario.literal else b"%d." % worlds.count
        self.anchor = worlds.anchored[lockspace][0]
        self.clients: dict[str, Any] = {
            client: _Client(worlds, node, lockspace) for client, node in scenario.clients.items()
        }
        self.living = set(scenario.clients)
        self.settle()

    def name(self, step: Step) -> bytes:
        return step.resource if step.literal else self.prefix + step.resource

    def settle(self, quiet: float = _QUIET) -> None:
        """Take in what happens, until nothing happens any more."""
        found = self.worlds.collect(quiet)
        for client in [*self.clients.values(), self.anchor]:
            client.events += found.get(client.node, {}).get(client.number, [])

    def kill_client(self, client: str) -> None:
        self.clients[client].abandon()
        self.living.discard(client)

    def kill_node(self, node: int) -> None:
        dead = [client for client in self.nodes if self.nodes[client] == node]
        node_id = self.clients[dead[0]].node_id
        # In the recordings a node outlives its clients by a moment: as the master it still grants
        # their locks to those who wait, with the lock value block, which is rebuilt from that
        # after its death. Of a node that is cut off at once the survivors know less.
        for client in dead:
            if client in self.living:
                self.kill_client(client)
        self.settle()
        self.worlds.kill(node)
        give_up = time.monotonic() + _DEATH_TIMEOUT
        while NodeDown(node_id) not in self.anchor.events:
            if time.monotonic() > give_up:
                raise TimeoutError(f"nobody noticed the death of node {node}")
            self.settle()
        # It is told before the survivors have rebuilt the lockspace; no request passes till then.
        lkid = self.anchor.lock(b"recovered", Mode.NL)
        self.anchor.unlock(lkid)
        self.settle(_QUIET_AFTER_DEATH)

    def close(self) -> None:
        for client in self.living:
            self.clients[client].disconnect()
        # Orphans stay, each on a resource that nobody asks for again. Linux 6.1 panics where one
        # is purged that was still waiting when its client died.
        self.worlds.revive()
