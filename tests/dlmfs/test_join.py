"""How a node joins a domain of the kernel's dlmfs, where that fails or does not come back."""

from __future__ import annotations

import errno
import sys
import time
from pathlib import Path

import pytest

from pydlm import StackUnavailable
from pydlm.stacks.dlmfs import join
from pydlm.stacks.dlmfs.domain import Domain


def joined(directory: Path, timeout: float = 30.0) -> Domain:
    return Domain(str(directory), "d", timeout, in_kernel=True)


def test_the_directory_is_made_or_there(tmp_path: Path) -> None:
    domains = [joined(tmp_path), joined(tmp_path)]
    for domain in domains:
        domain.leave()
    assert not [*tmp_path.iterdir()]


def test_a_node_that_has_just_died(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again, until its heartbeat has been missed."""
    down = f"import os, sys\nos.mkdir(sys.argv[1] + '-asked')\nprint({errno.EHOSTDOWN})"
    monkeypatch.setattr(
        join,
        "_PROGRAM",
        f"try:\n  {down.replace(chr(10), chr(10) + '  ')}\n"
        "except FileExistsError:\n  os.mkdir(sys.argv[1]); print(0)",
    )
    joined(tmp_path).leave()
    monkeypatch.setattr(join, "_PROGRAM", f"print({errno.EHOSTDOWN})")
    with pytest.raises(StackUnavailable, match="does not answer on the network") as caught:
        joined(tmp_path, 0.7)
    assert caught.value.errno == errno.EHOSTDOWN


def test_a_join_that_does_not_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(join, "_PROGRAM", "import time; time.sleep(0.8)")
    begin = time.monotonic()
    with pytest.raises(StackUnavailable, match="timed out; with dlm_controld, check"):
        joined(tmp_path, 0.1)
    assert time.monotonic() - begin < 0.7


def test_no_process_can_be_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(StackUnavailable, match="no process can be started to join"):
        joined(tmp_path)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(StackUnavailable, match="/bin/false cannot be run"):
        joined(tmp_path)
