"""CPython's own tests of threading.Lock, on pydlm's locks."""

from __future__ import annotations

import itertools
import unittest
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pydlm import Lockspace
from pydlm.blocking import BlockingLocks
from pydlm.stacks.local import LocalStack

# Distributions like to leave Python's tests out of their packages.
lock_tests: Any = pytest.importorskip(
    "test.lock_tests", reason="this Python comes without its tests"
)

#: Not run, and why.
EXCLUDED = {
    "test_at_fork_reinit": "calls _at_fork_reinit(), which is internal to CPython; "
    "after a fork, the child's handles are dead",
}

TESTS = [
    name
    for name in unittest.defaultTestLoader.getTestCaseNames(lock_tests.LockTests)
    if name not in EXCLUDED
]


def test_exclusions_are_needed() -> None:
    assert set(EXCLUDED) <= set(dir(lock_tests.LockTests))
    assert len(TESTS) >= 15


@pytest.fixture(params=["native", "made of verbs"])
def locktype(request: pytest.FixtureRequest) -> Iterator[Callable[[], object]]:
    """What the tests call to make a lock; every call makes one of its own."""
    stack = LocalStack.connect("cpython")
    names = map(str, itertools.count())
    if request.param == "native":
        with Lockspace("cpython", stack) as ls:
            yield lambda: ls.lock(next(names))
    else:
        locks = BlockingLocks(stack, "tests")
        yield lambda: locks.open(next(names))
        locks.disconnect()


@pytest.mark.filterwarnings("ignore:.* was held when its last ref:ResourceWarning")
@pytest.mark.parametrize("name", TESTS)
def test_as_threading_lock(name: str, locktype: Callable[[], object]) -> None:
    class Test(lock_tests.LockTests):  # type: ignore[misc]
        pass

    Test.locktype = staticmethod(locktype)
    result = unittest.TestResult()
    Test(name).run(result)
    for _, problem in result.errors + result.failures:
        pytest.fail(problem, pytrace=False)
    assert result.testsRun == 1 and not result.skipped, result.skipped
