"""Each test runs on asyncio's own loop and, where it is installed, on uvloop's."""

from __future__ import annotations

import asyncio
from importlib.util import find_spec

import pytest
from tests.aio import case

LOOPS = ["asyncio"] + ["uvloop"] * (find_spec("uvloop") is not None)


@pytest.fixture(scope="session", autouse=True)
def descriptors_for_good() -> None:
    """libuv opens a pipe with the first loop, and keeps it."""
    if "uvloop" in LOOPS:
        import uvloop

        uvloop.new_event_loop().close()


@pytest.fixture(autouse=True, params=LOOPS)
def loops(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    new_loop = asyncio.new_event_loop
    if request.param == "uvloop":
        import uvloop

        new_loop = uvloop.new_event_loop
    monkeypatch.setattr(case, "new_loop", new_loop)
