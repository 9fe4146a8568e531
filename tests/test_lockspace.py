"""What a Lockspace takes and refuses, whatever it is on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from tests.verbs import Verbs

import pydlm
from pydlm import Lock, Lockspace, Mode
from pydlm.stacks.local import LocalStack


@pytest.fixture(params=["native", "verbs"])
def ls(request: pytest.FixtureRequest) -> Iterator[Lockspace]:
    stack: Any = LocalStack.connect("tests") if request.param == "native" else Verbs()
    with Lockspace("tests", stack) as ls:
        yield ls


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((b"x",), "the name of a lockspace is str, not bytes"),
        ((None,), "the name of a lockspace is str, not NoneType"),
        ((5,), "the name of a lockspace is str, not int"),
        (("x", 5), "stack is 'name' or 'name:locator', a str, not int"),
        (("x", b"local"), "stack is 'name' or 'name:locator', a str, not bytes"),
    ],
)
def test_connect_wants_text(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        pydlm.connect(*arguments)


def test_closed(ls: Lockspace) -> None:
    lk = ls.lock("r")
    ls.close()
    for use in (ls.__enter__, ls.dispatch, ls.fileno, lambda: ls.lock("r"), lk.acquire):
        with pytest.raises(pydlm.Closed, match=r"^the connection to lockspace 'tests' is closed$"):
            use()


@pytest.mark.parametrize("limit", ["x", 1.5, None])
def test_limits(ls: Lockspace, limit: Any) -> None:
    with pytest.raises(TypeError):
        ls.dispatch(limit)


@pytest.mark.parametrize("timeout", [Decimal("0.001"), Fraction(1, 1000), 0, True])
def test_timeouts(ls: Lockspace, timeout: Any) -> None:
    lk, other = ls.lock("r"), ls.lock("r")
    with lk:
        assert not lk.acquire(timeout=timeout) and not other.acquire(timeout=timeout)
        with pytest.raises(pydlm.LockTimeout), other.held(timeout=timeout):
            pass


@pytest.mark.parametrize("timeout", ["1", b"1", None, 1j])
def test_no_timeouts(ls: Lockspace, timeout: Any) -> None:
    with pytest.raises(TypeError):
        ls.lock("r").acquire(timeout=timeout)
    with pytest.raises(TypeError):
        ls.lock("r").held(timeout=timeout)


# The search for deadlocks.


def test_deadlock_wait(ls: Lockspace) -> None:
    assert ls.deadlock_wait == 1.0
    for seconds in (None, 0, 2.5):
        ls.deadlock_wait = seconds
        assert ls.deadlock_wait == seconds


def test_deadlock_wait_of_a_stack_without_one() -> None:
    class Plain(Verbs):
        def __getattr__(self, name: str) -> Any:
            if name == "deadlock_wait":
                raise AttributeError(name)
            return super().__getattr__(name)

    with Lockspace("tests", Plain()) as ls:  # type: ignore[arg-type]
        with pytest.raises(pydlm.Unsupported, match="the stack 'verbs' has no deadlock_wait"):
            _ = ls.deadlock_wait
        with pytest.raises(pydlm.Unsupported, match="the stack 'verbs' has no deadlock_wait"):
            ls.deadlock_wait = 1


# What a lock is.


def test_is_a_lock(ls: Lockspace) -> None:
    lk = ls.lock("r")
    assert isinstance(lk, Lock)  # not held: its block cannot be read
    with lk:
        assert isinstance(lk, Lock)
    lk.close()
    assert isinstance(lk, Lock)
    assert not isinstance(ls, Lock)


def test_locks_of_others() -> None:
    class Theirs:
        pass

    assert not isinstance(Theirs(), Lock)
    Lock.register(Theirs)
    assert isinstance(Theirs(), Lock)
    with pytest.raises(TypeError, match="abstract"):
        Lock()  # type: ignore[abstract]


def test_every_kind_has_all_of_it(ls: Lockspace) -> None:
    assert not [name for name in Lock.__abstractmethods__ if not hasattr(type(ls.lock("r")), name)]


@pytest.mark.parametrize("arguments", [(Mode.PR,), (True, Mode.PR)])
def test_mode_is_a_keyword(arguments: tuple[Any, ...]) -> None:
    with Lockspace("tests", Verbs()) as ls:  # type: ignore[arg-type]
        lk = ls.lock("r")
        with pytest.raises(TypeError, match=r"^mode is a keyword: acquire\(mode=Mode.PR\)$"):
            lk.acquire(*arguments)
        assert not lk.locked()
