"""Each test gets a directory of its own for its lockspaces."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.host.case import Case
from tests.host.machine import Host


@pytest.fixture
def host() -> Iterator[Host]:
    directory = Path(tempfile.mkdtemp(prefix="pydlm-test-", dir="/dev/shm"))
    made = Host(directory)
    yield made
    made.end()
    shutil.rmtree(directory)


@pytest.fixture
def path(host: Host) -> Path:
    """Where the lockspace of that name lies."""
    return host.directory / f"{host.name}.dlm"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    held = pytest.mark.filterwarnings("ignore:.* was held when its last:ResourceWarning")
    for item in items:
        if item.path.is_relative_to(os.path.dirname(__file__)):
            item.add_marker(held)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    def below(case: type) -> list[type]:
        return [d for c in case.__subclasses__() for d in [c, *below(c)]]

    if "case" in metafunc.fixturenames:
        cases = [case for case in below(Case) if case.__module__ == metafunc.module.__name__]
        metafunc.parametrize("case", cases, ids=[case.__name__ for case in cases])
