"""The source as the tools see it. Needs the extra `dev`; `-m "not lint"` leaves it out."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lint

ROOT = Path(__file__).parents[1]


def check(command: list[str | Path], cwd: Path = ROOT) -> None:
    """Run a tool of this environment; fail with what it says."""
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(done.stdout + done.stderr, pytrace=False)


@pytest.mark.parametrize(
    "command",
    [
        "ruff check .",
        "ruff format --check .",
        "cython-lint src/core",
        "mypy",
        "stubtest pydlm._core",
    ],
)
def test_tool_is_content(command: str) -> None:
    check(command.split())


def test_types_reach_the_user(tmp_path: Path) -> None:
    """A type checker sees pydlm's types from outside: py.typed and the stub are in place."""
    program = tmp_path / "program.py"
    program.write_text(
        "from typing_extensions import assert_type\n"
        "import pydlm\n"
        "from pydlm import _core, aio\n"
        "from pydlm.types import Mode\n"
        "assert_type(Mode.PR.compatible(Mode.EX), bool)\n"
        "def use(lk: pydlm.Lock, thing: object) -> bool:\n"
        "    return isinstance(thing, pydlm.Lock) and thing.acquire() and lk.locked()\n"
        "with pydlm.connect('x') as ls:\n"
        "    assert_type(ls.lock('r'), pydlm.Lock)\n"
        "    assert_type(ls.deadlock_wait, float | None)\n"
        "    use(ls.lock('r'), None)\n"
        "async def main() -> None:\n"
        "    async with aio.connect('x') as ls, ls.cached('c').shared() as c:\n"
        "        assert_type(c, aio.AsyncCachedLock)\n"
        "        assert_type(await ls.lock('r').acquire(), bool)\n"
        "        async for event in ls.events():\n"
        "            if isinstance(event, aio.Blocked):\n"
        "                assert_type(event.lock, aio.AsyncLock | None)\n"
        "_core.nothing_of_this_name  # type: ignore[attr-defined]\n"
    )
    check(["mypy", "--strict", "--config-file=", program], cwd=tmp_path)
