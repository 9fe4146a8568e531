"""Fixtures for programs that use pydlm, found by pytest where pydlm is installed.

A module of its own, since pytest imports it in each of its runs: importing anything of the package
would load the lock manager. What is done is in `pydlm.testing.nodes`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pydlm import Lockspace
    from pydlm.testing.nodes import Nodes

__all__ = ["dlm_lockspace", "dlm_nodes"]


def pytest_configure(config: pytest.Config) -> None:
    """Show who forgets a handle that is held: it is released with a warning nobody would see.

    Before the user's own filters, which so have the last word.
    """
    with contextlib.suppress(ValueError):  # a pytest that has been told to leave warnings alone
        config.getini("filterwarnings").insert(0, "always:<locked pydlm:ResourceWarning")


@pytest.fixture
def dlm_nodes() -> Iterator[Nodes]:
    """Several nodes of a lockspace of this test alone, on the local stack.

    ``a, b = dlm_nodes(2)`` are connections, as by `pydlm.connect`, and more can be had later;
    ``dlm_nodes.kill(b)`` lets one die, ``dlm_nodes.name`` is the lockspace's name.
    """
    from pydlm.testing.nodes import Nodes

    nodes = Nodes()
    yield nodes
    nodes.close()


@pytest.fixture
def dlm_lockspace() -> Iterator[Lockspace]:
    """A connection to a lockspace of this test alone, on the local stack; closed afterwards.

    A test that ends with one of its locks held, or waited for, fails. What a cached lock keeps does
    not count, a use of it that is under way does.
    """
    from pydlm.testing.nodes import Nodes

    nodes = Nodes()
    (lockspace,) = nodes(1)
    yield lockspace
    left = nodes.held(lockspace)
    nodes.close()
    if left:
        pytest.fail("locks left behind: " + "; ".join(left), pytrace=False)
