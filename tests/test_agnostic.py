"""`stack="auto"` takes what this host has been set up for."""

from __future__ import annotations

from pathlib import Path

import pytest

import pydlm
from pydlm.stackglue.agnostic import running_stack

MOUNTS = (
    "22 1 0:20 / / rw - ext4 /dev/vda rw\n"
    "43 22 0:40 / /mnt/p rw - fuse.dlmfs host rw\n"
    "44 22 0:41 / /mnt/a\\040b rw shared:1 - ocfs2_dlmfs none rw\n"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host that runs nothing."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text("".join(MOUNTS.splitlines(True)[:2]))
    return tmp_path


def test_a_host_without_a_cluster(root: Path) -> None:
    assert running_stack(root) == "host"


def test_ocfs2_dlmfs(root: Path) -> None:
    (root / "proc/self/mountinfo").write_text(MOUNTS)
    assert running_stack(root) == "dlmfs:/mnt/a b"


def test_fsdlm_comes_first(root: Path) -> None:
    (root / "proc/self/mountinfo").write_text(MOUNTS)
    node = root / "sys/kernel/config/dlm/cluster/comms/1"
    node.mkdir(parents=True)
    (node / "local").write_text("1\n")
    assert running_stack(root) == "fsdlm"


def test_connect(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    directory = tmp_path / "locks"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("PYDLM_HOST_DIR", str(directory))
    monkeypatch.setattr("pydlm.stackglue.registry.running_stack", lambda: "host")
    with pydlm.connect("orders", stack="auto") as ls:
        assert ls.stack.name == "host"
        with ls.lock("l"):
            pass
