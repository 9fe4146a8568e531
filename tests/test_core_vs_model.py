"""The `local` stack beside the model: same calls, same answers, same events, same state."""

from __future__ import annotations

import itertools
import random
import select
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pydlm.errors import DlmError
from pydlm.stackglue import connect_stack
from pydlm.testing.model import Model, ModelClient
from pydlm.types import (
    Blocked,
    Completion,
    Event,
    LockFlag,
    Mode,
    NodeDown,
    Queue,
)

LVB_LEN = 8
CLIENTS = 4
RESOURCES = (b"r", b"s")

#: Those that decide something on a new lock; the others are accepted or refused, and that is all.
REQUEST_FLAGS = [
    LockFlag.NOQUEUE,
    LockFlag.VALBLK,
    LockFlag.IVVALBLK,
    LockFlag.PERSISTENT,
    LockFlag.EXPEDITE,
    LockFlag.NOQUEUEBAST,
    LockFlag.HEADQUE,
    LockFlag.NOORDER,
    LockFlag.ALTPR,
    LockFlag.ALTCW,
]
CONVERT_FLAGS = [
    LockFlag.NOQUEUE,
    LockFlag.VALBLK,
    LockFlag.IVVALBLK,
    LockFlag.PERSISTENT,
    LockFlag.QUECVT,
    LockFlag.CONVDEADLK,
    LockFlag.NODLCKWT,
    LockFlag.NOQUEUEBAST,
    LockFlag.HEADQUE,
    LockFlag.NOORDER,
    LockFlag.ALTPR,
    LockFlag.ALTCW,
]
UNLOCK_FLAGS = [LockFlag.VALBLK, LockFlag.IVVALBLK, LockFlag.FORCEUNLOCK, LockFlag.CANCEL]
RARE_FLAGS = list(LockFlag)

_names = itertools.count()


class Handle(NamedTuple):
    """One lock, as each side calls it."""

    client: int
    ours: int
    theirs: int


class Duel:
    """Does everything twice, on the stack and on the model, and compares."""

    def __init__(self) -> None:
        self.lockspace = f"duel-{next(_names)}"
        self.model = Model(LVB_LEN)
        self.stacks: list[Any] = []
        self.models: list[ModelClient] = []
        self.alive: list[bool] = []
        self.handles: list[Handle] = []
        self.by_ours: dict[tuple[int, int], int] = {}
        self.by_theirs: dict[tuple[int, int], int] = {}
        self.tokens: dict[bytes, int] = {}
        self.names: dict[int, bytes] = {}
        self.keeper = self.connect_stack()

    def connect_stack(self) -> Any:
        return connect_stack("local", self.lockspace, lvb_len=LVB_LEN, capacity=1024)

    def connect(self) -> None:
        self.stacks.append(self.connect_stack())
        self.models.append(self.model.client())
        self.alive.append(True)

    def close(self) -> None:
        for stack, alive in zip(self.stacks, self.alive, strict=True):
            if alive:
                stack.disconnect()
        self.keeper.disconnect()

    def living(self) -> list[int]:
        return [client for client, alive in enumerate(self.alive) if alive]

    # Both sides at once.

    def both(self, ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[Any, Any] | None:
        """Call both; they must succeed or fail alike. None: they failed."""
        got, expected = outcome(ours), outcome(theirs)
        assert got[0] == expected[0], f"errno {got[0]}, where the model has {expected[0]}"
        return None if got[0] else (got[1], expected[1])

    def lock(self, client: int, name: bytes, mode: int, flags: LockFlag) -> None:
        lkids = self.both(
            lambda: self.stacks[client].lock(name, mode, flags),
            lambda: self.models[client].lock(name, mode, flags),
        )
        if lkids is None:
            return
        known = self.by_theirs.get((client, lkids[1]))
        assert known is None or self.handles[known].ours == lkids[0]
        self.by_ours[client, lkids[0]] = self.by_theirs[client, lkids[1]] = len(self.handles)
        self.names[len(self.handles)] = name
        self.handles.append(Handle(client, *lkids))

    def convert(
        self, handle: Handle, client: int, mode: int, flags: LockFlag, lvb: bytes | None
    ) -> None:
        self.both(
            lambda: self.stacks[client].convert(handle.ours, mode, flags, lvb=lvb),
            lambda: self.models[client].convert(handle.theirs, mode, flags, lvb=lvb),
        )

    def unlock(self, handle: Handle, client: int, flags: LockFlag, lvb: bytes | None) -> None:
        self.both(
            lambda: self.stacks[client].unlock(handle.ours, flags, lvb=lvb),
            lambda: self.models[client].unlock(handle.theirs, flags, lvb=lvb),
        )

    def odd_call(
        self, which: int, handle: Handle, client: int, mode: Mode, flags: LockFlag
    ) -> None:
        """Call with flags that mostly cannot be, and by an lkid that may be another client's."""
        if which == 0:
            self.convert(handle, client, mode, flags, None)
        elif which == 1:
            self.unlock(handle, client, flags, None)
        else:
            self.lock(client, RESOURCES[0], mode, flags)

    def deadlock_cancel(self, handle: Handle) -> None:
        self.both(
            lambda: self.stacks[handle.client].deadlock_cancel(handle.ours),
            lambda: self.models[handle.client].deadlock_cancel(handle.theirs),
        )

    def abandon(self, client: int) -> None:
        self.both(self.stacks[client].abandon, self.models[client].abandon)
        self.alive[client] = False

    def purge(self, client: int | None) -> None:
        """Purge what a dead client left; None: what all left."""
        ours = 0 if client is None else self.stacks[client].this_node
        theirs = 0 if client is None else self.models[client].this_node
        self.both(lambda: self.keeper.purge(ours), lambda: self.model.purge(theirs))

    # What came of it.

    def compare_events(self) -> None:
        """Compare all events of each client, in order."""
        tokens: dict[bytes, list[int]] = {}
        for client in self.living():
            got = [
                self.neutral(client, e, self.by_ours, tokens) for e in drain(self.stacks[client])
            ]
            expected = [
                self.neutral(client, e, self.by_theirs, {}) for e in drain(self.models[client])
            ]
            assert [e for e in got if e] == expected, f"events of client {client}"
        for name, new in tokens.items():
            assert len(set(new)) == len(new), f"a token of {name!r} was given twice"
            assert min(new) > self.tokens.get(name, 0), f"tokens of {name!r} do not rise"
            self.tokens[name] = max(new)

    def neutral(
        self,
        client: int,
        event: Event,
        numbers: dict[tuple[int, int], int],
        tokens: dict[bytes, list[int]],
    ) -> tuple[Any, ...] | None:
        """Return an event without what the two sides call differently."""
        if isinstance(event, NodeDown):
            return None
        number = numbers[client, event.lkid]
        if isinstance(event, Blocked):
            return number, "blocked", event.mode
        if event.status == 0:
            tokens.setdefault(self.names[number], []).append(event.token)
        return number, event.status, event.flags, event.granted, event.lvb

    def compare_state(self) -> None:
        """Compare what both sides say of every lock that there ever was."""
        live = False
        for handle in self.handles:
            if not self.alive[handle.client]:
                continue
            stack, model = self.stacks[handle.client], self.models[handle.client]
            got = outcome(lambda: stack.lock_status(handle.ours))
            expected = outcome(lambda: model.lock_status(handle.theirs))
            assert got[0] == expected[0]
            if got[0]:
                continue
            live = True
            ours, theirs = got[1], expected[1]
            assert ours.lkid == handle.ours
            assert ours.client == stack.this_node
            assert (ours.name, ours.queue, ours.granted, ours.requested) == (
                theirs.name,
                theirs.queue,
                theirs.granted,
                theirs.requested,
            )
            assert stack.lvb(handle.ours) == model.lvb(handle.theirs)
            if ours.queue is Queue.GRANTED:
                assert stack.lvb_valid(handle.ours) == model.lvb_valid(handle.theirs)
        if not live and not self.model.orphans:
            self.tokens.clear()  # the resources are gone, and their tokens with them
        self.model.invariants()
        self.keeper.arena.check()
        assert sorted(summary(self.keeper.dump())) == sorted(
            summary(self.models[0].dump() if self.models else [])
        )


def summary(dump: list[Any]) -> list[tuple[Any, ...]]:
    """What of a dump both sides have in common."""
    return [(s.name, s.queue, str(s.granted), str(s.requested), s.client == 0) for s in dump]


def outcome(call: Callable[[], Any]) -> tuple[int | None, Any]:
    """Return (0, what the call returned) or (errno, None)."""
    try:
        return 0, call()
    except DlmError as error:
        return error.errno, None


def drain(client: Any) -> list[Event]:
    events: list[Event] = []
    while batch := client.dispatch():
        events += batch
    return events


def flags_of(words: list[LockFlag]) -> LockFlag:
    total = LockFlag(0)
    for word in words:
        total |= word
    return total


def some(flags: list[LockFlag]) -> st.SearchStrategy[LockFlag]:
    return st.lists(st.sampled_from(flags), max_size=3).map(flags_of)


modes = st.sampled_from(list(Mode))
values = st.one_of(st.none(), st.binary(max_size=LVB_LEN))
numbers = st.integers(0, 10_000)


class CoreVersusModel(RuleBasedStateMachine):
    """Hypothesis looks for the shortest sequence of calls after which the two differ."""

    def __init__(self) -> None:
        super().__init__()
        self.duel = Duel()

    @initialize()
    def connect_two(self) -> None:
        self.duel.connect()
        self.duel.connect()

    def teardown(self) -> None:
        self.duel.close()

    def client(self, number: int) -> int:
        living = self.duel.living()
        return living[number % len(living)]

    def handle(self, number: int) -> Handle:
        living = [h for h in self.duel.handles if self.duel.alive[h.client]] or self.duel.handles
        # Mostly one of the newest: of the older ones most are gone.
        return living[-1 - number % min(len(living), 8)]

    has_client = precondition(lambda self: self.duel.living())
    has_handle = precondition(
        lambda self: any(self.duel.alive[handle.client] for handle in self.duel.handles)
    )

    @precondition(lambda self: len(self.duel.living()) < CLIENTS)
    @rule()
    def connect(self) -> None:
        self.duel.connect()

    @has_client
    @rule(number=numbers, name=st.sampled_from(RESOURCES), mode=modes, flags=some(REQUEST_FLAGS))
    def lock(self, number: int, name: bytes, mode: Mode, flags: LockFlag) -> None:
        self.duel.lock(self.client(number), name, mode, flags)

    @has_handle
    @rule(number=numbers, mode=modes, flags=some(CONVERT_FLAGS), lvb=values)
    def convert(self, number: int, mode: Mode, flags: LockFlag, lvb: bytes | None) -> None:
        handle = self.handle(number)
        self.duel.convert(handle, handle.client, mode, flags, lvb)

    @has_handle
    @rule(number=numbers, flags=some(UNLOCK_FLAGS), lvb=values)
    def unlock(self, number: int, flags: LockFlag, lvb: bytes | None) -> None:
        handle = self.handle(number)
        self.duel.unlock(handle, handle.client, flags, lvb)

    @has_handle
    @rule(number=numbers)
    def cancel(self, number: int) -> None:
        handle = self.handle(number)
        self.duel.unlock(handle, handle.client, LockFlag.CANCEL, None)

    @has_handle
    @rule(number=numbers)
    def deadlock_cancel(self, number: int) -> None:
        self.duel.deadlock_cancel(self.handle(number))

    @has_handle
    @rule(
        which=st.sampled_from(range(3)),
        number=numbers,
        mode=modes,
        flags=some(RARE_FLAGS),
        other=numbers,
    )
    def odd_call(self, which: int, number: int, mode: Mode, flags: LockFlag, other: int) -> None:
        handle, client = self.handle(number), self.client(other)
        self.duel.odd_call(which, handle, client, mode, flags & ~LockFlag.CONVERT)

    @has_client
    @rule(number=numbers)
    def abandon(self, number: int) -> None:
        self.duel.abandon(self.client(number))

    @has_client
    @rule(number=numbers, name=st.sampled_from(RESOURCES), mode=modes)
    def adopt(self, number: int, name: bytes, mode: Mode) -> None:
        self.duel.lock(self.client(number), name, mode, LockFlag.ORPHAN)

    @precondition(lambda self: not all(self.duel.alive))
    @rule(number=numbers)
    def purge(self, number: int) -> None:
        dead = [client for client, alive in enumerate(self.duel.alive) if not alive]
        self.duel.purge(([None, *dead])[number % (len(dead) + 1)])

    @invariant()
    def same(self) -> None:
        self.duel.compare_events()
        self.duel.compare_state()


TestCoreVersusModel = CoreVersusModel.TestCase
TestCoreVersusModel.settings = settings(stateful_step_count=40)


@pytest.fixture
def duel() -> Iterator[Duel]:
    duel = Duel()
    yield duel
    duel.close()


class Chance:
    """Draws one call after the other from a seed."""

    def __init__(self, duel: Duel, seed: int) -> None:
        self.duel = duel
        self.random = random.Random(seed)

    def flags(self, words: list[LockFlag]) -> LockFlag:
        many = self.random.choice((0, 0, 1, 1, 2, 3))
        return flags_of(self.random.sample(words, many))

    def value(self) -> bytes | None:
        return self.random.choice((None, self.random.randbytes(LVB_LEN)))

    def step(self) -> None:
        duel, draw = self.duel, self.random
        if len(duel.living()) < 2:
            duel.connect()
        client = draw.choice(duel.living())
        mode = draw.choice(list(Mode))
        mine = [h for h in duel.handles if duel.alive[h.client]][-8:]
        kind = draw.choices(
            ("lock", "convert", "unlock", "cancel", "deadlock", "odd", "die", "adopt", "purge"),
            (30, 40, 20, 8, 2, 5, 1, 1, 1),
        )[0]
        if kind == "lock" or not mine:
            duel.lock(client, draw.choice(RESOURCES), mode, self.flags(REQUEST_FLAGS))
            return
        handle = draw.choice(mine)
        if kind == "convert":
            duel.convert(handle, handle.client, mode, self.flags(CONVERT_FLAGS), self.value())
        elif kind == "unlock":
            duel.unlock(handle, handle.client, self.flags(UNLOCK_FLAGS), self.value())
        elif kind == "cancel":
            duel.unlock(handle, handle.client, LockFlag.CANCEL, None)
        elif kind == "deadlock":
            duel.deadlock_cancel(handle)
        elif kind == "odd":
            odd = self.flags(RARE_FLAGS) & ~LockFlag.CONVERT
            duel.odd_call(draw.randrange(3), handle, client, mode, odd)
        elif kind == "die":
            duel.abandon(client)
        elif kind == "adopt":
            duel.lock(client, draw.choice(RESOURCES), mode, LockFlag.ORPHAN)
        else:
            duel.purge(None)


#: Seeds that once told the two apart.
TELLING = (1074, 1288, 1682, 2004, 4313, 4581, 7655, 11789, 13532)


@pytest.mark.parametrize("seed", [*range(100), *TELLING])
def test_long_random_runs(duel: Duel, seed: int) -> None:
    """The same rules, drawn from a seed: cheaper than Hypothesis, so there can be many calls."""
    chance = Chance(duel, seed)
    for _ in range(150):
        chance.step()
        duel.compare_events()
        duel.compare_state()


@pytest.mark.parametrize("seed", range(20))
def test_events_may_be_fetched_late(duel: Duel, seed: int) -> None:
    """Fetched once at the end, each lock has all its completions, and its state is the same."""
    chance = Chance(duel, seed)
    for _ in range(60):
        chance.step()
    for client in duel.living():
        stack, model = duel.stacks[client], duel.models[client]
        waiting = bool(select.select([stack], [], [], 0)[0])
        got, expected = drain(stack), drain(model)
        assert waiting == bool(got)
        assert completions(client, got, duel.by_ours) == completions(
            client, expected, duel.by_theirs
        )
        assert not select.select([stack], [], [], 0)[0]
    duel.compare_state()


def completions(
    client: int, events: list[Event], numbers: dict[tuple[int, int], int]
) -> dict[int, list[tuple[Any, ...]]]:
    """Of each lock, how its requests ended, in order."""
    found: dict[int, list[tuple[Any, ...]]] = {}
    for event in events:
        if isinstance(event, Completion):
            ended = (event.status, event.flags, event.granted)
            found.setdefault(numbers[client, event.lkid], []).append(ended)
    return found
