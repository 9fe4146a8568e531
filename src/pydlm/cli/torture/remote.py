"""A node that is a process somewhere else: orders and answers are JSON lines."""

from __future__ import annotations

import json
import select
import shlex
import subprocess
from typing import IO, Any, Final

from pydlm.cli.torture.nodes import NoAnswer, Node
from pydlm.cli.torture.player import Answer, Order, Player, Role, Wrong
from pydlm.errors import DlmError
from pydlm.lockspace import Lockspace

__all__ = ["RemoteNode", "serve"]

_GOODBYE: Final = 10.0  # seconds


class RemoteNode(Node):
    """A node that a command reaches: ``ssh node2 pydlm``, to which the rest is added."""

    def __init__(self, number: int, command: str, stack: str, lockspace: str) -> None:
        self.number = number
        rest = ["torture", "--stack", stack, "--member", str(number), "--lockspace", lockspace]
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", f"{command} {shlex.join(rest)}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def joined(self, patience: float) -> None:
        """Wait until it has joined the lockspace; as `answer`."""
        self._hear(patience)

    def post(self, order: Order) -> None:
        """Have the node carry out `order`."""
        assert self._process.stdin is not None
        line = json.dumps({"iteration": order.iteration, "role": order.role.value})
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise DlmError(f"node {self.number} has ended") from error

    def answer(self, patience: float) -> Answer:
        """Return how the last order went."""
        heard = self._hear(patience)
        wrong = None if heard["wrong"] is None else Wrong(**heard["wrong"])
        return Answer(wrong, heard["waited_for"])

    def _hear(self, patience: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        # Nothing is buffered: there is one answer to each order.
        if not select.select([self._process.stdout], [], [], patience)[0]:
            raise NoAnswer
        line = self._process.stdout.readline()
        if not line:
            raise DlmError(f"node {self.number} has ended; its errors are above")
        heard: dict[str, Any] = json.loads(line)
        if "error" in heard:
            raise DlmError(f"node {self.number}: {heard['error']}")
        return heard

    def stop(self) -> None:
        """End it."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                try:
                    pipe.close()
                except OSError:
                    continue  # it has ended
        try:
            self._process.wait(_GOODBYE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(number: int, lockspace: Lockspace, orders: IO[bytes], answers: IO[bytes]) -> None:
    """Be such a node, until there are no more orders."""
    player = Player(number, lockspace)

    def say(**fields: Any) -> None:
        answers.write(json.dumps(fields).encode() + b"\n")
        answers.flush()

    say(joined=True)
    for line in orders:
        order = json.loads(line)
        try:
            answer = player.play(Order(order["iteration"], Role(order["role"])))
        except DlmError as error:
            say(error=str(error))
        else:
            wrong = None if answer.wrong is None else answer.wrong._asdict()
            say(wrong=wrong, waited_for=answer.waited_for)
