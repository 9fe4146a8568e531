"""The page about cached locks says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import pydlm
from pydlm.cached import state
from pydlm.cached.actions import State

PAGE = (Path(__file__).parents[2] / "docs" / "cached.md").read_text()


def test_every_state_is_in_both_tables() -> None:
    for flag in State:
        if flag:
            assert f"| `{flag.name}` |" in PAGE
            assert re.search(rf"^{flag.name} ", state.__doc__ or "", re.MULTILINE)


def test_its_programs_run() -> None:
    program, reading = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(program, {})
    with pydlm.connect("orders") as ls:
        config = ls.cached("config", codec="<QI")
        names = {
            "pydlm": pydlm,
            "config": config,
            "load": lambda version: version,
            "rebuild": lambda: (1, 2),
        }
        exec(reading, names)
        dying = pydlm.connect("orders")
        with dying.cached("config").exclusive():
            dying._cached._keeper.stack.abandon()  # type: ignore[union-attr,attr-defined]
        dying.close()
        assert names["read_config"]() == (1, 2)  # type: ignore[operator]
