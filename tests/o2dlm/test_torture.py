"""lvb_torture in C: nodes count in a lock value block through the real libo2dlm."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.o2dlm.conftest import Build, Mounts
from tests.o2dlm.nodes import PYDLM, MountPoint, Program

from pydlm.o2dlm.preload import preload_environment

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def torture(build: Build, libo2dlm: list[str]) -> Path:
    return build("torture", *libo2dlm)


def count(program: Path, mounts: list[Path], domain: str, iterations: int) -> None:
    """Have a process on each mount count, all in the same block."""
    with ExitStack() as ends:
        nodes = []
        for number, mount in enumerate(mounts):
            words = (str(mount), domain, "counter", str(number), str(iterations))
            nodes.append(Program([program, *words], preload_environment({})))
            ends.callback(nodes[-1].end)
            # Not at once: o2dlm_initialize fails where another makes the same domain.
            assert nodes[-1].answer() == "ready"
        for node in nodes:
            node.tell()
        writes = 2 * (iterations // 3) + min(iterations % 3, 2)
        assert {node.answer(200) for node in nodes} == {f"wrote {writes}"}
        for node in nodes:
            node.tell()
        assert {node.answer() for node in nodes} == {f"last {len(nodes) * writes}"}
        for node in nodes:
            # One after the other: o2dlm_destroy fails where another removes the same files.
            node.tell()
            assert node.end() == 0


@pytest.mark.parametrize("iterations", [1500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_two_nodes(iterations: int, torture: Path, mounted: Mounts, domain: str) -> None:
    count(torture, [mounted(1).path, mounted(2).path], domain, iterations)


def test_processes_of_one_mount(
    torture: Path, mounted: Mounts, host: Path, tmp_path: Path, domain: str
) -> None:
    """With `--owner open` they exclude each other, and those of other mounts."""
    path = tmp_path / "open"
    command = (*PYDLM, "mount", path, "--stack", f"host:{host}", "--owner", "open")
    mount = MountPoint(path, command)
    try:
        count(torture, [path, path, path, mounted(1).path], domain, 1000)
    finally:
        mount.end()
