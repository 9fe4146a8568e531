"""The checks that every stack has to pass, on the stack dlmfs over two mounts."""

from __future__ import annotations

import pytest
from tests.dlmfs.mounts import World

from pydlm.testing.__main__ import main


def test_checks_of_stacks(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    stacks = [f"--stack=dlmfs:{world.mount().path}" for _ in range(2)]
    assert main(["conformance", *stacks]) == 0, capsys.readouterr().out
    assert capsys.readouterr().out.endswith("\n16 passed, 0 failed\n")
