"""Play recordings of ocfs2_dlmfs on mounts, one for each node, and compare what comes back."""

from __future__ import annotations

import itertools
import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydlm.errors import StackUnavailable
from pydlm.testing.dlmfs.caller import Caller
from pydlm.testing.dlmfs.daemon import Daemon
from pydlm.testing.dlmfs.recording import Scenario, Step
from pydlm.testing.dlmfs.rules import Rule, explain

__all__ = ["Difference", "Result", "mounts", "replay"]

#: Seconds until a call that should return, has.
_PATIENCE = 10.0
#: Seconds after which a call that has not returned is said to wait, and what has not come, not to.
_SETTLED = 0.05

_LOOKS = ("poll", "select", "epoll", "epoll_et")

_numbers = itertools.count()


class Difference(NamedTuple):
    """A step that went differently."""

    number: int  #: from 1
    step: Step
    got: dict[str, Any]

    def __str__(self) -> str:
        """Return one line: which step, what was expected, what came."""
        step = self.step
        keys = [k for k in {**step.outcome, **self.got} if step.outcome.get(k) != self.got.get(k)]
        expected, got = ({k: it[k] for k in keys if k in it} for it in (step.outcome, self.got))
        args = " ".join(map(str, step.args))
        return (
            f"step {self.number} ({step.proc} {step.call} {args}): expected {expected}, got {got}"
        )


class Result(NamedTuple):
    """How a scenario went."""

    scenario: Scenario
    differences: list[Difference]
    rule: Rule | None  #: one that explains a difference, where all of them are explained

    @property
    def verdict(self) -> str:
        """``passed``, ``failed`` or ``deviate``."""
        if not self.differences:
            return "passed"
        return "deviate" if self.rule else "failed"


def mounts(paths: Sequence[str]) -> list[Path]:
    """Return the mount points. Raises StackUnavailable for what is none."""
    found = [Path(path).absolute() for path in paths]
    for path in found:
        if not os.path.ismount(path):
            raise StackUnavailable(f"{str(path)!r} is not mounted; see `pydlm mount --help`")
    return found


def replay(scenario: Scenario, where: Sequence[Path]) -> Result:
    """Play a scenario, node n on the n-th mount, and compare."""
    player = _Player(scenario, where)
    try:
        got = [player.play(number, step) for number, step in enumerate(scenario.steps, 1)]
    finally:
        player.end()
    pairs = enumerate(zip(scenario.steps, got, strict=True), 1)
    differences = [Difference(n, step, it) for n, (step, it) in pairs if step.outcome != it]
    rules = [explain(scenario, got, difference.number - 1) for difference in differences]
    return Result(scenario, differences, rules[0] if all(rules) and rules else None)


class _Player:
    """The processes of one scenario, and what they are waiting for."""

    def __init__(self, scenario: Scenario, where: Sequence[Path]) -> None:
        self.scenario = scenario
        self.where = where
        self.domain = f"replay-{os.getpid()}-{next(_numbers)}"
        self.callers: dict[tuple[int, str], Caller] = {}
        self.waiting: dict[int, tuple[int, str]] = {}  #: by number of a step: whose call it is
        self.dead: list[Daemon] = []
        self.made = {(node, self.domain) for node in range(1, scenario.nodes + 1)}

    def play(self, number: int, step: Step) -> dict[str, Any]:
        if step.call == "kill_node":
            self.kill_node(step.node)
            got: dict[str, Any] = {}
        elif step.skipped:
            got = {}
        elif step.call == "kill":
            self.caller(step).kill(signal.Signals[step.args[0]], _PATIENCE)
            got = {"ret": 0}
        else:
            got = self.call(number, step)
        got["completed"] = self.completed(step)
        return got

    def call(self, number: int, step: Step) -> dict[str, Any]:
        caller = self.caller(step)
        args = [self.path(step.node, arg) if isinstance(arg, str) else arg for arg in step.args]
        wanted = step.outcome
        if step.call in _LOOKS and self.scenario.nodes > 1 and not wanted.get("ret"):
            time.sleep(_SETTLED)  # what should not come would have come by now
        end = time.monotonic() + _PATIENCE / 5
        while True:
            caller.call(step.call, args, step.file)
            answer = caller.answer(_SETTLED if "blocked" in wanted else _PATIENCE)
            if answer is None:
                self.waiting[number] = (step.node, step.proc)
                return {"blocked": True}
            self.note(step, args, answer)
            # A notice is under way while the call that it is about waits already.
            as_wanted = all(answer[key] == wanted.get(key) for key in answer)
            if as_wanted or step.call not in _LOOKS or time.monotonic() > end:
                return answer
            time.sleep(0.001)

    def note(self, step: Step, args: list[Any], answer: dict[str, Any]) -> None:
        """Remember what is to be removed; make what is told comparable."""
        if step.call == "mkdir" and answer["ret"] == 0:
            self.made.add((step.node, str(Path(args[0]).relative_to(self.where[step.node - 1]))))
        if "st" in answer:  # recorded by root
            for who, mine in (("uid", os.geteuid()), ("gid", os.getegid())):
                answer["st"][who] = 0 if answer["st"][who] == mine else answer["st"][who]

    def completed(self, step: Step) -> list[tuple[int, str, str]]:
        """Return which calls have returned since: their numbers, processes and results."""
        expected = {number for number, _, _ in step.outcome["completed"]}
        found = []
        for number, who in list(self.waiting.items()):
            patience = _PATIENCE if number in expected else 0.0
            if step.call == "kill" and who == (step.node, step.proc):
                patience = _SETTLED
            answer = self.callers[who].answer(patience)
            if answer is not None:
                del self.waiting[number]
                found.append((number, who[1], str(answer.get("errno_name", answer["ret"]))))
            elif not self.callers[who].alive:
                del self.waiting[number]
        return sorted(found)

    def caller(self, step: Step) -> Caller:
        who = step.node, step.proc
        if who not in self.callers:
            self.callers[who] = Caller()
        return self.callers[who]

    def path(self, node: int, text: str) -> str:
        mount = str(self.where[node - 1])
        return text.replace("{d}", f"{mount}/{self.domain}").replace("{m}", mount)

    def kill_node(self, node: int) -> None:
        daemon = Daemon(self.where[node - 1])
        daemon.kill()
        self.dead.append(daemon)
        for who, caller in self.callers.items():
            if who[0] == node and caller.alive:
                caller.kill(signal.SIGKILL, _PATIENCE)
                self.waiting = {n: w for n, w in self.waiting.items() if w != who}

    def end(self) -> None:
        """End the processes, remove what they have made, mount again what is dead."""
        for caller in self.callers.values():
            if caller.alive:
                caller.kill(signal.SIGKILL, _PATIENCE)
        for daemon in self.dead:
            daemon.restart()
        for node, domain in self.made:
            _remove(self.where[node - 1] / domain)


def _remove(domain: Path) -> None:
    """Remove a domain. The last closes may still be under way, so files may be busy."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        try:
            for name in os.listdir(domain):
                os.unlink(domain / name)
            os.rmdir(domain)
        except FileNotFoundError:
            return
        except OSError:
            time.sleep(0.005)
