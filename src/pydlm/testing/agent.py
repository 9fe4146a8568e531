"""Drives clients on the node it runs on, for a replayer that is elsewhere.

``python -m pydlm.testing agent`` reads orders on standard input and answers on standard output, a
line each. Each client is a process of its own, and each death a SIGKILL.
"""

from __future__ import annotations

import base64
import contextlib
import multiprocessing
import pickle
import select
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Any

from pydlm.errors import DlmError
from pydlm.testing.processes import Worker

__all__ = ["Agent", "AgentGone", "serve"]


#: Seconds for one order: longer than a lockspace takes to recover.
_PATIENCE = 60.0


class AgentGone(Exception):
    """The agent's node, or the way to it, is gone."""


class _Clients:
    """The clients of one node, by number."""

    def __init__(self) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["pydlm.testing.processes"])
        self.idle: list[Worker] = []
        self.all: dict[int, Worker] = {}
        self.count = 0

    def connect(self, stack: str, lockspace: str, **options: Any) -> tuple[int, int, int]:
        """Connect a client; return its number, its node's id and its pid."""
        worker = self.idle.pop() if self.idle else Worker(self.context)
        node = worker.call("connect", stack, lockspace, **options)
        self.count += 1
        self.all[self.count] = worker
        return self.count, node, worker.process.pid

    def call(self, client: int, verb: str, *arguments: Any, **options: Any) -> Any:
        """Call a verb of the Stack contract."""
        return self.all[client].call(verb, *arguments, **options)

    def events(self) -> dict[int, Sequence[Any]]:
        """Return the events of all clients that have any."""
        found = {number: worker.call("dispatch") for number, worker in self.all.items()}
        return {number: events for number, events in found.items() if events}

    def kill(self, client: int) -> None:
        """Let a client die."""
        self.all.pop(client).kill()

    def part(self, client: int, verb: str) -> None:
        """End a client's connection; its process is used again."""
        worker = self.all.pop(client)
        worker.call(verb)
        self.idle.append(worker)

    def end(self) -> None:
        """End all processes."""
        for worker in [*self.all.values(), *self.idle]:
            worker.kill()


def serve(orders: IO[bytes], answers: IO[bytes]) -> None:
    """Carry out orders until there are no more."""
    clients = _Clients()
    try:
        for line in orders:
            what, arguments, options = _read(line)
            try:
                answer = True, getattr(clients, what)(*arguments, **options)
            except DlmError as error:
                answer = False, error
            answers.write(_written(answer))
            answers.flush()
    finally:
        clients.end()


class Agent:
    """An agent, from the replayer's side: a command that runs one, as ``ssh node2 ...``."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    @classmethod
    def here(cls) -> Agent:
        """Return an agent on this node."""
        return cls([sys.executable, "-m", "pydlm.testing", "agent"])

    def post(self, what: str, *arguments: Any, **options: Any) -> None:
        """Give an order. Its answer has to be taken before the next."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(_written((what, arguments, options)))
            self.process.stdin.flush()
        except OSError as error:
            raise AgentGone(f"{self.process.args!r} has ended") from error

    def answer(self) -> Any:
        """Return the answer to the last order, or raise the error that it is."""
        assert self.process.stdout is not None
        # Nothing is buffered: there is one answer to each order.
        if not select.select([self.process.stdout], [], [], _PATIENCE)[0]:
            raise AgentGone(f"{self.process.args!r} has not answered within {_PATIENCE:g} s")
        line = self.process.stdout.readline()
        if not line:
            raise AgentGone(f"{self.process.args!r} has ended")
        done, answer = _read(line)
        if not done:
            raise answer
        return answer

    def call(self, what: str, *arguments: Any, **options: Any) -> Any:
        """Give an order; return the answer."""
        self.post(what, *arguments, **options)
        return self.answer()

    def close(self) -> None:
        """End it, and the clients with it."""
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):  # it has ended
                self.process.stdin.close()
        if self.process.stdout is not None:
            self.process.stdout.close()
        try:
            self.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _written(message: object) -> bytes:
    return base64.b64encode(pickle.dumps(message)) + b"\n"


def _read(line: bytes) -> Any:
    # From a program that this one has started, or the other way round.
    return pickle.loads(base64.b64decode(line))
