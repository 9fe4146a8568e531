"""The rules by which pydlm does something else than the recordings of the kernel, all of them.

A scenario deviates, rather than fails, if each of its differing steps is explained by a rule
that has fired at or before it, and if the stack did exactly what the model of pydlm does
(`pydlm.testing.replay` checks that).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from pydlm.testing.recording import Event, Outcome, Scenario, Step
from pydlm.types import EUNLOCK, LockFlag, Mode, StatusFlag

__all__ = ["RULES", "Rule", "explain"]

_Explains = Callable[[Step, Outcome], bool]

#: What is done to a lock that an lkid names.
_BY_LKID = ("convert", "unlock", "cancel", "forceunlock", "deadlock_cancel")


@dataclass(frozen=True)
class Rule:
    """One deliberate deviation."""

    name: str
    sentence: str
    #: Yields (index of a step where it fires, what it explains from there on).
    fire: Callable[[Scenario], Iterator[tuple[int, _Explains]]]

    def __str__(self) -> str:
        """Return its name and what it says."""
        return f"{self.name}: {self.sentence}"


def explain(scenario: Scenario, got: list[Outcome]) -> Rule | None:
    """Return the rule that explains the first difference, None if any difference is left."""
    fired = [(rule, at, explains) for rule in RULES for at, explains in rule.fire(scenario)]
    first: Rule | None = None
    for index, (step, outcome) in enumerate(zip(scenario.steps, got, strict=True)):
        if step.outcome == outcome:
            continue
        for rule, at, explains in fired:
            if at <= index and explains(step, outcome):
                first = first or rule
                break
        else:
            return None
    return first


class _Lock:
    """What a recording says about one of its locks."""

    def __init__(self, step: Step, node: int, lkid: int) -> None:
        self.client = step.client
        self.lkid = lkid
        self.node = node
        self.resource = step.resource
        self.mode: Mode | None = None
        # An adopted orphan is granted without an event.
        self.granted = bool(step.flags & LockFlag.ORPHAN)


class _Follower:
    """Follows which locks live, by what was recorded."""

    def __init__(self, scenario: Scenario) -> None:
        self.nodes = scenario.clients
        self.locks: dict[str, _Lock] = {}
        self.lkids: dict[str, int] = {}  #: of each name, also once it is nobody's or another's
        self.master: dict[bytes, int] = {}  #: node that locked a resource first

    def after(self, step: Step) -> None:
        """Take note of a step and its events."""
        if step.op == "lock" and step.outcome.rc == 0:
            node = self.nodes[step.client]
            used = {lock.lkid for lock in self.locks.values()}
            # The kernel hands out the lowest number that is free.
            lkid = next(n for n in range(1, len(used) + 2) if n not in used)
            self.locks[step.lock] = _Lock(step, node, lkid)
            self.lkids[step.lock] = lkid
            self.master.setdefault(step.resource, node)
        elif step.op == "forge" and step.of in self.lkids:
            self.lkids[step.lock] = self.lkids[step.of]
        elif step.op == "kill_client":
            self._drop(lambda lock: lock.client == step.client)
        elif step.op == "kill_node":
            self._drop(lambda lock: lock.node == step.node)
        for event in _events(step.outcome):
            lock = self.locks.get(event.lock)
            if lock is None or event.kind != "ast":
                continue
            if event.status == 0:
                lock.granted, lock.mode = True, event.mode
            elif event.status == EUNLOCK or not lock.granted:
                del self.locks[event.lock]

    def _drop(self, dead: Callable[[_Lock], bool]) -> None:
        self.locks = {name: lock for name, lock in self.locks.items() if not dead(lock)}

    def named(self, lkid: int | None) -> str | None:
        """Return the lock that has this lkid now."""
        return next((name for name, lock in self.locks.items() if lock.lkid == lkid), None)

    def on(self, resource: bytes) -> bool:
        """Return whether anything is locked there."""
        return any(lock.resource == resource for lock in self.locks.values())


def _events(outcome: Outcome) -> Iterator[Event]:
    for client in sorted(outcome.events):
        yield from outcome.events[client]


def _lkid(scenario: Scenario) -> Iterator[tuple[int, _Explains]]:
    """Fire where the kernel found a lock by an lkid that is not, or no more, the caller's."""
    follower = _Follower(scenario)
    origin: dict[str, str] = {}  #: the lock that a forged name was made from
    for index, step in enumerate(scenario.steps):
        if step.op == "forge":
            origin[step.lock] = step.of
        elif step.op in _BY_LKID:
            found = follower.named(follower.lkids.get(step.lock))
            meant = origin.get(step.lock, step.lock)
            if found and (found != meant or follower.locks[found].client != step.client):
                yield index, _anything
        follower.after(step)


def _master_death(scenario: Scenario) -> Iterator[tuple[int, _Explains]]:
    """Fire where a node dies that mastered a resource."""
    follower = _Follower(scenario)
    for index, step in enumerate(scenario.steps):
        follower.after(step)
        if step.op == "kill_node":
            lost = {name for name, node in follower.master.items() if node == step.node}
            yield index, _about_lvb(_locks_on(scenario, lost))


def _empty_resource(scenario: Scenario) -> Iterator[tuple[int, _Explains]]:
    """Fire where a resource loses its last lock."""
    follower = _Follower(scenario)
    for index, step in enumerate(scenario.steps):
        before = [name for name in follower.master if follower.on(name)]
        follower.after(step)
        for name in before:
            if not follower.on(name):
                later = Scenario("", "", 1, {}, scenario.steps[index + 1 :])
                yield index, _was_invalid(_locks_on(later, {name}))


def _location(scenario: Scenario) -> Iterator[tuple[int, _Explains]]:
    """Fire where a conversion may have been completed without asking the master's node."""
    follower = _Follower(scenario)
    for index, step in enumerate(scenario.steps):
        lock = follower.locks.get(step.lock)
        if lock and step.op == "convert" and lock.node != follower.master[lock.resource]:
            locks = _locks_on(scenario, {lock.resource})
            if lock.mode is not None and step.mode < lock.mode:
                yield index, _about_lvb(locks)
            if any(event.flags & StatusFlag.ALTMODE for event in _events(step.outcome)):
                # From here on the two nodes disagree about the mode held.
                yield index + 1, _anything
        follower.after(step)


def _locks_on(scenario: Scenario, resources: set[bytes]) -> set[str]:
    return {s.lock for s in scenario.steps if s.op == "lock" and s.resource in resources}


def _anything(step: Step, got: Outcome) -> bool:  # noqa: ARG001 - an _Explains
    """Explain everything: the two worlds have parted, and only the model of pydlm tells."""
    return True


def _about_lvb(locks: set[str]) -> _Explains:
    """Explain what differs only in bytes and validity of LVBs, for these locks."""

    def explains(step: Step, got: Outcome) -> bool:
        return _same(step, got, locks, lambda event: event._replace(flags=_less(event), lvb=None))

    return explains


def _was_invalid(locks: set[str]) -> _Explains:
    """Explain that only the recording says that an LVB is invalid, for these locks."""

    def explains(step: Step, got: Outcome) -> bool:
        if any(event.flags & StatusFlag.VALNOTVALID for event in _events(got)):
            return False
        return _same(step, got, locks, lambda event: event._replace(flags=_less(event)))

    return explains


def _less(event: Event) -> StatusFlag:
    return event.flags & ~StatusFlag.VALNOTVALID


def _same(step: Step, got: Outcome, locks: set[str], reduced: Callable[[Event], Event]) -> bool:
    """Return whether an outcome is the recorded one, with the events of `locks` reduced."""
    expected = step.outcome
    if (expected.rc, expected.errno) != (got.rc, got.errno):
        return False
    ours, theirs = list(_events(got)), list(_events(expected))
    return len(ours) == len(theirs) and all(
        one == other or (one.lock in locks and reduced(one) == reduced(other))
        for one, other in zip(ours, theirs, strict=True)
    )


#: In the order in which they are tried.
RULES = (
    Rule(
        "lkid",
        "An lkid is good only for the client that owns the lock and as long as the lock lives: "
        "else ENOENT, where the kernel takes whoever has that number now.",
        _lkid,
    ),
    Rule(
        "empty-resource",
        "Of a resource without locks nothing is kept, where the kernel remembers for some "
        "seconds that its LVB was invalid.",
        _empty_resource,
    ),
    Rule(
        "master-death",
        "No node is the master of a resource, so the death of a node takes no LVB with it: it "
        "is as if a survivor had been the master.",
        _master_death,
    ),
    Rule(
        "location",
        "Where a client is makes no difference: no conversion is completed on one node before "
        "the resource knows of it.",
        _location,
    ),
)
