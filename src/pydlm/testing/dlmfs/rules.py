"""The rules by which a mount does something else than ocfs2_dlmfs as recorded, all of them.

A scenario deviates, rather than fails, if each of its differing steps is explained by a rule, which
also says what must have come instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from pydlm.testing.dlmfs.block import reads
from pydlm.testing.dlmfs.recording import Scenario, Step

__all__ = ["RULES", "Rule", "explain"]

_Outcome = dict[str, Any]
_FUSE_MAGIC = "0x65735546"


class Rule(NamedTuple):
    """Why a step may go differently."""

    name: str
    sentence: str
    explains: Callable[[Scenario, list[_Outcome], int], bool]


def explain(scenario: Scenario, got: list[_Outcome], index: int) -> Rule | None:
    """Return the first rule that explains how the step `index` went."""
    return next((rule for rule in RULES if rule.explains(scenario, got, index)), None)


def _only(step: Step, got: _Outcome, *keys: str) -> bool:
    """Return whether nothing differs but these keys."""
    return all(step.outcome.get(k) == got.get(k) for k in {*step.outcome, *got} if k not in keys)


def _magic(scenario: Scenario, got: list[_Outcome], index: int) -> bool:
    recorded, found = scenario.steps[index].outcome.get("fs"), got[index].get("fs")
    return (
        recorded is not None
        and found == {**recorded, "type": _FUSE_MAGIC}
        and _only(scenario.steps[index], got[index], "fs")
    )


def _capabilities(scenario: Scenario, got: list[_Outcome], index: int) -> bool:
    step = scenario.steps[index]
    return step.call == "cat" and got[index].get("errno_name") == "ENOENT"


def _trylock(scenario: Scenario, got: list[_Outcome], index: int) -> bool:
    step = scenario.steps[index]
    return (
        step.call == "open"
        and "NONBLOCK" in step.args[1]
        and step.outcome.get("blocked", False)
        and got[index].get("errno_name") == "ETXTBSY"
    )


def _signal(scenario: Scenario, got: list[_Outcome], index: int) -> bool:
    """Explain that a call ends at the signal, and not when the lock arrives."""
    step, outcome = scenario.steps[index], got[index]
    recorded, found = set(step.outcome["completed"]), set(outcome["completed"])
    early = {
        completion
        for other, it in zip(scenario.steps, got, strict=True)
        if other.call == "kill"
        for completion in it["completed"]
        if completion[1] == other.proc and completion[2] == "EINTR"
    }
    return (
        recorded != found
        and recorded - found <= early
        and found - recorded <= (early if step.call == "kill" else set())
        and _only(step, outcome, "completed")
    )


def _offset(scenario: Scenario, got: list[_Outcome], index: int) -> bool:
    written = any(s.call in ("write", "pwrite") for s in scenario.steps[:index])
    return written and _is_right(scenario, got, index)


def _append(scenario: Scenario, got: list[_Outcome], index: int) -> bool:
    step = scenario.steps[index]
    appends = any(s.call == "open" and "APPEND" in s.args[1] for s in scenario.steps[:index])
    if not appends or step.call not in ("lseek", "read"):
        return False
    # The kernel counts from the end of the file, 64.
    return got[index].get("ret") == (0 if step.call == "read" else step.outcome["ret"] + 64)


def _rebuilt(scenario: Scenario, got: list[_Outcome], index: int) -> bool:
    step = scenario.steps[index]
    died = any(s.call == "kill_node" for s in scenario.steps[:index])
    return died and step.outcome.get("ret") == 0 and _offset(scenario, got, index)


def _is_right(scenario: Scenario, got: list[_Outcome], index: int) -> bool:
    """Return whether a step read what the block must hold."""
    right = reads(scenario, got).get(index)
    outcome = got[index]
    return (
        right is not None
        and outcome == {"ret": len(right), "data": right.hex(), "completed": []}
        and _only(scenario.steps[index], outcome, "ret", "data")
    )


#: In the order in which they are tried.
RULES = (
    Rule(
        "magic",
        "statfs tells FUSE's magic number, as of any file system in user space; what `pydlm "
        "exec-o2dlm` runs is told the kernel's.",
        _magic,
    ),
    Rule(
        "capabilities",
        "The parameters of the module ocfs2_dlmfs are there only where that is loaded; `pydlm "
        "exec-o2dlm` shows them.",
        _capabilities,
    ),
    Rule(
        "trylock",
        "O_NONBLOCK fails with ETXTBSY, as on o2cb; on the user-space stacks the kernel hangs.",
        _trylock,
    ),
    Rule(
        "signal",
        "A signal ends an open that waits, with EINTR, and SIGKILL the process; the kernel goes on "
        "waiting until it has the lock.",
        _signal,
    ),
    Rule(
        "rebuilt",
        "Who writes an invalid lock value block makes it valid at once, also for the own node; the "
        "kernel reads nothing until the node has let the lock go.",
        _rebuilt,
    ),
    Rule(
        "append",
        "After a write with O_APPEND the position is counted from 64, the size of the file, which "
        "is what the kernel does of any file.",
        _append,
    ),
    Rule(
        "offset",
        "A write lands at its offset; the kernel puts it at the start, and only counts from there.",
        _offset,
    ),
)
