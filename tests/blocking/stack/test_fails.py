"""The stack raises where it should not: what can be released is, and nothing is held unseen."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.verbs import Verbs

import pydlm
from pydlm import Lockspace, Mode
from pydlm.stacks.local import LocalStack

pytestmark = pytest.mark.filterwarnings("ignore:.* was held when its last ref:ResourceWarning")

SOON = 10.0
LOST = pydlm.LockLost("no answer")


@pytest.fixture
def stack() -> Iterator[Verbs]:
    stack = Verbs(deadlock_wait=None)
    yield stack
    stack.inner.disconnect()


@pytest.fixture
def ls(stack: Verbs) -> Iterator[Lockspace]:
    ls = Lockspace("tests", stack)  # type: ignore[arg-type]
    yield ls
    stack.failing.clear()
    ls.close()


@pytest.fixture
def other() -> Iterator[Lockspace]:
    with Lockspace("tests", LocalStack.connect("tests", deadlock_wait=None)) as ls:
        yield ls


# No events.


def enter_held(lk: Any) -> None:
    lk.held(Mode.PR).__enter__()


@pytest.mark.parametrize("error", [LOST, OSError("no answer")])
@pytest.mark.parametrize("take", [lambda lk: lk.acquire(), lambda lk: lk.__enter__(), enter_held])
def test_acquire_without_its_grant(
    ls: Lockspace, other: Lockspace, stack: Verbs, take: Callable[[Any], None], error: Exception
) -> None:
    lk, rival = ls.lock("r"), other.lock("r")
    stack.failing["dispatch"] = error
    with pytest.raises(type(error), match="no answer"):
        take(lk)
    # Nobody calls anything on that connection, and its stack is silent still.
    assert rival.acquire(timeout=SOON) and not lk.locked()
    rival.release()
    stack.failing.clear()
    assert lk.acquire(timeout=SOON) and lk.granted is Mode.EX
    lk.release()
    assert rival.acquire(timeout=SOON)


def test_waits_without_an_answer(ls: Lockspace, other: Lockspace, stack: Verbs) -> None:
    """The request stands in the queue when the stack falls silent."""
    lk, rival, third = ls.lock("r"), other.lock("r"), other.lock("r")
    errors: list[BaseException] = []

    def wait() -> None:
        try:
            lk.acquire()
        except BaseException as error:
            errors.append(error)

    rival.acquire()
    thread = threading.Thread(target=wait)
    thread.start()
    assert select.select([rival], [], [], SOON)[0]  # there it stands
    stack.failing["dispatch"] = LOST
    rival.release()  # an event comes, and cannot be had
    thread.join(SOON)
    assert [type(error) for error in errors] == [pydlm.LockLost]
    errors.clear()
    assert third.acquire(timeout=SOON)
    third.release()
    stack.failing.clear()
    assert lk.acquire(timeout=SOON)
    lk.release()


def test_what_was_invalid_stays_so(ls: Lockspace, other: Lockspace, stack: Verbs) -> None:
    """Giving up a lock that nobody knew of makes no block valid."""
    lk, rival = ls.lock("r"), other.lock("r")
    with rival:
        rival.lvb = b"old"
    dying = LocalStack.connect("tests")
    dead = dying.open("r")
    dead.acquire()
    dying.abandon()
    stack.failing["dispatch"] = LOST
    with pytest.raises(pydlm.LockLost):
        lk.acquire()
    rival.acquire()
    assert not rival.lvb_valid
    rival.release()


def test_conversion_without_its_answer_keeps_the_lock(ls: Lockspace, stack: Verbs) -> None:
    lk = ls.lock("r")
    lk.acquire()
    stack.failing["dispatch"] = LOST
    with pytest.raises(pydlm.LockLost):
        lk.convert(Mode.PR)
    assert lk.locked()
    stack.failing.clear()
    ls.dispatch()
    assert lk.locked()
    lk.release()
    assert not lk.locked()


@pytest.mark.parametrize("error", [LOST, OSError("no answer")])
def test_close_without_an_answer(
    ls: Lockspace, other: Lockspace, stack: Verbs, error: Exception
) -> None:
    lk = ls.lock("r")
    lk.acquire()
    stack.failing["dispatch"] = error
    with contextlib.suppress(OSError):
        lk.close()
    assert other.lock("r").acquire(timeout=SOON)
    lk.close()
    with pytest.raises(pydlm.Closed):
        lk.acquire()


# What cannot be given up.


def test_close_of_a_lock_can_be_tried_again(ls: Lockspace, other: Lockspace, stack: Verbs) -> None:
    lk, rival = ls.lock("r"), other.lock("r")
    lk.acquire()
    lk.lvb = b"written"
    stack.failing["unlock"] = OSError("not now")
    with pytest.raises(OSError, match="not now"):
        lk.close()
    with pytest.raises(pydlm.Closed, match="the lock is closed"):
        lk.release()
    assert not lk.locked() and not rival.acquire(blocking=False)
    stack.failing.clear()
    lk.close()
    assert rival.acquire(timeout=SOON) and rival.lvb.startswith(b"written")
    stack.failing["unlock"] = OSError("never again")
    lk.close()


@pytest.mark.parametrize("verb", ["unlock", "disconnect"])
def test_close_of_a_lockspace_raises_once(
    ls: Lockspace, other: Lockspace, stack: Verbs, verb: str
) -> None:
    locks = [ls.lock(name) for name in "ab"]
    for lk in locks:
        lk.acquire()
    locks[0].fileno()  # this starts a thread
    stack.failing[verb] = OSError("not now")
    with pytest.raises(OSError, match="not now"):
        ls.close()
    for lk in locks:
        with pytest.raises(pydlm.Closed):
            lk.acquire()
    with pytest.raises(pydlm.Closed), ls:
        pass
    stack.failing.clear()
    ls.close()
    ls.close()
    assert not stack.inner.connected
    assert all(other.lock(name).acquire(timeout=SOON) for name in "ab")


@pytest.mark.parametrize("lacking", [(), ("convert",)])
def test_collected_with_a_silent_stack(other: Lockspace, lacking: tuple[str, ...]) -> None:
    stack = Verbs(*lacking, deadlock_wait=None)
    with Lockspace("tests", stack) as ls:  # type: ignore[arg-type]
        lk = ls.lock("r")
        stack.failing["dispatch"] = LOST
        with pytest.raises(pydlm.LockLost):
            lk.acquire()
        del lk
        stack.failing.clear()
        ls.dispatch()
        give_up = time.monotonic() + SOON
        while list(other.dump("r")):
            assert time.monotonic() < give_up
            ls.dispatch()
