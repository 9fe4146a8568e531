"""Nodes of a cluster: processes that call libo2dlm, the real one or pydlm's, as they are told."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

#: Seconds within which something has to come that comes at once on an idle machine.
PATIENCE = 30.0

PYDLM = (sys.executable, "-m", "pydlm.cli")


class Program:
    """A process that answers lines with lines."""

    def __init__(
        self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> None:
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            self._answers.put(line.strip())
        self._answers.put(None)

    def tell(self, line: str = "") -> None:
        self.process.stdin.write(line + "\n")

    def answer(self, seconds: float = PATIENCE) -> str:
        """The next line; fails if none comes in that time."""
        line = self._answers.get(timeout=seconds)
        assert line is not None, f"{self.process.args} ended with {self.process.wait(PATIENCE)}"
        return line

    def silent(self) -> bool:
        """Whether it has said nothing since the last answer."""
        return self._answers.empty()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def end(self) -> int:
        """Have it read the end of its input, and return its exit status. May be called again."""
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            return self.process.wait(PATIENCE)
        finally:
            self.process.kill()
            self.process.wait()
            self._reader.join(PATIENCE)
            self.process.stdout.close()


class Node(Program):
    """A client that has joined a domain."""

    def __init__(
        self,
        command: Sequence[str | Path],
        place: str,
        domain: str,
        environment: Mapping[str, str],
    ) -> None:
        super().__init__(command, environment)
        self.get("initialize", place, domain)

    def begin(self, *words: object) -> None:
        self.tell(" ".join(map(str, words)))

    def ask(self, *words: object) -> str:
        """Make a call; return "ok", with its value if it has one, or "error CODE"."""
        self.begin(*words)
        return self.answer()

    def get(self, *words: object) -> str:
        """Make a call that succeeds; return its value."""
        said, _, value = self.ask(*words).partition(" ")
        assert said == "ok", (words, value)
        return value

    def polled(self, fd: str, seconds: float = PATIENCE) -> bool:
        """Whether the descriptor has POLLIN within that time."""
        return self.get("poll", fd, int(seconds * 1000)) == "1"


class MountPoint:
    """A directory and the process that has mounted something there, until it is unmounted."""

    def __init__(self, path: Path, command: Sequence[str | Path]) -> None:
        self.path = path
        path.mkdir()
        self.process = subprocess.Popen(command)
        wait_for(lambda: path.is_mount() or self.process.poll() is not None)
        assert self.process.poll() is None, "the mount has ended"

    def kill(self) -> None:
        """End it as a power cut ends a node."""
        self.process.kill()
        self.process.wait(PATIENCE)

    def end(self) -> None:
        """Unmount it, also if it was killed, or is in use."""
        for lazily in ([], ["-z"]):
            command = ["fusermount3", "-u", *lazily, self.path]
            done = subprocess.run(command, capture_output=True, timeout=PATIENCE)
            if not done.returncode:
                break
        try:
            self.process.wait(PATIENCE)
        finally:
            self.kill()
        self.path.rmdir()


def wait_for(condition: Callable[[], bool]) -> None:
    """Return when it holds; fail if it does not in time."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "waited in vain"
        time.sleep(0.005)
