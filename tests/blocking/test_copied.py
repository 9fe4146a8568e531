"""A handle is one: what would make a second one of it is refused, and half of one does no harm."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.verbs import Verbs

from pydlm import Lockspace, Mode
from pydlm.blocking import StackLock
from pydlm.stacks.local import LocalStack

DUPLICATORS: list[Callable[[Any], object]] = [
    copy.copy,
    copy.deepcopy,
    *(lambda thing, n=n: pickle.dumps(thing, n) for n in range(pickle.HIGHEST_PROTOCOL + 1)),
]


@pytest.fixture(params=["native", "verbs"])
def ls(request: pytest.FixtureRequest) -> Iterator[Lockspace]:
    stack: Any = LocalStack.connect("tests") if request.param == "native" else Verbs()
    with Lockspace("tests", stack) as ls:
        yield ls


@pytest.mark.parametrize("duplicate", DUPLICATORS)
def test_refused(ls: Lockspace, duplicate: Callable[[Any], object]) -> None:
    lk = ls.lock("r")
    with lk:
        for thing in (lk, ls):
            with pytest.raises(TypeError):
                duplicate(thing)
        gc.collect()
        assert not ls.lock("r").acquire(blocking=False)
        assert lk.granted is Mode.EX


def test_refusals_say_what_to_do() -> None:
    with Lockspace("tests", Verbs()) as ls:  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="open another one by its name"):
            copy.copy(ls.lock("r"))
        with pytest.raises(TypeError, match="connect\\(\\) again"):
            copy.copy(ls)


@pytest.mark.filterwarnings("error")  # also what is raised in __del__
def test_never_made() -> None:
    lk = StackLock.__new__(StackLock)
    del lk
    gc.collect()


def test_no_attributes_of_the_user_and_no_heirs(ls: Lockspace) -> None:
    lk = ls.lock("r")
    with pytest.raises(AttributeError):
        lk.remark = "mine"  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        type("Mine", (type(lk),), {})
