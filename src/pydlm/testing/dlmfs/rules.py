"""The rules by which a mount does something else than ocfs2_dlmfs, all of them.

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
    kernel: str
    mount: str
    why: str
    wanted: bool  #: because users are better off so; or else FUSE leaves no choice
    #: Whether a step went differently because of it, and as it says.
    explains: Callable[[Scenario, list[_Outcome], int], bool]

    def __str__(self) -> str:
        """Return its name and what the mount does."""
        return f"{self.name}: {self.mount}"


def explain(scenario: Scenario, got: list[_Outcome], index: int) -> Rule | None:
    """Return the first rule that explains how the step `index` went."""
    return next((rule for rule in RULES if rule.explains(scenario, got, index)), None)


def _never(_scenario: Scenario, _got: list[_Outcome], _index: int) -> bool:
    """Of what no recording shows."""
    return False


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


#: In the order in which they are tried; first those that are wanted.
RULES = (
    Rule(
        "trylock",
        "On the user-space cluster stack, O_NONBLOCK against another node hangs for ever.",
        "ETXTBSY at once, as on o2cb.",
        "It says that it does not block.",
        True,
        _trylock,
    ),
    Rule(
        "interrupt",
        "A blocked open returns EINTR only when the lock arrives, and SIGKILL kills no sooner; the "
        "node has the lock cached then.",
        "A signal that is handled, or SIGSTOP, ends it with EINTR at once, SIGKILL kills at once; "
        "so too a blocked unlink. The request is taken back, and nothing of it is left.",
        "A program that cannot be stopped is a fault.",
        True,
        _signal,
    ),
    Rule(
        "rebuilt",
        "A node that has found the block invalid goes on reading 0 bytes, even what it has written "
        "itself, as long as it keeps the lock.",
        "Once it has been written it is valid again: bytes that were not written are zeros.",
        "Who rebuilds a value must be able to read it back.",
        True,
        _rebuilt,
    ),
    Rule(
        "pwrite",
        "Bytes written at an offset land at the start of the block; only count and position obey "
        "the offset.",
        "They land at the offset, and so does what one write after the other writes.",
        "It is what pwrite means, and read already obeys it.",
        True,
        _offset,
    ),
    Rule(
        "magic",
        "statfs reports the magic number of dlmfs, 0x76a9f425.",
        "FUSE's, 0x65735546.",
        "The kernel reports its own for every FUSE file system.",
        False,
        _magic,
    ),
    Rule(
        "capabilities",
        "/sys/module/ocfs2_dlmfs/parameters/capabilities says `bast stackglue`.",
        "There is no such file, unless the module is loaded too.",
        "It belongs to the kernel module.",
        False,
        _capabilities,
    ),
    Rule(
        "append",
        "O_APPEND is ignored: the position begins at 0, and goes on with each write.",
        "What is written lands as if O_APPEND were ignored, but lseek shows a position past the "
        "end.",
        "The kernel moves the position to the end of the 64 bytes before it calls.",
        False,
        _append,
    ),
    Rule(
        "close",
        "close(2) returns when the lock may be had elsewhere.",
        "It may return a moment earlier: O_NONBLOCK on another mount can still meet ETXTBSY. "
        "On the same mount, and for who waits, it makes no difference.",
        "FUSE tells of the last close without waiting for an answer. What it waits for, `flush`, "
        "comes with every close of a copy too, so it must not let go.",
        False,
        _never,
    ),
    Rule(
        "private-mmap",
        "Every mmap fails with ENODEV.",
        "Only a shared one does; a private one is a copy of the block.",
        "FUSE refuses only shared mappings of files with direct I/O.",
        False,
        _never,
    ),
    Rule(
        "domain-names",
        "Any bytes are a domain's name.",
        "UTF-8 only, else EINVAL; the lockspace of `.x` is called `%2Ex`, and that of `%x` `%25x`.",
        "Lockspaces have names that are text, and do not begin with a dot.",
        False,
        _never,
    ),
)
