"""The recordings of ocfs2_dlmfs, replayed on real mounts; what the replayer says of failures."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.dlmfs.mounts import Mounted, World

from pydlm.testing import dlmfs
from pydlm.testing.__main__ import main
from pydlm.testing.recording import RecordingError, shipped

FILES = shipped("dlmfs")


def run(files: list[str], mounts: list[str], *options: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, "-m", "pydlm.testing", "replay", *files, "--dlmfs", *mounts, *options],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert not done.stderr, done.stderr
    return done.returncode, done.stdout.splitlines()


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: Path(path).name.partition(".")[0])
def test_as_recorded(world: World, path: str) -> None:
    mounts = [world.mount().path, world.mount().path]
    status, lines = run([path], mounts)
    assert (status, len(lines)) == (0, 1), "\n".join(lines)
    passed, failed, deviate = (int(part.split()[0]) for part in lines[0].split(", "))
    assert failed == 0
    assert passed + deviate == len(list(dlmfs.load(path))) > 0


def scenario(*steps: dict[str, Any], nodes: int = 1) -> dict[str, Any]:
    """Return one in which process A of node 1 does something in a domain."""
    first = {"call": "mkdir", "args": ["{d}", 0o755], "ret": 0}
    made = [{"node": 1, "proc": "A", "ret": 0, **step} for step in (first, *steps)]
    return {"name": "s", "stack": "pcmk", "nodes": nodes, "steps": made}


def written(tmp_path: Path, *scenarios: dict[str, Any]) -> str:
    path = tmp_path / "recording.jsonl"
    path.write_text("".join(json.dumps(it) + "\n" for it in scenarios))
    return str(path)


OPEN = {"call": "open", "args": ["{d}/l", "RDWR|CREAT"], "as": "f"}
CLOSE = {"call": "close", "args": ["f"]}


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (
            {**CLOSE, "ret": -1, "errno_name": "EBADF"},
            "expected {'ret': -1, 'errno_name': 'EBADF'}",
        ),
        (
            {"call": "read", "args": ["f", 64], "ret": 64, "data": "77" * 64},
            "expected {'data': '77",
        ),
        (
            {"call": "poll", "args": ["f", "POLLIN", 0], "ret": 1, "revents": ["POLLIN"]},
            "got {'ret': 0, 'revents': []}",
        ),
        ({**OPEN, "as": "g", "blocked": True}, "expected {'blocked': True}"),
        ({**CLOSE, "completed": [{"step": 1, "proc": "A", "ret": 0}]}, "got {'completed': []}"),
    ],
    ids=["errno", "data", "poll", "blocked", "completed"],
)
def test_what_differs_is_told(
    mount: Mounted, tmp_path: Path, step: dict[str, Any], expected: str
) -> None:
    status, lines = run([written(tmp_path, scenario(OPEN, step))], [mount.path])
    assert (status, lines[-1]) == (1, "0 passed, 1 failed, 0 deviate")
    assert lines[0].startswith(f"s: step 3 (A {step['call']} ") and expected in lines[0]


def test_a_rule_says_what_must_have_come_instead(mount: Mounted, tmp_path: Path) -> None:
    write = {"call": "pwrite", "args": ["f", "0102", 4], "ret": 2}

    def read(data: str) -> dict[str, Any]:
        data = data.ljust(128, "0")
        return {"call": "pread", "args": ["f", 64, 0], "ret": 64, "data": data}

    there, here = scenario(OPEN, write, read("0102")), scenario(OPEN, write, read("000000000102"))
    status, lines = run([written(tmp_path, there, here)], [mount.path], "--verbose")
    assert (status, lines[-1]) == (0, "1 passed, 0 failed, 1 deviate")
    assert "[pwrite: They land at the offset" in lines[0]
    # Not even with a rule at hand does anything else pass.
    later = scenario(OPEN, write, {**CLOSE, "ret": 1}, read("0102"))
    status, lines = run([written(tmp_path, later)], [mount.path])
    assert (status, lines[-1]) == (1, "0 passed, 1 failed, 0 deviate")


def test_what_needs_another_mount_is_left_out_and_said(mount: Mounted, tmp_path: Path) -> None:
    both = scenario(OPEN, nodes=2), scenario(OPEN)
    assert run([written(tmp_path, *both)], [mount.path]) == (
        0,
        ["1 not played: they need more mounts than 1", "1 passed, 0 failed, 0 deviate"],
    )


def test_nothing_is_left(mount: Mounted, tmp_path: Path) -> None:
    before = sorted(p.name for p in Path(mount.path).iterdir())
    status, _ = run([written(tmp_path, scenario(OPEN), scenario(OPEN, CLOSE))], [mount.path])
    assert status == 0
    assert sorted(p.name for p in Path(mount.path).iterdir()) == before


def test_no_mount(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", FILES[0], "--dlmfs", str(tmp_path)]) == 2
    assert f"'{tmp_path}' is not mounted; see `pydlm mount --help`" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clients": {}}, "a recording of fs/dlm; that is played on a --stack"),
        ({"nodes": 0}, "step 1: no such node"),
        ({"steps": [{"call": "fly"}]}, "step 1: no such call: 'fly'"),
        ({"steps": [{"call": "open"}]}, "step 1: 'node' is missing"),
        ({"steps": 7}, "'steps' must be list, not 7"),
    ],
    ids=["fsdlm", "node", "call", "step", "steps"],
)
def test_no_recording(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = written(tmp_path, scenario() | change)
    with pytest.raises(RecordingError, match=r"recording\.jsonl:1") as caught:
        list(dlmfs.load(path))
    assert str(caught.value).endswith(message)
