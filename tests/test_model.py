"""The model: it answers as the kernel did, and these are the rules one would look up first."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from pydlm.errors import BadArgument, Busy, DlmError, NoSuchLock, WouldBlock
from pydlm.testing.model import Model, ModelClient
from pydlm.testing.recording import load, shipped
from pydlm.testing.replay import replay
from pydlm.testing.rules import LvbMove, lvb_move, quecvt_allowed
from pydlm.testing.worlds import ModelWorlds
from pydlm.types import (
    ECANCEL,
    EUNLOCK,
    Blocked,
    Completion,
    LockFlag,
    Mode,
    Queue,
    StatusFlag,
)

NL, CR, CW, PR, PW, EX = Mode
OK = 0
ZERO = bytes(32)


def value(byte: int) -> bytes:
    return bytes([byte]) * 32


def casts(client: ModelClient) -> list[tuple[int, int, Mode | None]]:
    return [(e.lkid, e.status, e.granted) for e in client.dispatch() if isinstance(e, Completion)]


def basts(client: ModelClient) -> list[tuple[int, Mode]]:
    return [(e.lkid, e.mode) for e in client.dispatch() if isinstance(e, Blocked)]


def lvbs(client: ModelClient) -> list[tuple[bytes | None, bool]]:
    """The blocks that came with completions, and whether they are valid."""
    return [
        (e.lvb, not e.flags & StatusFlag.VALNOTVALID)
        for e in client.dispatch()
        if isinstance(e, Completion)
    ]


@pytest.mark.parametrize("path", shipped(), ids=lambda path: Path(path).name.partition(".")[0])
def test_answers_as_the_kernel_did(path: str) -> None:
    where = ModelWorlds(kernel=True)
    different = [result for result in (replay(s, where) for s in load(path)) if result.differences]
    assert [f"{r.scenario.name}: {r.differences[0]}" for r in different] == []


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def a(model: Model) -> ModelClient:
    return model.client()


@pytest.fixture
def b(model: Model) -> ModelClient:
    return model.client()


@pytest.fixture
def c(model: Model) -> ModelClient:
    return model.client()


def test_who_waits_is_granted_when_the_holder_goes(a: ModelClient, b: ModelClient) -> None:
    first = a.lock(b"r", EX)
    second = b.lock(b"r", PR)
    assert a.dispatch() == [
        Completion(first, OK, StatusFlag(0), EX, None),
        Blocked(first, PR),
    ]
    assert b.dispatch() == []
    assert b.lock_status(second).queue is Queue.WAITING
    a.unlock(first)
    assert casts(a) == [(first, EUNLOCK, None)]
    assert casts(b) == [(second, OK, PR)]
    assert b.lock_status(second)[3:6] == (Queue.GRANTED, PR, None)


def test_waiters_are_served_in_order(a: ModelClient, b: ModelClient) -> None:
    holder = a.lock(b"r", PR)
    writer = b.lock(b"r", EX)
    reader = b.lock(b"r", PR)
    assert [lkid for lkid, *_ in casts(b)] == []
    a.unlock(holder)
    assert casts(b) == [(writer, OK, EX)]
    b.unlock(writer)
    assert casts(b) == [(writer, EUNLOCK, None), (reader, OK, PR)]


def test_conversion_comes_before_waiters(a: ModelClient, b: ModelClient) -> None:
    first, second = a.lock(b"r", PR), b.lock(b"r", PR)
    waiter = b.lock(b"r", EX)
    a.convert(first, EX)
    b.unlock(second)
    assert casts(a)[-1] == (first, OK, EX)
    assert b.lock_status(waiter).queue is Queue.WAITING


def test_conversion_deadlock_hits_who_closes_it(a: ModelClient, b: ModelClient) -> None:
    first, second = a.lock(b"r", PR), b.lock(b"r", PR)
    a.convert(first, EX)
    b.convert(second, EX)
    assert casts(b) == [(second, OK, PR), (second, errno.EDEADLK, PR)]
    b.unlock(second)
    assert casts(a)[-1] == (first, OK, EX)


def test_convdeadlk_is_demoted_instead(a: ModelClient, b: ModelClient) -> None:
    first, second = a.lock(b"r", PR), b.lock(b"r", PR)
    a.convert(first, EX)
    b.convert(second, EX, LockFlag.CONVDEADLK)
    assert casts(a)[-1] == (first, OK, EX)
    assert casts(b) == [(second, OK, PR)]
    assert b.lock_status(second)[3:6] == (Queue.CONVERT, NL, EX)
    a.unlock(first)
    assert b.dispatch() == [Completion(second, OK, StatusFlag.DEMOTED, EX, None)]


def test_noqueue_fails_and_tells_nobody_unless_asked_to(a: ModelClient, b: ModelClient) -> None:
    holder = a.lock(b"r", EX)
    a.dispatch()
    refused = b.lock(b"r", PR, LockFlag.NOQUEUE)
    assert casts(b) == [(refused, errno.EAGAIN, None)]
    assert basts(a) == []
    b.lock(b"r", PR, LockFlag.NOQUEUE | LockFlag.NOQUEUEBAST)
    assert basts(a) == [(holder, PR)]
    with pytest.raises(NoSuchLock):
        b.unlock(refused)


def test_notice_comes_again_only_for_more(a: ModelClient, b: ModelClient) -> None:
    holder = a.lock(b"r", EX)
    a.dispatch()
    told = []
    for mode in (PR, PR, CR, PW, PR, EX, EX):
        b.lock(b"r", mode)
        told += basts(a)
    assert told == [(holder, PR), (holder, PW), (holder, EX)]


def test_pr_and_cw_are_told_of_each_other_every_time(a: ModelClient, b: ModelClient) -> None:
    holder = a.lock(b"r", CW)
    a.dispatch()
    told = []
    for mode in (PR, PW, PR, PR):
        b.lock(b"r", mode)
        told += basts(a)
    assert told == [(holder, PR), (holder, PW), (holder, PR), (holder, PR)]


def test_events_of_one_lock_stay_together(a: ModelClient, b: ModelClient) -> None:
    first, second = a.lock(b"r", PR), a.lock(b"s", PR)
    b.lock(b"r", EX)
    assert [event.lkid for event in a.dispatch()] == [first, first, second]


@pytest.mark.parametrize("held", list(Mode))
@pytest.mark.parametrize("wanted", list(Mode))
def test_only_the_table_of_modes_decides(held: Mode, wanted: Mode) -> None:
    model = Model()
    model.client().lock(b"r", held)
    other = model.client()
    other.lock(b"r", wanted, LockFlag.NOQUEUE)
    [event] = other.dispatch()
    assert isinstance(event, Completion)
    assert (event.status == OK) == held.compatible(wanted)


def test_cancel(a: ModelClient, b: ModelClient) -> None:
    holder, waiter = a.lock(b"r", EX), b.lock(b"r", EX)
    b.unlock(waiter, LockFlag.CANCEL)
    assert casts(b) == [(waiter, ECANCEL, None)]
    a.unlock(holder, LockFlag.CANCEL)  # nothing to take back: no error, no event
    assert casts(a) == [(holder, OK, EX)]
    a.unlock(holder, LockFlag.CANCEL)


def test_cancelled_conversion_keeps_its_mode_and_cannot_be_cancelled_again(
    a: ModelClient, b: ModelClient
) -> None:
    first, _ = a.lock(b"r", PR), b.lock(b"r", PR)
    a.convert(first, EX)
    a.unlock(first, LockFlag.CANCEL)
    assert casts(a)[-1] == (first, ECANCEL, PR)
    with pytest.raises(BadArgument):
        a.unlock(first, LockFlag.CANCEL)
    a.convert(first, EX)
    a.unlock(first, LockFlag.CANCEL)


def test_deadlock_cancel_says_deadlock(a: ModelClient, b: ModelClient) -> None:
    a.lock(b"r", EX)
    waiter = b.lock(b"r", EX)
    b.deadlock_cancel(waiter)
    assert casts(b) == [(waiter, errno.EDEADLK, None)]


def test_value_block_is_written_down_and_read_up(a: ModelClient, b: ModelClient) -> None:
    lk = a.lock(b"r", EX, LockFlag.VALBLK)
    assert lvbs(a) == [(ZERO, True)]
    a.convert(lk, NL, LockFlag.VALBLK, lvb=value(1))
    assert lvbs(a) == [(None, True)]
    b.lock(b"r", PR, LockFlag.VALBLK)
    assert lvbs(b) == [(value(1), True)]


def test_value_block_dies_with_the_last_lock(a: ModelClient) -> None:
    a.unlock(a.lock(b"r", EX, LockFlag.VALBLK), LockFlag.VALBLK, lvb=value(1))
    a.lock(b"r", PR, LockFlag.VALBLK)
    assert lvbs(a)[-1] == (ZERO, True)


def test_death_of_a_writer_invalidates(a: ModelClient, b: ModelClient, c: ModelClient) -> None:
    keeper = c.lock(b"r", NL, LockFlag.VALBLK)
    a.unlock(a.lock(b"r", EX, LockFlag.VALBLK), LockFlag.VALBLK, lvb=value(1))
    b.lock(b"r", PW)
    b.abandon()
    c.dispatch()
    c.convert(keeper, PR, LockFlag.VALBLK)
    assert lvbs(c) == [(value(1), False)]


def test_invalid_is_not_said_of_what_was_never_written(b: ModelClient, c: ModelClient) -> None:
    c.lock(b"r", NL)
    b.lock(b"r", EX, LockFlag.VALBLK)
    b.abandon()
    c.lock(b"r", PR, LockFlag.VALBLK)
    assert lvbs(c)[-1] == (ZERO, True)


def test_unlock_without_valblk_writes_if_the_lock_had_it(a: ModelClient, b: ModelClient) -> None:
    b.lock(b"r", NL)
    a.unlock(a.lock(b"r", EX, LockFlag.VALBLK), lvb=value(2))
    b.lock(b"r", PR, LockFlag.VALBLK)
    assert lvbs(b)[-1] == (value(2), True)


def test_block_of_a_refused_conversion_is_not_written(a: ModelClient, b: ModelClient) -> None:
    b.lock(b"r", NL)
    lk = a.lock(b"r", EX)
    with pytest.raises(BadArgument):
        a.convert(lk, EX, LockFlag.VALBLK | LockFlag.QUECVT, lvb=value(3))
    a.unlock(lk, LockFlag.VALBLK, lvb=value(4))
    b.lock(b"r", PR, LockFlag.VALBLK)
    assert lvbs(b)[-1] == (ZERO, True)


@pytest.mark.parametrize(
    ("old", "new", "move"),
    [
        (None, NL, LvbMove.READ),
        (NL, NL, LvbMove.READ),
        (PR, CW, LvbMove.NONE),
        (CW, PR, LvbMove.READ),
        (PW, PW, LvbMove.WRITE),
        (PW, EX, LvbMove.READ),
        (EX, EX, LvbMove.WRITE),
        (EX, NL, LvbMove.WRITE),
    ],
)
def test_which_way_the_block_goes(old: Mode | None, new: Mode, move: LvbMove) -> None:
    assert lvb_move(old, new) is move


def test_quecvt_is_for_conversions_that_ask_for_more() -> None:
    assert quecvt_allowed(PR, CW) and quecvt_allowed(CW, PR)
    assert not quecvt_allowed(NL, NL)
    assert not quecvt_allowed(EX, PR)


def test_orphan_blocks_until_adopted_or_purged(a: ModelClient, b: ModelClient) -> None:
    a.lock(b"r", EX, LockFlag.PERSISTENT)
    a.abandon()
    with pytest.raises(WouldBlock):
        b.lock(b"r", PR, LockFlag.ORPHAN)
    mine = b.lock(b"r", EX, LockFlag.ORPHAN)
    assert b.dispatch() == []
    b.unlock(mine)
    with pytest.raises(NoSuchLock):
        b.lock(b"r", EX, LockFlag.ORPHAN)


def test_purge_drops_the_orphans_of_one(model: Model, a: ModelClient, b: ModelClient) -> None:
    a.lock(b"r", EX, LockFlag.PERSISTENT)
    a.abandon()
    waiter = b.lock(b"r", EX)
    b.purge(b.this_node)
    assert b.dispatch() == []
    b.purge(a.this_node)
    assert casts(b) == [(waiter, OK, EX)]
    model.invariants()


@pytest.mark.parametrize(
    ("mode", "flags"),
    [
        (EX, LockFlag.CANCEL),
        (EX, LockFlag.QUECVT),
        (EX, LockFlag.CONVDEADLK),
        (EX, LockFlag.EXPEDITE),
        (NL, LockFlag.EXPEDITE | LockFlag.NOQUEUE),
        (6, LockFlag(0)),
        (-1, LockFlag(0)),
    ],
)
def test_requests_that_cannot_be(a: ModelClient, mode: int, flags: LockFlag) -> None:
    with pytest.raises(BadArgument):
        a.lock(b"r", mode, flags)
    assert not a.dump()


def test_names(a: ModelClient) -> None:
    a.lock(b"", EX)
    a.lock(b"x" * 64, EX)
    a.lock(b"x\0y", EX)
    with pytest.raises(BadArgument):
        a.lock(b"x" * 65, EX)
    assert len(casts(a)) == 3


def error_of(verb: str, client: ModelClient, lkid: int) -> int | None:
    with pytest.raises(DlmError) as caught:
        client.convert(lkid, NL) if verb == "convert" else client.unlock(lkid)
    return caught.value.errno


def test_lkids_are_their_owners(a: ModelClient, b: ModelClient) -> None:
    lk = a.lock(b"r", EX)
    assert error_of("unlock", b, lk) == error_of("convert", b, lk) == errno.ENOENT
    a.unlock(lk)
    assert error_of("unlock", a, lk) == errno.ENOENT
    assert a.lock(b"r", EX) != lk
    assert error_of("unlock", a, 0) == errno.EINVAL
    assert error_of("convert", a, 0) == errno.ENOENT


def test_one_request_at_a_time(a: ModelClient, b: ModelClient) -> None:
    a.lock(b"r", EX)
    waiter = b.lock(b"r", PR)
    with pytest.raises(Busy):
        b.convert(waiter, NL)
    b.unlock(waiter)
    assert casts(b) == [(waiter, EUNLOCK, None)]


def test_forceunlock_on_a_lock_spoils_the_later_one(a: ModelClient) -> None:
    lk = a.lock(b"r", EX, LockFlag.FORCEUNLOCK)
    with pytest.raises(BadArgument):
        a.unlock(lk, LockFlag.FORCEUNLOCK)
    a.unlock(lk)


def test_dispatch_takes_no_more_than_it_should(a: ModelClient) -> None:
    for _ in range(3):
        a.lock(b"r", NL)
    assert [len(a.dispatch(2)), len(a.dispatch(2)), len(a.dispatch(2))] == [2, 1, 0]
