"""Play recordings on a stack and compare everything that comes back."""

from __future__ import annotations

import errno
from typing import NamedTuple

from pydlm.errors import DlmError
from pydlm.testing.deviations import Rule, explain
from pydlm.testing.recording import Event, Outcome, RecordingError, Scenario, Step
from pydlm.testing.worlds import Connection, ModelWorlds, World, Worlds
from pydlm.types import ECANCEL, EUNLOCK, Blocked, Completion, LockFlag, Mode

__all__ = ["Difference", "Result", "replay", "summarize"]


class Difference(NamedTuple):
    """A step that went differently."""

    number: int  #: from 1
    step: Step
    got: Outcome

    def __str__(self) -> str:
        """Return one line: which step, what was expected, what came."""
        step = self.step
        words = [step.client or f"node {step.node}", step.op, step.lock]
        expected, got = _first_difference(step.outcome, self.got)
        what = " ".join(word for word in words if word)
        return f"step {self.number} ({what}): expected {expected}, got {got}"


class Result(NamedTuple):
    """How a scenario went."""

    scenario: Scenario
    differences: list[Difference]
    rule: Rule | None  #: what explains all of them, where something does

    @property
    def verdict(self) -> str:
        """``passed``, ``failed`` or ``deviate``."""
        if not self.differences:
            return "passed"
        return "deviate" if self.rule else "failed"


def replay(scenario: Scenario, where: Worlds) -> Result:
    """Play a scenario and compare. Raises RecordingError for one that makes no sense."""
    got = _play(scenario, where)
    pairs = enumerate(zip(scenario.steps, got, strict=True), 1)
    differences = [Difference(n, step, it) for n, (step, it) in pairs if step.outcome != it]
    rule = None
    if differences and got == _play(scenario, ModelWorlds()):
        rule = explain(scenario, got)
    return Result(scenario, differences, rule)


def _play(scenario: Scenario, where: Worlds) -> list[Outcome]:
    world = where.open(scenario)
    try:
        player = _Player(scenario, world)
        return [player.play(n, step) for n, step in enumerate(scenario.steps, 1)]
    finally:
        world.close()


class _Player:
    """Plays the part of the recording program: knows the locks by name and keeps their buffers."""

    def __init__(self, scenario: Scenario, world: World) -> None:
        self.scenario = scenario
        self.world = world
        self.ids = {client: stack.this_node for client, stack in world.clients.items()}
        self.alive = dict.fromkeys(scenario.clients, True)
        self.lkids: dict[str, int] = {}
        self.names: dict[tuple[str, int], str] = {}
        self.buffers: dict[str, bytes] = {}
        self.numbers: dict[str, list[str]] = {client: [] for client in scenario.clients}
        self.last_user: dict[int, str] = {}  #: client that got an lkid last

    def play(self, number: int, step: Step) -> Outcome:
        rc, number_of_error = 0, None
        try:
            self.call(number, step)
        except DlmError as error:
            rc, number_of_error = -1, error.errno
        return Outcome(rc, number_of_error, self.collect())

    def call(self, number: int, step: Step) -> None:
        op = step.op
        if op == "kill_node":
            self.world.kill_node(step.node)
            for client, node in self.scenario.clients.items():
                self.alive[client] &= node != step.node
            return
        where = f"{self.scenario.name}: step {number}"
        if not self.alive[step.client]:
            raise RecordingError(f"{where}: {step.client} is dead")
        stack = self.world.clients[step.client]
        if op == "kill_client":
            self.world.kill_client(step.client)
            self.alive[step.client] = False
        elif op == "purge":
            stack.purge(self.ids[step.of])
        elif op == "forge":
            self.forge(where, step)
        elif op == "lock":
            self.lkids[step.lock] = 0
            self.numbers[step.client].append(step.lock)
            self.buffer(step)
            # The model and the stacks check a mode that is none themselves.
            lkid = stack.lock(self.world.name(step), _mode(step.mode), step.flags)
            self.lkids[step.lock] = lkid
            self.names[step.client, lkid] = step.lock
            self.last_user[lkid] = step.client
        else:
            if step.lock not in self.lkids:
                raise RecordingError(f"{where}: {step.lock} has not been locked")
            self.call_on_lock(stack, step, self.lkids[step.lock])

    def call_on_lock(self, stack: Connection, step: Step, lkid: int) -> None:
        self.relabel(step, lkid)
        buffer = self.buffer(step)
        # What the recorded calls carried: a call without VALBLK carries zeros.
        lvb = buffer if step.flags & LockFlag.VALBLK else bytes(len(buffer))
        if step.op == "convert":
            stack.convert(lkid, _mode(step.mode), step.flags, lvb=lvb)
        elif step.op == "unlock":
            stack.unlock(lkid, step.flags, lvb=lvb)
        elif step.op == "forceunlock":
            stack.unlock(lkid, step.flags | LockFlag.FORCEUNLOCK, lvb=lvb)
        elif step.op == "cancel":
            stack.unlock(lkid, step.flags | LockFlag.CANCEL)
        else:
            stack.deadlock_cancel(lkid)

    def relabel(self, step: Step, lkid: int) -> None:
        """Follow the recording program in what it calls a lock that is acted on by a foreign lkid.

        It numbers the locks of each client. The kernel takes over the number that comes with a
        call, and the lock's owner looks it up among its own.
        """
        for client, known in [*self.names]:
            if known == lkid and client != step.client and self.last_user.get(lkid) == client:
                number = self.numbers[step.client].index(step.lock)
                self.names[client, lkid] = self.numbers[client][number]

    def buffer(self, step: Step) -> bytes:
        size = self.scenario.lvb_len
        if step.lvb is not None:
            self.buffers[step.lock] = step.lvb.ljust(size, b"\0")
        elif step.op == "lock" or step.lock not in self.buffers:
            self.buffers[step.lock] = bytes(size)
        return self.buffers[step.lock]

    def forge(self, where: str, step: Step) -> None:
        self.numbers[step.client].append(step.lock)
        if step.of in self.lkids:
            self.lkids[step.lock] = self.lkids[step.of]
            return
        try:
            self.lkids[step.lock] = int(step.of, 0)
        except ValueError:
            raise RecordingError(f"{where}: no lock and no number: {step.of!r}") from None

    def collect(self) -> dict[str, list[Event]]:
        events: dict[str, list[Event]] = {}
        self.world.settle()
        for client, alive in self.alive.items():
            while alive and (batch := self.world.clients[client].dispatch()):
                for raw in batch:
                    if (event := self.event(client, raw)) is not None:
                        events.setdefault(client, []).append(event)
        return events

    def event(self, client: str, raw: object) -> Event | None:
        if isinstance(raw, Blocked):
            return Event(client, self.label(client, raw.lkid), "bast", raw.mode)
        if not isinstance(raw, Completion):
            # A recording has no notices of dead connections.
            return None
        name = self.label(client, raw.lkid)
        if raw.lvb is not None:
            self.buffers[name] = raw.lvb
        granted = raw.granted if raw.status == 0 else None
        return Event(client, name, "ast", granted, raw.status, raw.flags, raw.lvb)

    def label(self, client: str, lkid: int) -> str:
        return self.names.get((client, lkid), f"lkid {lkid}")


def _mode(number: int) -> int:
    return Mode(number) if Mode.NL <= number <= Mode.EX else number


def _first_difference(expected: Outcome, got: Outcome) -> tuple[str, str]:
    if (expected.rc, expected.errno) != (got.rc, got.errno):
        return _describe_rc(expected), _describe_rc(got)
    for client in sorted(expected.events.keys() | got.events.keys()):
        ours, theirs = got.events.get(client, []), expected.events.get(client, [])
        for n in range(max(len(ours), len(theirs))):
            one = theirs[n] if n < len(theirs) else None
            other = ours[n] if n < len(ours) else None
            if one != other:
                return _describe_event(client, one), _describe_event(client, other)
    return "the same", "the same"  # pragma: no cover - only called for what differs


def _describe_rc(outcome: Outcome) -> str:
    return "success" if outcome.rc == 0 else f"error {_errno_name(outcome.errno)}"


def _errno_name(number: int | None) -> str:
    return errno.errorcode.get(number or 0, str(number))


def _describe_event(client: str, event: Event | None) -> str:
    if event is None:
        return f"no further event for {client}"
    if event.kind == "bast":
        return f"{client}: bast {event.lock} {event.mode.name if event.mode is not None else ''}"
    parts = [f"{client}: ast {event.lock} {_STATUS.get(event.status, event.status)}"]
    if event.mode is not None:
        parts.append(event.mode.name)
    if event.flags:
        parts.append("|".join(f.name or "" for f in type(event.flags) if f & event.flags))
    parts.append("no lvb" if event.lvb is None else f"lvb {event.lvb.hex()}")
    return " ".join(parts)


_STATUS = {
    0: "OK",
    errno.EAGAIN: "EAGAIN",
    errno.EDEADLK: "EDEADLK",
    ECANCEL: "ECANCEL",
    EUNLOCK: "EUNLOCK",
}


def summarize(verdicts: list[str]) -> str:
    """Return ``N passed, M failed, K deviate``."""
    return ", ".join(f"{verdicts.count(word)} {word}" for word in ("passed", "failed", "deviate"))
