"""Real mounts in directories of their own, which never outlive the test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.dlmfs.client import PATIENCE, Client


def until(condition: Callable[[], Any], what: str = "it") -> Any:
    """Wait for a condition; return what it returns."""
    give_up = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < give_up, f"{what} did not happen"
        time.sleep(0.002)
    return found


class Mounted:
    """`pydlm mount` in a process."""

    def __init__(self, directory: Path, stack: str, *options: str) -> None:
        self.path = str(directory)
        self.log = Path(f"{directory}.log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pydlm.cli", "mount", self.path, "--stack", stack, *options],
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        until(lambda: self.process.poll() is not None or is_mounted(self.path), "the mount")
        assert self.process.poll() is None, self.said()

    def said(self) -> str:
        return self.log.read_text()

    def kill(self, number: int = signal.SIGKILL) -> int:
        """End the process; return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def __truediv__(self, name: str) -> str:
        return f"{self.path}/{name}"


def is_mounted(path: str) -> bool:
    """Without asking the file system, which may not answer."""
    with open("/proc/self/mountinfo") as file:
        return any(line.split()[4] == path for line in file)


class World:
    """The mounts and the clients of one test, on lockspaces of its own."""

    def __init__(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="pydlm-test-", dir="/dev/shm"))
        self.root.chmod(0o755)  # for tests of permissions
        self.locks = self.root / "locks"
        self.locks.mkdir(mode=0o700)
        self.mounts: list[Mounted] = []
        self.clients: list[Client] = []
        self.callbacks: list[Callable[[], object]] = []  #: called at the end, before all else

    @property
    def stack(self) -> str:
        return f"host:{self.locks}"

    def directory(self) -> Path:
        found = self.root / f"mount{len(list(self.root.glob('mount*')))}"
        found.mkdir()
        return found

    def mount(self, *options: str, stack: str | None = None) -> Mounted:
        """Mount it: a node of its own."""
        made = Mounted(self.directory(), stack or self.stack, *options)
        self.mounts.append(made)
        return made

    def client(self, uid: int | None = None) -> Client:
        made = Client(uid)
        self.clients.append(made)
        return made

    def waits(self, client: Client) -> None:
        """Return when a client is blocked in a request to a mount, past looking up the name."""
        until(lambda: client.has_answered() or client.waits_for_an_answer())
        assert not client.has_answered(), client.answer()

    def end(self) -> None:
        for callback in self.callbacks:
            callback()
        for client in self.clients:
            client.kill()
        for path in [str(path) for path in self.root.glob("mount*") if path.suffix != ".log"]:
            while is_mounted(path):
                subprocess.run(["umount", "--lazy", path], check=True, timeout=PATIENCE)
        for made in self.mounts:
            if made.process.poll() is None:
                made.kill()
        for client in self.clients:
            client.end()
        unexpected = [m.said() for m in self.mounts if "Traceback" in m.said()]
        shutil.rmtree(self.root)
        assert not unexpected, "".join(unexpected)


def is_root_with_fuse() -> str | None:
    """Why nothing can be mounted here, if so."""
    if os.geteuid():
        return "only root may mount without fusermount3"
    if not os.path.exists("/dev/fuse"):
        return "there is no /dev/fuse"
    return None
