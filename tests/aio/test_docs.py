"""The page about asyncio: each of its programs runs, and no method of the table is missing."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from tests.aio import case

from pydlm import aio

PAGE = (Path(__file__).parents[2] / "docs" / "asyncio.md").read_text()


@pytest.mark.parametrize("program", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_its_programs_run(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asyncio, "run", case.run)
    exec(program, {"__name__": "page"})


def test_the_table_names_what_there_is() -> None:
    names = set(re.findall(r"`(?:await )?(?:lk)?\.(\w+)", PAGE))
    assert {"acquire", "convert", "wait_blocked", "release", "token", "locked"} <= names
    assert {name for name in names if not hasattr(aio.AsyncLock, name)} <= {"stack"}
