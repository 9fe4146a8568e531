"""An exception that a signal handler raises anywhere within the locks made of verbs.

CPython runs signal handlers where a function is entered, where a call returns, and where a loop
jumps back. Each of these places in turn is struck here, by a trace function instead of a signal.
"""

from __future__ import annotations

import contextlib
import dis
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from tests.blocking.threads import SOON, until
from tests.verbs import Verbs

import pydlm
import pydlm.blocking
from pydlm import Lockspace, Mode
from pydlm.stacks.local import LocalStack

CODE = str(Path(pydlm.blocking.__file__).parent)


class Strike(BaseException):
    pass


class Striker:
    """Raises at the `n`th place where a signal handler could."""

    def __init__(self, n: int) -> None:
        self.left = n
        self.after_call: dict[FrameType, bool] = {}
        self.where = ""

    def trace(self, frame: FrameType, event: str, _: object) -> Any:
        if not frame.f_code.co_filename.startswith(CODE) or frame.f_code.co_name == "__del__":
            return None
        if event == "call":
            frame.f_trace_opcodes = True
            frame.f_trace_lines = False
            self.place(frame)
        elif event == "opcode":
            name = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            # The place is the call's own, also if what follows it is outside of the `try`.
            if self.after_call.pop(frame, False) and not name.startswith("RETURN"):
                self.place(frame)
            if name.startswith(("CALL", "JUMP_BACKWARD")):
                self.after_call[frame] = True
        return self.trace

    def place(self, frame: FrameType) -> None:
        self.left -= 1
        if self.left == 0:
            self.where = f"{frame.f_code.co_qualname}:{frame.f_lineno}"
            raise Strike(self.where)

    def __enter__(self) -> None:
        sys.settrace(self.trace)

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)


@pytest.fixture
def lk_and_other() -> Iterator[tuple[Any, Any]]:
    """A lock made of verbs, and a native one on the same resource."""
    with (
        Lockspace("tests", Verbs(deadlock_wait=None)) as ls,  # type: ignore[arg-type]
        Lockspace("tests", LocalStack.connect("tests", deadlock_wait=None)) as other,
    ):
        yield ls.lock("r"), other.lock("r")


def everywhere(act: Callable[[], object], check: Callable[[str], object]) -> None:
    """Strike `act` at each place in turn; `check` after each."""
    for n in range(1, 100_000):
        striker = Striker(n)
        try:
            with striker:
                act()
        except Strike:
            check(striker.where)
            continue
        assert not striker.where, f"the exception of {striker.where} was lost"
        check("")
        return


@pytest.mark.skipif(sys.version_info < (3, 11), reason="other opcodes")
@pytest.mark.parametrize("how", ["acquire", "with", "held", "timeout"])
def test_acquire(lk_and_other: tuple[Any, Any], how: str) -> None:
    lk, other = lk_and_other

    def act() -> None:
        if how == "acquire":
            lk.acquire()
        elif how == "with":
            lk.__enter__()
        elif how == "held":
            lk.held(Mode.EX).__enter__()
        else:
            lk.acquire(timeout=SOON)

    def check(where: str) -> None:
        if not where:
            assert lk.locked()
            return
        until(lambda: lk.requested is None)
        assert not lk.locked(), where
        assert other.acquire(timeout=SOON), where
        other.release()
        assert lk.acquire(timeout=SOON), where
        lk.release()

    everywhere(act, check)
    lk.release()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="other opcodes")
def test_acquire_that_has_to_wait(lk_and_other: tuple[Any, Any]) -> None:
    lk, other = lk_and_other

    def act() -> None:
        with contextlib.suppress(pydlm.LockTimeout), lk.held(timeout=0.0001):
            pytest.fail("somebody else has it")

    def check(where: str) -> None:
        until(lambda: lk.requested is None)
        assert not lk.locked(), where
        other.release()
        assert lk.acquire(timeout=SOON), where
        lk.release()
        other.acquire()

    other.acquire()
    everywhere(act, check)
    other.release()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="other opcodes")
def test_release(lk_and_other: tuple[Any, Any]) -> None:
    lk, other = lk_and_other

    def check(where: str) -> None:
        if lk.locked():
            lk.release()
        assert other.acquire(timeout=SOON), where
        other.release()
        assert lk.acquire(timeout=SOON), where

    lk.acquire()
    everywhere(lk.release, check)
    lk.release()


@pytest.mark.skipif(sys.version_info < (3, 11), reason="other opcodes")
def test_convert(lk_and_other: tuple[Any, Any]) -> None:
    lk, other = lk_and_other

    def check(where: str) -> None:
        assert lk.granted is (Mode.PR if where else Mode.EX), where
        lk.release()
        assert other.acquire(timeout=SOON), where
        other.release()
        lk.acquire(mode=Mode.PR)

    lk.acquire(mode=Mode.PR)
    everywhere(lambda: lk.convert(Mode.EX), check)
    lk.release()
