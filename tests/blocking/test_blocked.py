"""Who is in the way, and the events that tell of it."""

from __future__ import annotations

import pytest
from tests.blocking.threads import SOON, Thread, readable, until

from pydlm import Blocked, Completion, Lockspace, Mode, NodeDown

pytestmark = pytest.mark.filterwarnings("ignore:.* was held when its last ref:ResourceWarning")

NL, CR, CW, PR, PW, EX = Mode


def test_blocked(a: Lockspace, b: Lockspace) -> None:
    one, two, three = a.lock("r"), b.lock("r"), b.lock("r")
    one.acquire()
    assert one.blocked is None and not readable(one)
    reader = Thread(two.acquire, mode=PR)
    assert readable(one, SOON) and readable(one)  # though no thread of `a` waits for anything
    assert one.blocked is PR and two.blocked is None
    writer = Thread(three.acquire, mode=PW)
    until(lambda: one.blocked is PW)
    one.convert(PR)  # this lets the reader in, but not the writer
    assert reader.result() is True
    until(lambda: one.blocked is two.blocked is PW)
    assert readable(one, SOON)
    one.release()
    assert one.blocked is None and not readable(one)
    two.release()
    assert writer.result() is True and two.blocked is None
    assert one.fileno() == one.fileno()


def test_blocked_by_a_request_that_does_not_wait(a: Lockspace, b: Lockspace) -> None:
    one, two = a.lock("r"), b.lock("r")
    one.acquire()
    assert not two.acquire(False)
    assert one.blocked is None and not readable(one)


def test_events(a: Lockspace, b: Lockspace) -> None:
    one, two, three = a.lock("r"), b.lock("r"), a.lock("s")
    assert a.dispatch() == [] and not readable(a)
    one.acquire()
    three.acquire(mode=PR)
    waiting = Thread(two.acquire, mode=PR)
    assert readable(a, SOON)
    until(lambda: one.blocked)
    assert a.dispatch() == [Blocked(one.lkid, PR, one)]
    assert a.dispatch() == [] and not readable(a)
    other = Thread(b.lock("s").acquire)
    assert readable(a, SOON)
    until(lambda: three.blocked)
    assert a.dispatch(1) == [Blocked(three.lkid, EX, three)]
    one.release()
    three.release()
    assert waiting.result() and other.result()
    assert [e for e in b.dispatch() if isinstance(e, Completion)] == []
    lkid = b.stack.lock(b"t", EX)
    assert readable(b, SOON)
    (event,) = b.dispatch()
    assert isinstance(event, Completion) and event[:2] == (lkid, 0)
    died = b.node
    b.stack.abandon()  # type: ignore[attr-defined]
    assert readable(a, SOON)
    until(lambda: a.dispatch() == [NodeDown(died)])
