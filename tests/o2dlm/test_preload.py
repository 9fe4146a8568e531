"""The preloaded library: what it changes, and that it changes nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.o2dlm.conftest import HERE, Build, Mounts
from tests.o2dlm.nodes import PYDLM, MountPoint

from pydlm.o2dlm.preload import preload_environment, preload_library
from pydlm.stacks.dlmfs.place import CAPABILITIES_FILE

DLMFS_MAGIC = "76a9f425"
FUSE_MAGIC = "65735546"


def run(*command: str | Path, preload: bool = True, **variables: str) -> str:
    env = {**os.environ, **variables}
    done = subprocess.run(
        command,
        env=preload_environment(env) if preload else env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not done.returncode, done.stderr
    assert not done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def probe(build: Build) -> Path:
    return build("probe", "-pthread")


@pytest.mark.skipif(
    os.path.exists(CAPABILITIES_FILE), reason="ocfs2_dlmfs is loaded: the real file is there"
)
def test_every_way_to_the_capabilities(probe: Path) -> None:
    run(probe)


@pytest.mark.skipif(
    os.path.exists(CAPABILITIES_FILE), reason="ocfs2_dlmfs is loaded: the real file is there"
)
def test_programs_of_others_read_the_capabilities() -> None:
    assert run("cat", CAPABILITIES_FILE) == "bast stackglue"
    assert run("sh", "-c", f"read line < {CAPABILITIES_FILE}; echo $line") == "bast stackglue\n"


def test_the_magic_is_changed_on_a_pydlm_mount_only(
    probe: Path, mounted: Mounts, tmp_path: Path
) -> None:
    other = MountPoint(
        tmp_path / "other", (sys.executable, HERE / "other_mount.py", tmp_path / "other")
    )
    try:
        mount = mounted(1).path
        (mount / "magic").mkdir()
        places = (mount, mount / "magic", other.path, tmp_path, "/proc")
        plain = run(probe, *places, preload=False).split()
        assert plain[:3] == [FUSE_MAGIC] * 3
        assert run(probe, *places).split() == [DLMFS_MAGIC] * 2 + plain[2:]
        (mount / "magic").rmdir()
    finally:
        other.end()


def test_the_real_library_needs_it(
    build: Build, libo2dlm: list[str], mounted: Mounts, domain: str
) -> None:
    client = build("client", *libo2dlm)
    calls = f"initialize {mounted(1).path} {domain}\nsupports_bast\n"
    for command, said in (
        ((client,), ["error NO_FS", "ok 0"]),
        ((*PYDLM, "exec-o2dlm", client), ["ok", "ok 1"]),
    ):
        done = subprocess.run(command, input=calls, capture_output=True, text=True, timeout=60)
        assert done.stdout.splitlines() == said


def test_a_mount_that_is_no_more(probe: Path, mounted: Mounts) -> None:
    """The number of its device may be another mount's by now."""
    first = mounted(3)
    assert run(probe, first.path).strip() == DLMFS_MAGIC
    first.kill()
    assert run(probe, mounted(3).path).strip() == DLMFS_MAGIC


def test_the_library_comes_after_what_is_there() -> None:
    ours = str(preload_library())
    assert preload_environment({})["LD_PRELOAD"] == ours
    assert preload_environment({"LD_PRELOAD": "a.so b.so"})["LD_PRELOAD"] == f"a.so:b.so:{ours}"
    assert preload_environment({"LD_PRELOAD": f"{ours}:a"})["LD_PRELOAD"] == f"a:{ours}"
    assert preload_environment({"X": "1"})["X"] == "1"
