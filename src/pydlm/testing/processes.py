"""Recordings on the `host` stack: every client a process, every death a SIGKILL.

Processes are used again from one scenario to the next; only those that were killed are replaced,
by a fork of a process that has everything imported already.
"""

from __future__ import annotations

import multiprocessing
import os
import select
import shutil
import signal
import tempfile
from collections.abc import Sequence
from multiprocessing.connection import Connection as Pipe
from typing import Any

from pydlm.contract import Stack
from pydlm.errors import DlmError
from pydlm.testing.recording import Scenario, Step
from pydlm.types import LockFlag, NodeDown

__all__ = ["ProcessWorlds", "Worker"]

#: Seconds within which a death has to be noticed; far more than it takes.
_DEATH_TIMEOUT = 30.0
_CAPACITY = 1 << 16


def _connect(stack: str, lockspace: str, **options: Any) -> Stack:
    from pydlm.stackglue import connect_stack

    return connect_stack(stack, lockspace, **options)


def _serve(pipe: Pipe) -> None:
    """Make connections and call their verbs, as told, until the pipe is closed."""
    connection: Any = None
    while True:
        try:
            verb, arguments, options = pipe.recv()
        except EOFError:
            return
        try:
            if verb == "connect":
                connection = _connect(*arguments, **options)
                answer = connection.this_node
            else:
                answer = getattr(connection, verb)(*arguments, **options)
        except DlmError as error:
            pipe.send((False, error))
        else:
            pipe.send((True, answer))


class Worker:
    """A process with one connection at a time, whose verbs are called from here."""

    def __init__(self, context: Any) -> None:
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def call(self, verb: str, *arguments: Any, **options: Any) -> Any:
        """Call a verb of its connection, or `connect`; return or raise what that did."""
        self.pipe.send((verb, arguments, options))
        done, answer = self.pipe.recv()
        if not done:
            raise answer
        return answer

    def kill(self) -> None:
        """Kill it with SIGKILL, and wait until it is gone."""
        assert self.process.pid is not None
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join()
        self.pipe.close()


class _Client:
    """A connection in another process, with the verbs of the Stack contract."""

    def __init__(self, worker: Worker, stack: str, lockspace: str, lvb_len: int) -> None:
        self.worker = worker
        self.this_node: int = worker.call(
            "connect", stack, lockspace, lvb_len=lvb_len, capacity=_CAPACITY
        )

    def lock(self, name: bytes, mode: Any, flags: LockFlag = LockFlag(0), *, lkid: int = 0) -> int:
        found: int = self.worker.call("lock", name, mode, flags, lkid=lkid)
        return found

    def convert(
        self, lkid: int, mode: Any, flags: LockFlag = LockFlag(0), *, lvb: bytes | None = None
    ) -> None:
        self.worker.call("convert", lkid, mode, flags, lvb=lvb)

    def unlock(self, lkid: int, flags: LockFlag = LockFlag(0), *, lvb: bytes | None = None) -> None:
        self.worker.call("unlock", lkid, flags, lvb=lvb)

    def deadlock_cancel(self, lkid: int) -> None:
        self.worker.call("deadlock_cancel", lkid)

    def purge(self, node: int) -> None:
        self.worker.call("purge", node)

    def abandon(self) -> None:
        self.worker.kill()

    def disconnect(self) -> None:
        self.worker.call("disconnect")

    def dispatch(self, limit: int = 0) -> Sequence[object]:
        events: Sequence[object] = self.worker.call("dispatch", limit)
        return events


class ProcessWorlds:
    """Scenarios on a stack that processes share, in a directory of their own."""

    def __init__(self, stack: str) -> None:
        self.directory = tempfile.mkdtemp(prefix="pydlm-replay-", dir="/dev/shm")
        self.stack = f"{stack}:{self.directory}"
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["pydlm.testing.processes", "pydlm.stacks.host"])
        self.idle: list[Worker] = []
        self.count = 0

    nodes = 1000  # any process can stand for one

    def open(self, scenario: Scenario) -> _World:
        """Connect the scenario's clients."""
        self.count += 1
        suffix = f"n{self.count}" if scenario.literal else f"v{scenario.lvb_len}"
        return _World(self, scenario, suffix)

    def worker(self) -> Worker:
        """Return a process that does nothing yet."""
        return self.idle.pop() if self.idle else Worker(self.context)

    def close(self) -> None:
        """End the processes, and remove their lockspaces."""
        for worker in self.idle:
            worker.kill()
        self.idle.clear()
        shutil.rmtree(self.directory, ignore_errors=True)


class _World:
    def __init__(self, worlds: ProcessWorlds, scenario: Scenario, lockspace: str) -> None:
        self.worlds = worlds
        self.nodes = scenario.clients
        self.prefix = b"" if scenario.literal else b"%d." % worlds.count
        # In this process, of nobody in the scenario: it sees who has died.
        self.keeper = _connect(
            worlds.stack, lockspace, lvb_len=scenario.lvb_len, capacity=_CAPACITY
        )
        self.clients: dict[str, Any] = {
            client: _Client(worlds.worker(), worlds.stack, lockspace, scenario.lvb_len)
            for client in scenario.clients
        }
        self.living = set(scenario.clients)
        self.seen_dead: set[int] = set()

    def name(self, step: Step) -> bytes:
        return step.resource if step.literal else self.prefix + step.resource

    def settle(self) -> None:
        pass  # all is done when a call returns

    def kill_client(self, client: str) -> None:
        self.clients[client].abandon()
        self.living.discard(client)
        self.await_death(self.clients[client].this_node)

    def kill_node(self, node: int) -> None:
        dead = [client for client in self.nodes if self.nodes[client] == node]
        for client in dead:
            if client in self.living:
                self.kill_client(client)
        # An orphan is kept by its node; it does not outlive that.
        for client in dead:
            self.keeper.purge(self.clients[client].this_node)

    def await_death(self, node: int) -> None:
        """Wait until the survivors have cleared up after a connection."""
        while node not in self.seen_dead:
            ready, _, _ = select.select([self.keeper], [], [], _DEATH_TIMEOUT)
            if not ready:
                raise TimeoutError(f"nobody noticed the death of node {node}")
            for event in self.keeper.dispatch():
                if isinstance(event, NodeDown):
                    self.seen_dead.add(event.node)

    def close(self) -> None:
        for client in self.living:
            self.clients[client].disconnect()
            self.worlds.idle.append(self.clients[client].worker)
        for each in self.clients.values():
            self.keeper.purge(each.this_node)
        self.keeper.disconnect()
