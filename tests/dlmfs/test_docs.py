"""The page about mounts says what the code does."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from tests.dlmfs.client import PATIENCE, Client, opening
from tests.dlmfs.mounts import Mounted, World, until

from pydlm.testing.dlmfs.rules import RULES

PAGE = (Path(__file__).parents[2] / "docs" / "dlmfs.md").read_text()
INSTALL, SHELL, SLEEP = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)


def script(text: str, mount: Mounted) -> str:
    assert "/mnt/dlm" in text
    return "set -eu\n" + text.replace("/mnt/dlm", mount.path)


def test_every_rule_is_in_the_table() -> None:
    rows = [f"| `{rule.name}` | {rule.kernel} | {rule.mount} | {rule.why} |" for rule in RULES]
    assert PAGE.endswith("\n".join(rows) + "\n")
    assert [rule.wanted for rule in RULES] == sorted((rule.wanted for rule in RULES), reverse=True)


def test_the_shell_session(world: World, client: Client) -> None:
    for owner in ("node", "open"):
        mount = world.mount("--owner", owner)
        done = subprocess.run(
            ["bash", "-c", script(SHELL, mount)], capture_output=True, text=True, timeout=PATIENCE
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "had\n", "")
        fd = client.opened(mount / "orders/invoice", "O_RDONLY")
        assert client(f"os.read({fd}, 64)") == b"paid" + bytes(60)
        client(f"(os.close({fd}), os.unlink({mount / 'orders/invoice'!r}))")


def test_sleeping_until_somebody_wants_it(
    world: World, two: tuple[Mounted, Mounted], client: Client
) -> None:
    for mount in two:
        os.mkdir(mount / "orders")
    shell = subprocess.Popen(["bash", "-c", script(SLEEP, two[0])])
    try:
        until(lambda: os.path.exists(two[0] / "orders/invoice"), "the file")
        trying = opening(two[1] / "orders/invoice", "O_RDWR|O_NONBLOCK")
        until(lambda: client(f"os.close({trying})") == "ETXTBSY", "the shell to have the lock")
        fd = client(opening(two[1] / "orders/invoice"))
        assert isinstance(fd, int)
    finally:
        shell.wait(PATIENCE)
    assert shell.returncode == 0


def test_the_program_in_c(world: World, two: tuple[Mounted, Mounted], client: Client) -> None:
    program = re.findall(r"```c\n(.*?)```", PAGE, re.DOTALL)[0]
    built = world.root / "wait"
    compiler = ["gcc", "-Wall", "-Wextra", "-Werror", "-xc", "-", "-o", str(built)]
    subprocess.run(compiler, input=program, text=True, check=True, timeout=PATIENCE)
    with open(two[0] / "d/l", "w+b", buffering=0, opener=make) as held:
        sleeper = subprocess.Popen([built], stdin=held)
        client.start(opening(two[1] / "d/l"))
        assert sleeper.wait(PATIENCE) == 0
    assert isinstance(client.answer(), int)


def make(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o600)
