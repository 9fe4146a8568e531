"""What the README shows is true: each command and each program in it is run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import pydlm
from pydlm import Mode

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


def run(command: list[str], cwd: Path, seconds: float) -> None:
    done = subprocess.run(
        command,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_there_are_no_commands_but_those_that_are_run_here() -> None:
    assert {command[0] for command in commands()} == {"scripts/demo", "scripts/test", "pydlm"}


@pytest.mark.parametrize(
    "command", [c for c in commands() if c[0] == "pydlm"], ids=lambda c: " ".join(c[:2])
)
def test_commands_of_pydlm(command: list[str], tmp_path: Path) -> None:
    run([sys.executable, "-m", "pydlm.cli", *command[1:]], tmp_path, 100)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_main_job_from_a_fresh_checkout(tmp_path: Path) -> None:
    copy = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".git", ".venv", "build", "*.so", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, copy, ignore=ignored)
    run(["scripts/demo", "--nodes=4", "--seconds=1"], copy, 600)


def test_the_tests_are_what_ci_runs() -> None:
    # It cannot be run from inside itself.
    assert ["scripts/test"] in commands()
    assert "scripts/test" in (ROOT / ".ci" / "run").read_text()


def test_the_program_of_the_first_screen(capsys: pytest.CaptureFixture[str]) -> None:
    """It holds the lock until somebody asks: here somebody asks all the time."""
    (program,) = blocks("python")
    stop = threading.Event()

    def ask() -> None:
        with pydlm.connect("orders") as ls:
            lock = ls.lock("invoice:42")
            while not stop.is_set():
                with lock.held(Mode.PR):
                    pass

    with pydlm.connect("orders"):
        asking = threading.Thread(target=ask)
        asking.start()
        try:
            exec(compile(program, "README.md", "exec"), {})
        finally:
            stop.set()
            asking.join()
    paid, wanted = capsys.readouterr().out.splitlines()
    assert paid.startswith("b'paid\\x00")
    assert wanted == "PR"
