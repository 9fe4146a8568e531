"""On other stacks: one that has nothing but verbs, and one that several processes share."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.blocking.stack.stack import TestStack
from tests.core.conftest import World
from tests.host.machine import Host
from tests.host.processes import Child

from pydlm import LockFlag, LVBInvalid, Mode
from pydlm.cached import CachedLock, CachedLocks

NL, PR, EX = Mode.NL, Mode.PR, Mode.EX
NOQUEUE, CANCEL, VALBLK, QUECVT, IVVALBLK, EXPEDITE = (
    LockFlag[name] for name in ("NOQUEUE", "CANCEL", "VALBLK", "QUECVT", "IVVALBLK", "EXPEDITE")
)

Open = Callable[..., CachedLock]


@pytest.fixture
def verbs() -> Iterator[Open]:
    """Opens the cached lock `r`, each time on a connection of its own that has only verbs."""
    made = []

    def open_(*lacking: str, **options: Any) -> CachedLock:
        locks = CachedLocks(lambda: TestStack(*lacking))  # type: ignore[arg-type,return-value]
        made.append(locks)
        return locks.open("r", options.get("on_drop"), True, None)

    yield open_
    for locks in made:
        locks.close()


def stack_of(lock: CachedLock) -> Any:
    return lock._keeper.stack


def test_hand_over_and_what_it_asks_for(verbs: Open) -> None:
    a, b = verbs(), verbs()
    assert stack_of(a).took() == [("lock", NL, EXPEDITE | VALBLK)]
    with a.exclusive():
        a.lvb = b"value"
    with b.shared():
        assert b.lvb.rstrip(b"\0") == b"value"
    with b.exclusive():
        pass
    assert stack_of(a).took() == [
        ("convert", EX, QUECVT | VALBLK, None),
        ("convert", EX, VALBLK, None),  # so that its death would be seen
        ("convert", PR, VALBLK, b"value"),
        ("convert", NL, VALBLK, None),
    ]
    a.close()
    assert stack_of(a).took() == [("unlock", VALBLK, None)]


def test_an_invalid_block_stays_invalid(verbs: Open) -> None:
    a, dying = verbs(), verbs()
    dying.exclusive().__enter__()
    stack_of(dying).abandon()
    with a.exclusive():
        pass
    stack_of(a).took()
    a.drop()
    assert stack_of(a).took() == [("convert", NL, VALBLK | IVVALBLK, None)]
    with a.exclusive(), pytest.raises(LVBInvalid):
        _ = a.lvb


@pytest.mark.parametrize("granted_first", [False, True])
def test_cancel_and_grant_cross(world: World, verbs: Open, granted_first: bool) -> None:
    """A time-out takes the request back; the grant may be on its way already."""
    a, b = verbs(), verbs()
    holds = a.exclusive()
    holds.__enter__()
    stack_of(b).took()
    wants = world.thread(b.exclusive(timeout=0.2).__enter__)
    world.until(lambda: a.blocked)
    stack_of(b).by_hand = granted_first
    if granted_first:
        holds.__exit__(None, None, None)
        world.until(lambda: a.level is NL)
    world.until(lambda: ("unlock", CANCEL, None) in stack_of(b).asked)
    stack_of(b).by_hand = False
    assert "within 0.2 seconds" in str(wants.error())
    if not granted_first:
        holds.__exit__(None, None, None)
    # Either way nothing is left that keeps the other one waiting.
    with a.exclusive(timeout=20):
        world.until(lambda: b.level is NL)
        assert b.exclusive_uses == 0


def test_a_stack_without_blocks(world: World, verbs: Open) -> None:
    a, b = verbs("lvb", "ivvalblk"), verbs()
    with a.exclusive(), pytest.raises(NotImplementedError):
        _ = a.lvb
    with b.shared():
        world.until(lambda: a.level is PR)


# Processes.


def test_two_processes(host: Host) -> None:
    """Each adds to a value of its own making: what is lost shows in the sum."""
    rounds = 200

    def body(child: Child) -> None:
        with host.connect() as ls:
            lock = ls.cached("r", codec="<Q")
            child.say()
            child.hear()
            for _ in range(rounds):
                with lock.exclusive(timeout=60):
                    lock.value = lock.value + 1
                with lock.shared(timeout=60):
                    assert lock.value
        child.say()

    children = [host.child(body) for _ in range(2)]
    lock = host.connect().cached("r", codec="<Q")
    for child in children:
        child.hear()
    for child in children:
        child.say()
    for child in children:
        child.hear()
        child.join()
    with lock.shared(timeout=60):
        assert lock.value == 2 * rounds


def test_a_process_is_killed_in_a_use(host: Host) -> None:
    def body(child: Child) -> None:
        ls = host.connect()
        lock = ls.cached("r")
        with lock.exclusive():
            lock.lvb = b"half"
            child.say()
            signal.pause()
        os._exit(1)

    lock = host.connect().cached("r")
    with lock.exclusive():
        lock.lvb = b"whole"
    child = host.child(body)
    child.hear()
    child.kill()
    with lock.shared(timeout=60), pytest.raises(LVBInvalid):
        _ = lock.lvb
    with lock.exclusive():
        lock.lvb = b"anew"
        assert lock.lvb_valid
