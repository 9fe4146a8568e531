"""A Python prompt on a node: statements go in, values come out, one after the other.

As a program it is the node's end: each line of its input is a JSON string, Python to evaluate or
execute; each line of its output says what came of it.
"""

from __future__ import annotations

import ast
import json
import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Prompt", "Raised"]


class Raised(Exception):
    """What was asked raised an exception; its class's name and its text are here."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(f"{kind}: {text}")
        self.kind = kind


class Prompt:
    """A prompt, with `pydlm` and all its public names. To be used in a `with` statement."""

    def __init__(self, node: Any) -> None:
        command = node.here(sys.executable, "-m", "tests.lab.prompt")
        self._running = node.begin(command, timeout=None)

    def __call__(self, code: str, timeout: float = 30.0) -> Any:
        """Execute a statement, or evaluate an expression and return its value."""
        self.begin(code)
        return self.result(timeout)

    def begin(self, code: str) -> None:
        """Have something executed that may take its time."""
        self._running.send(json.dumps(code) + "\n")

    def result(self, timeout: float = 30.0) -> Any:
        """Return the value of what was begun, or raise what it raised as Raised."""
        answer = json.loads(self._running.line(timeout))
        if "raised" in answer:
            raise Raised(*answer["raised"])
        try:
            return ast.literal_eval(answer["value"])
        except (SyntaxError, ValueError):
            return answer["value"]  # of no literal, its repr

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._running.close()


def _main() -> None:
    names: dict[str, Any] = {}
    exec("import os, select, threading, time, pydlm\nfrom pydlm import *", names)
    for line in sys.stdin:
        code = json.loads(line)
        answer: dict[str, Any]
        try:
            try:
                value = eval(compile(code, "<prompt>", "eval"), names)
            except SyntaxError:
                value = exec(compile(code, "<prompt>", "exec"), names)
            answer = {"value": repr(value)}
        except Exception as error:
            answer = {"raised": [type(error).__name__, str(error)]}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _main()
