"""Read recordings of ocfs2_dlmfs: JSON Lines, one scenario a line; see ``recordings/README.md``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from pydlm.testing.dlmfs.calls import CALLS
from pydlm.testing.recording import Fields, RecordingError, objects

__all__ = ["RESULTS", "Scenario", "Step", "load"]

#: What a call may tell, besides whether and how it failed.
RESULTS = ("data", "revents", "ready", "st", "fs", "names", "text")


class Step(NamedTuple):
    """One system call of one process, or one death."""

    node: int
    proc: str
    call: str
    args: list[Any]
    file: str | None  #: what the descriptor is called that it returns
    skipped: bool  #: the process was still in an earlier call
    outcome: dict[str, Any]  #: ``blocked``, or `ret`, `errno_name` and `RESULTS`; ``completed``


class Scenario(NamedTuple):
    """Calls on fresh domains by fresh processes."""

    name: str
    stack: str  #: o2cb, or pcmk: fs/dlm
    nodes: int
    steps: list[Step]


def load(path: str) -> Iterator[Scenario]:
    """Read a recording: plain, ``.gz``, ``.xz``, or ``-`` for standard input.

    Raises RecordingError with file, line and what is wrong.
    """
    for fields in objects(path):
        if "clients" in fields.data:
            raise fields.fail("a recording of fs/dlm; that is played on a --stack")
        name = fields.get("name", str)
        nodes = fields.get("nodes", int)
        steps = []
        for number, data in enumerate(fields.get("steps", list), 1):
            step = _step(Fields(data, f"{fields.where}: {name}: step {number}"))
            if not 1 <= step.node <= nodes:
                raise RecordingError(f"{fields.where}: {name}: step {number}: no such node")
            steps.append(step)
        yield Scenario(name, fields.get("stack", str), nodes, steps)


def _step(fields: Fields) -> Step:
    call = fields.get("call", str)
    if call not in CALLS and call not in ("kill", "kill_node"):
        raise fields.fail(f"no such call: {call!r}")
    kept = ("ret", "errno_name", "blocked", *RESULTS)
    outcome = {key: fields.data[key] for key in kept if key in fields.data}
    outcome["completed"] = sorted(
        # Counted from 0 in the file, from 1 here.
        (_completion(Fields(item, fields.where)) for item in fields.get("completed", list, [])),
    )
    return Step(
        node=fields.get("node", int),
        proc=fields.get("proc", str, ""),
        call=call,
        args=fields.get("args", list, []),
        file=fields.data.get("as"),
        skipped=fields.get("skipped", bool, False),
        outcome=outcome,
    )


def _completion(fields: Fields) -> tuple[int, str, str]:
    ret = fields.get("ret", int)
    return fields.get("step", int) + 1, fields.get("proc", str), _result(ret, fields.data)


def _result(ret: int, data: dict[str, Any]) -> str:
    return str(data.get("errno_name", ret))
