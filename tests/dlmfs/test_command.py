"""`pydlm mount` as a command: how it begins, how it ends, and what it says where it cannot."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.dlmfs.client import PATIENCE, Client
from tests.dlmfs.mounts import Mounted, World, is_mounted, until


def run(*arguments: str, **options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pydlm.cli", "mount", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, **options},
    )


@pytest.mark.parametrize("number", [2, 15, 1])
def test_signals_unmount(world: World, number: int) -> None:
    made = world.mount()
    assert made.kill(number) == 0
    assert not is_mounted(made.path) and os.listdir(made.path) == []
    assert made.said() == ""


@pytest.mark.parametrize("stack", ["local", "host"])
def test_fusermount_unmounts(world: World, client: Client, stack: str) -> None:
    made = world.mount(stack=world.stack if stack == "host" else stack)
    assert client(f"os.mkdir({made / 'd'!r})") is None
    fd = client.opened(made / "d/l")
    umount = ["fusermount3", "-u", made.path]
    assert subprocess.run(umount, timeout=PATIENCE, capture_output=True).returncode
    assert is_mounted(made.path)
    client(f"os.close({fd})")
    assert subprocess.run(umount, timeout=PATIENCE).returncode == 0
    assert made.process.wait(PATIENCE) == 0
    assert made.said() == ""


def test_in_the_background(world: World, client: Client) -> None:
    path = str(world.directory())
    found = run(path, "--stack", world.stack, "--background")
    assert (found.returncode, found.stdout, found.stderr) == (0, "", "")
    assert is_mounted(path)
    assert client(f"os.mkdir({path + '/d'!r})") is None
    assert client(f"os.rmdir({path + '/d'!r})") is None
    subprocess.run(["umount", path], check=True, timeout=PATIENCE)
    until(lambda: not serving(path), "the end of the daemon")


def test_what_the_caller_has_open_is_not_kept(world: World) -> None:
    ours, its = os.pipe()
    path = str(world.directory())
    command = [sys.executable, "-m", "pydlm.cli", "mount", path, "--stack", world.stack]
    subprocess.run([*command, "--background"], check=True, pass_fds=[its], timeout=PATIENCE)
    os.close(its)
    with open(ours, "rb") as pipe:
        assert select.select([pipe], [], [], PATIENCE)[0], "the daemon has the other end"
        assert pipe.read() == b""
    assert is_mounted(path)
    subprocess.run(["umount", path], check=True, timeout=PATIENCE)
    until(lambda: not serving(path), "the end of the daemon")


def serving(path: str) -> list[str]:
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as file:
                if path in file.read().split("\0"):
                    found.append(pid)
        except OSError:
            continue
    return found


@pytest.mark.parametrize("how", ["--foreground", "--background"])
@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("none", "there is no such directory"),
        ("file", "it is no directory"),
        ("full", "not empty"),
        ("busy", "mounted there already"),
    ],
)
def test_where_it_cannot_be(world: World, place: str, why: str, how: str) -> None:
    path = world.root / place
    if place == "file":
        path.touch()
    elif place == "full":
        (path / "x").mkdir(parents=True)
    elif place == "busy":
        path = world.root / os.path.basename(world.mount().path)
    found = run(str(path), "--stack", world.stack, how)
    assert found.returncode == 2
    assert found.stderr.startswith(f"pydlm: cannot mount on {path}: ") and why in found.stderr


def test_a_dead_mount_is_named(world: World) -> None:
    made = world.mount()
    made.kill()
    found = run(made.path, "--stack", world.stack)
    assert found.returncode == 2 and "umount it" in found.stderr


def test_an_unknown_stack_is_an_error_of_the_command(world: World) -> None:
    found = run(str(world.directory()), "--stack", "nosuch")
    assert found.returncode == 2 and "nosuch" in found.stderr


def test_the_end_of_a_mount_leaves_its_successor(world: World, client: Client) -> None:
    first = world.mount()
    assert client(f"os.mkdir({first / 'd'!r})") is None
    client.opened(first / "d/l")
    subprocess.run(["umount", "--lazy", first.path], check=True, timeout=PATIENCE)
    second = Mounted(Path(first.path), world.stack)
    world.mounts.append(second)
    assert client(f"os.mkdir({second / 'e'!r})") is None
    assert first.kill(signal.SIGTERM) == 0
    assert is_mounted(second.path)
    assert client(f"os.listdir({second.path!r})") == ["e"]
    assert second.kill(signal.SIGTERM) == 0
    assert not is_mounted(second.path)


def test_the_stack_of_the_environment(world: World) -> None:
    path = str(world.directory())
    found = run(path, "--background", PYDLM_STACK=world.stack)
    assert found.returncode == 0
    os.mkdir(f"{path}/d")
    assert [name.name for name in world.locks.iterdir() if name.name.startswith("d")]
    subprocess.run(["umount", path], check=True, timeout=PATIENCE)
    until(lambda: not serving(path), "the end of the daemon")


def test_a_comma_begins_no_other_option(world: World, client: Client) -> None:
    odd = world.root / "a,allow_other\\"
    odd.mkdir(mode=0o700)
    made = world.mount(stack=f"host:{odd}")
    assert client(f"os.mkdir({made / 'd'!r})") is None
    assert os.listdir(odd) != []
    with open("/proc/self/mountinfo") as file:
        line = next(line for line in file if line.split()[4] == made.path)
    assert line.split()[-1].count("allow_other") == 0 and "fuse.dlmfs" in line


def test_a_domain_that_cannot_be_joined(world: World, client: Client) -> None:
    made = world.mount()
    world.locks.chmod(0o777)  # a directory for everybody is refused
    assert client(f"os.mkdir({made / 'd'!r})") == "ENODEV"
    assert "cannot be joined" in made.said()
    world.locks.chmod(0o700)
    assert client(f"os.mkdir({made / 'd'!r})") is None
