"""The storm of deaths, and the recordings with real processes; each in short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.host.machine import Host
from tests.host.processes import PATIENCE

import pydlm.testing

RECORDINGS = Path(pydlm.testing.__file__).parent / "recordings"


def run(*arguments: str, patience: float = 3 * PATIENCE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=patience
    )


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [2, 4])
def test_of_deaths(nodes: int, host: Host) -> None:
    done = run(
        "pydlm.cli",
        "torture",
        "--stack",
        host.stack,
        "--nodes",
        str(nodes),
        "--kill",
        "--kills",
        "40",
        "--json",
    )
    assert done.returncode == 0, done.stderr + done.stdout
    result = json.loads(done.stdout)
    assert (result["kills"], result["wrong"]) == (40, None)
    assert result["leaked"] == {"locks": 0, "slots": 0}
    assert result["rounds"] > 40
    assert not list(host.directory.iterdir()), "its lockspace is removed"


def test_ends_with_an_error_on_another_stack() -> None:
    done = run("pydlm.cli", "torture", "--stack", "local", "--kill", "--kills", "2")
    assert done.returncode != 0
    assert "host stack" in done.stderr


def replayed(*names: str) -> str:
    done = run(
        "pydlm.testing",
        "replay",
        *(str(RECORDINGS / name) for name in names),
        "--stack",
        "host",
        patience=6 * PATIENCE,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


def test_recordings_of_deaths() -> None:
    assert ", 0 failed, " in replayed("fsdlm/death.jsonl.xz")


@pytest.mark.slow
def test_recordings_written_by_hand() -> None:
    before = set(os.listdir("/dev/shm"))
    assert ", 0 failed, " in replayed("fsdlm/handwritten.jsonl.xz")
    left = {name for name in set(os.listdir("/dev/shm")) - before if "replay" in name}
    assert not left


@pytest.mark.slow
def test_all_recordings_deviate_as_on_the_local_stack() -> None:
    names = [f"fsdlm/{path.name}" for path in sorted((RECORDINGS / "fsdlm").glob("*.xz"))]
    host = replayed(*names)
    local = run(
        "pydlm.testing", "replay", *(str(RECORDINGS / name) for name in names), patience=180
    ).stdout.splitlines()[-1]
    assert host == local
