"""`with`: the exception of its body is what comes out of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.verbs import Verbs

import pydlm
from pydlm import Lockspace, Mode


class Body(Exception):
    pass


@pytest.fixture
def ls() -> Iterator[Lockspace]:
    with Lockspace("tests", Verbs()) as ls:  # type: ignore[arg-type]
        yield ls


ENDS: dict[str, Callable[[Lockspace, Any], None]] = {
    "release": lambda ls, lk: lk.release(),
    "close": lambda ls, lk: lk.close(),
    "disconnect": lambda ls, lk: ls.close(),
}


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_the_body_comes_first(ls: Lockspace, end: str, held: bool) -> None:
    lk = ls.lock("r")
    with pytest.raises(Body) as caught, lk.held(Mode.PR) if held else lk:
        ENDS[end](ls, lk)
        raise Body
    assert caught.value.__context__ is None


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("end", ENDS)
def test_else_the_end_is_told(ls: Lockspace, end: str, held: bool) -> None:
    lk = ls.lock("r")
    with pytest.raises((pydlm.NotHeld, pydlm.Closed)), lk.held(Mode.PR) if held else lk:
        ENDS[end](ls, lk)


def test_other_errors_of_the_release_are_raised(ls: Lockspace) -> None:
    stack: Any = ls.stack
    lk = ls.lock("r")
    with pytest.raises(pydlm.LockLost), lk:
        stack.failing["dispatch"] = pydlm.LockLost("no answer")
        raise Body
    stack.failing.clear()
    ls.dispatch()  # now it is told
    assert not lk.locked() and lk.requested is None
