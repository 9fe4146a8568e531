"""Checks of handles: who gets a lock and who waits."""

from __future__ import annotations

import select

from pydlm.contract import Lock
from pydlm.errors import Cancelled, Closed, DeadlockError, NotHeld
from pydlm.testing.conformance.ground import PATIENCE, SOON, Ground, check, expect, expect_error
from pydlm.types import Mode

__all__: list[str] = []

PR, EX = Mode.PR, Mode.EX


@check()
def _exclusion(g: Ground) -> None:
    """EX excludes everybody, PR shares with PR."""
    name = g.name()
    one, other = g.locks(name)
    expect(one.acquire(), True, "acquire of a free lock")
    expect((one.granted, one.locked()), (EX, True), "the mode held")
    for mode in (EX, PR):
        expect(other.acquire(timeout=SOON, mode=mode), False, f"{mode.name} beside EX")
        expect((other.granted, other.locked()), (Mode.NL, False), "after a time-out")
    one.release()
    for lock in (one, other):
        expect(lock.acquire(timeout=PATIENCE, mode=PR), True, "PR beside PR")
    other.release()
    expect(other.acquire(timeout=SOON), False, "EX beside PR")
    one.release()
    expect(other.acquire(timeout=PATIENCE), True, "EX of a lock that was let go")
    other.release()
    expect_error(NotHeld, other.release, "release of what is not held")


@check()
def _waiting(g: Ground) -> None:
    """Who waits is granted when the holder lets go."""
    name = g.name()
    one, other = g.locks(name)
    one.acquire()
    call = g.waiting(other, other.acquire)
    expect(other.requested, EX, "what is waited for")
    one.release()
    expect(call.result(), True, "acquire that has waited")
    expect((other.granted, other.requested), (EX, None), "the lock")
    other.release()


@check("trylock")
def _trylock(g: Ground) -> None:
    """A request that does not wait fails where others hold the lock, and leaves nothing."""
    name = g.name()
    one, other = g.locks(name)
    one.acquire(mode=PR)
    expect(other.acquire(blocking=False), False, "EX without waiting beside PR")
    expect(other.acquire(blocking=False, mode=PR), True, "PR without waiting beside PR")
    other.release()
    one.release()
    one, _ = g.locks(g.name())  # a node may keep for itself what it has let go
    expect(one.acquire(blocking=False), True, "EX without waiting of a free lock")
    one.release()


@check("modes6", "trylock")
def _compatibility(g: Ground) -> None:
    """The six modes share and exclude each other as in every DLM."""
    rank = {Mode.CR: "CR CW PR PW", Mode.CW: "CR CW", PR: "CR PR", Mode.PW: "CR", EX: ""}
    for held, beside in rank.items():
        one, other = g.locks(g.name())
        one.acquire(mode=held)
        for mode in rank:
            had = other.acquire(blocking=False, mode=mode)
            expect(had, mode.name in beside.split(), f"{mode.name} beside {held.name}")
            if had:
                other.release()
        one.release()


@check("convert", "trylock")
def _conversion(g: Ground) -> None:
    """A lock changes its mode in place, and keeps the old one if it cannot."""
    name = g.name()
    one, other = g.locks(name)
    one.acquire()
    call = g.waiting(other, lambda: other.acquire(mode=PR))
    one.convert(PR)
    expect(call.result(), True, "PR after EX was converted to PR")
    expect(one.convert(EX, blocking=False), False, "conversion to EX beside PR")
    expect(one.convert(EX, timeout=SOON), False, "conversion to EX beside PR, with a time-out")
    expect(one.granted, PR, "the mode after a conversion that failed")
    other.release()
    expect(one.convert(EX, timeout=PATIENCE), True, "conversion of the only lock")
    one.release()


@check("cancel")
def _cancel(g: Ground) -> None:
    """A request that is taken back leaves nothing behind."""
    name = g.name()
    (one, other), (_, third) = g.locks(name), g.locks(name)
    one.acquire()
    call = g.waiting(other, other.acquire)
    expect(other.cancel(), True, "cancel of a request that waits")
    expect_error(Cancelled, call.result, "a wait that was cancelled")
    expect(other.cancel(), False, "cancel where nothing waits")
    one.release()
    expect(third.acquire(timeout=PATIENCE), True, "the lock after all that")
    third.release()


@check()
def _close(g: Ground) -> None:
    """Closing a handle releases, and ends its waits."""
    name = g.name()
    (one, other), (third, _) = g.locks(name), g.locks(name)
    one.acquire()
    call = g.waiting(other, other.acquire)
    other.close()
    other.close()
    expect_error(Closed, call.result, "a wait on a handle that was closed")
    expect_error(Closed, other.acquire, "acquire by a closed handle")
    one.close()
    expect(third.acquire(timeout=PATIENCE), True, "the lock of a handle that was closed")
    third.release()


@check("bast")
def _told(g: Ground) -> None:
    """A holder's descriptor is readable as long as somebody wants what it holds."""
    name = g.name()
    one, other = g.locks(name)
    one.acquire()
    expect((one.blocked, select.select([one], [], [], 0)[0]), (None, []), "with nobody waiting")
    call = g.waiting(other, other.acquire)
    expect(bool(select.select([one], [], [], PATIENCE)[0]), True, "the descriptor is readable:")
    expect(one.blocked, EX, "what is wanted")
    one.release()
    expect(call.result(), True, "acquire by who waited")
    expect(select.select([one], [], [], 0)[0], [], "the descriptor after the release")
    other.release()


@check("bast", "cancel", "convert", "modes6")
def _cached(g: Ground) -> None:
    """A cached lock is kept until somebody else asks."""
    name, dropped = g.name(), list[Mode]()
    mine = g.a.cached(name, on_drop=lambda _, level: dropped.append(level))
    with mine.exclusive(timeout=PATIENCE):
        pass
    expect(mine.level, EX, "the level of a cached lock that nobody asked for")
    with g.b.cached(name).shared(timeout=PATIENCE):
        expect((dropped, mine.level), ([PR], PR), "what on_drop was told, and the level")
    mine.close()


@check("deadlock")
def _deadlock(g: Ground) -> None:
    """Of two that wait for each other on two resources, one is told."""
    first, second = g.name(), g.name()
    here, there = zip(g.locks(first), g.locks(second), strict=True)
    here[0].acquire()
    got = list[str]()

    def take(lock: Lock) -> None:
        try:
            lock.acquire()
        except DeadlockError:
            got.append("told")
        else:
            lock.release()

    def other_way() -> None:
        there[1].acquire()
        got.append("second")
        take(there[0])
        there[1].release()

    call = g.waiting(there[0], other_way)
    take(here[1])
    here[0].release()
    call.result()
    expect(got, ["second", "told"], "what happened")
