"""The benchmark runs, and leaves nothing mounted. It is not looked at how long anything took."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.dlmfs.client import PATIENCE
from tests.dlmfs.mounts import World

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "mount.py"


@pytest.mark.slow
@pytest.mark.parametrize("stack", ["local", "host"])
def test_it_measures_both_placements(world: World, stack: str) -> None:
    found = subprocess.run(
        [sys.executable, SCRIPT, "--rounds", "250", "--stack", stack],
        env={**os.environ, "TMPDIR": str(world.root), "PYDLM_HOST_DIR": str(world.locks)},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert found.stderr == ""
    assert found.stdout.count("ratio of the medians") == 2
    with open("/proc/self/mountinfo") as file:
        assert str(world.root) not in file.read()
