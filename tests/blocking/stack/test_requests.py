"""What each request carries, and what is asked of stacks that can do less."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from tests.blocking.stack.stack import stack_of
from tests.blocking.threads import Thread, until

import pydlm
from pydlm import LockFlag, Mode
from pydlm.blocking import BlockingLocks, StackLock

pytestmark = pytest.mark.filterwarnings("ignore:.* was held when its last ref:ResourceWarning")

NL, CR, CW, PR, PW, EX = Mode
NOQUEUE, VALBLK, QUECVT, IVVALBLK, EXPEDITE = (
    LockFlag[name] for name in ("NOQUEUE", "VALBLK", "QUECVT", "IVVALBLK", "EXPEDITE")
)


# What each request carries.


def test_flags_and_values(connect: Callable[..., BlockingLocks]) -> None:
    locks = connect()
    lk, stack = locks.open("r"), stack_of(locks)
    assert stack.took() == [("lock", NL, EXPEDITE | VALBLK)]
    with lk:
        assert not lk.acquire(False)
    assert stack.took() == [
        ("convert", EX, QUECVT | VALBLK, None),
        ("convert", NL, VALBLK, None),
    ]
    with lk.held(PW, blocking=False):
        lk.lvb = b"value"
        assert lk.convert(EX)
        assert lk.convert(PW, timeout=1)
        assert lk.convert(CW)
    assert stack.took() == [
        ("convert", PW, NOQUEUE | QUECVT | VALBLK, None),
        ("convert", EX, QUECVT | VALBLK, None),
        ("convert", PW, VALBLK, b"value"),
        ("convert", CW, VALBLK, None),
        ("convert", NL, VALBLK, None),
    ]
    lk.acquire()
    lk.lvb = b"other"
    lk.close()
    assert stack.took() == [
        ("convert", EX, QUECVT | VALBLK, None),
        ("unlock", VALBLK, b"other"),
    ]


def test_flags_where_the_block_is_invalid(connect: Callable[..., BlockingLocks]) -> None:
    dying, locks = connect(), connect()
    dead, lk, stack = dying.open("r"), locks.open("r"), stack_of(locks)
    with dead:
        dead.lvb = b"value"
    dead.acquire()
    stack_of(dying).abandon()
    for mode in (PR, PW, EX):
        lk.acquire(mode=mode)
        assert not lk.lvb_valid
        lk.release()
    stack.took()
    lk.acquire()
    lk.convert(PW)
    lk.convert(PR)
    lk.convert(EX)
    lk.close()
    assert stack.took() == [
        ("convert", EX, QUECVT | VALBLK, None),
        ("convert", PW, VALBLK | IVVALBLK, None),
        ("convert", PR, VALBLK | IVVALBLK, None),
        ("convert", EX, QUECVT | VALBLK, None),
        ("unlock", VALBLK | IVVALBLK, None),
    ]


@pytest.mark.parametrize("held", [CR, CW, PR, PW, EX])
@pytest.mark.parametrize("mode", [CR, CW, PR, PW, EX])
def test_every_conversion_is_one_the_lock_manager_takes(
    connect: Callable[..., BlockingLocks], held: Mode, mode: Mode
) -> None:
    lk = connect().open("r")
    assert lk.acquire(mode=held) and lk.convert(mode) and lk.granted is mode
    lk.release()


# Stacks that can do less.


def test_without_conversions(connect: Callable[..., BlockingLocks], other: Any) -> None:
    locks, holder = connect("convert"), other.open("r")  # the resource outlives our locks on it
    lk, stack = locks.open("r"), stack_of(locks)

    def ours() -> list[int]:
        return [k.lkid for k in other.dump("r") if k.client == stack.this_node]

    assert lk.lkid == 0 and not ours()
    for mode in (EX, PR):
        with lk.held(mode):
            assert lk.granted is mode and lk.token and ours() == [lk.lkid]
            if mode is EX:
                lk.lvb = b"value"
            assert lk.lvb.startswith(b"value")
            assert not lk.acquire(timeout=0)
            with pytest.raises(pydlm.Unsupported, match="'test' cannot change the mode"):
                lk.convert(PW)
        assert (lk.granted, lk.lkid, lk.locked()) == (NL, 0, False)
        assert not ours()
    assert stack.took() == [
        ("lock", EX, VALBLK),
        ("unlock", VALBLK, b"value"),
        ("lock", PR, VALBLK),
        ("unlock", VALBLK, None),
    ]
    holder.acquire()
    assert not lk.acquire(False) and not lk.acquire(timeout=0.01) and not ours()
    waiter = Thread(lk.acquire)
    until(lambda: lk.requested)
    assert lk.cancel()
    with pytest.raises(pydlm.Cancelled):
        waiter.result()
    for end in (holder.release, lk.close):
        waiter = Thread(lk.acquire)
        until(ours)
        end()
        with contextlib.suppress(pydlm.Closed):
            assert waiter.result() is True
            lk.release()
            holder.acquire()
    until(lambda: not ours())
    assert locks.dispatch() == []


def test_without_six_modes(connect: Callable[..., BlockingLocks]) -> None:
    locks = connect("modes6")
    lk, stack = locks.open("r"), stack_of(locks)
    with lk.held(PR):
        assert lk.convert(EX) and lk.convert(PR)
    with pytest.raises(pydlm.Unsupported, match="cannot lock in CW; use PR or EX"):
        lk.acquire(mode=CW)
    assert {request[1] for request in stack.took() if request[0] != "unlock"} == {PR, EX}


def test_without_value_blocks(connect: Callable[..., BlockingLocks]) -> None:
    locks = connect("lvb", "ivvalblk")
    lk, stack = locks.open("r"), stack_of(locks)
    with lk:
        for use in (lambda: lk.lvb, lambda: lk.lvb_valid, lambda: setattr(lk, "lvb", b"")):
            with pytest.raises(pydlm.Unsupported, match="cannot keep lock value blocks"):
                use()
    lk.close()
    assert [request[-2] & VALBLK for request in stack.took()[1:3]] == [0, 0]


@pytest.mark.parametrize(
    ("ability", "use"),
    [
        ("trylock", lambda lk: lk.acquire(False)),
        ("cancel", lambda lk: lk.acquire(timeout=1)),
        ("fencing", lambda lk: lk.token),
        ("bast", lambda lk: lk.blocked),
        ("bast", lambda lk: lk.fileno()),
    ],
)
def test_without_others(
    connect: Callable[..., BlockingLocks], ability: str, use: Callable[[StackLock], object]
) -> None:
    lk = connect(ability).open("r")
    with pytest.raises(pydlm.Unsupported, match=f"the stack 'test' cannot .*lacks '{ability}'"):
        use(lk)
    with lk:
        assert lk.locked()


def test_deadlock_where_others_cannot_be_seen(
    connect: Callable[..., BlockingLocks], other: Any
) -> None:
    lk, rival = connect("dump").open("r"), other.open("r")
    lk.acquire(mode=PR)
    rival.acquire(mode=PR)
    converter = Thread(rival.convert, EX)
    until(lambda: rival.requested)
    with pytest.raises(pydlm.DeadlockError) as caught:
        lk.convert(EX)
    assert len(caught.value.cycle) == 1
    lk.release()
    assert converter.result()
