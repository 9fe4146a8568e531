"""Checks of lock value blocks."""

from __future__ import annotations

from functools import partial

from pydlm.errors import BadArgument, LVBInvalid, NotHeld
from pydlm.testing.conformance.ground import PATIENCE, Ground, check, expect, expect_error
from pydlm.types import EUNLOCK, LockFlag, Mode

__all__: list[str] = []


@check("lvb")
def _block(g: Ground) -> None:
    """What a writer leaves, the next one reads, at constant length."""
    name = g.name()
    one, other = g.locks(name)
    size = g.a.lvb_len
    expect(g.b.lvb_len, size, "lvb_len of the other connection")
    one.acquire()
    one.lvb = b"first"
    one.release()
    other.acquire(timeout=PATIENCE)
    expect(other.lvb, b"first".ljust(size, b"\0"), "the block")
    other.lvb = bytes(range(size))
    other.release()
    for lock in (one, other):
        lock.acquire(timeout=PATIENCE, mode=Mode.PR)
        expect((lock.lvb, lock.lvb_valid), (bytes(range(size)), True), "the block, by a reader")
    one.release()
    other.release()


@check("lvb")
def _block_refused(g: Ground) -> None:
    """What cannot be written is refused, and changes nothing."""
    name = g.name()
    one, other = g.locks(name)
    for lock in (one, other):
        expect_error(NotHeld, partial(getattr, lock, "lvb"), "reading the block of a lock not held")
    one.acquire()
    one.lvb = b"kept"
    expect_error(
        BadArgument, lambda: setattr(one, "lvb", bytes(g.a.lvb_len + 1)), "a block too long"
    )
    one.release()
    other.acquire(timeout=PATIENCE, mode=Mode.PR)
    expect_error(NotHeld, lambda: setattr(other, "lvb", b"x"), "writing the block in PR")
    expect(other.lvb.rstrip(b"\0"), b"kept", "the block")
    other.release()


@check("lvb", "ivvalblk")
def _block_invalid(g: Ground) -> None:
    """A block that is not valid is not given out, until somebody writes it."""
    name = g.name()
    g.take(g.b, name, Mode.NL, LockFlag(0))  # so that the resource lasts
    _, keeps = g.locks(name)
    with keeps:
        keeps.lvb = b"before"
    lkid = g.take(g.a, name, Mode.EX, LockFlag.VALBLK)
    g.a.stack.unlock(lkid, LockFlag.IVVALBLK)
    expect(g.completion(g.a, lkid).status, EUNLOCK, "the status of an unlock")
    keeps.acquire(timeout=PATIENCE)
    expect(keeps.lvb_valid, False, "validity after IVVALBLK")
    expect_error(LVBInvalid, lambda: keeps.lvb, "reading an invalid block")
    keeps.release()
    keeps.acquire()
    expect(keeps.lvb_valid, False, "validity after a holder that wrote nothing")
    keeps.lvb = b"rebuilt"
    keeps.release()
    keeps.acquire(mode=Mode.PR)
    expect((keeps.lvb_valid, keeps.lvb[:7]), (True, b"rebuilt"), "the block that was written")
    keeps.release()
