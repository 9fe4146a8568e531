"""A lab as its users see it: nodes on which commands run, which die and come back."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from tests.lab.build import CACHE, LIBRARIES, build
from tests.lab.machines import Failed

__all__ = ["Lab", "Node", "Running", "dlmfs"]

_GUEST = Path(__file__).parent / "guest"

_ANSWER = 150.0  # seconds for an order that boots machines; they have time-outs of their own
_START = 10.0


class Running:
    """A command that runs on a node. Its standard input and output are here."""

    def __init__(self, connection: socket.socket, command: str) -> None:
        self._connection = connection
        self._lines = connection.makefile("rb")
        self._command = command
        self.out = ""  #: what `line` has not returned yet
        self.err = ""
        self.status: int | None = None

    def send(self, text: str) -> None:
        """Write to its standard input."""
        self._connection.sendall(json.dumps({"input": text}).encode() + b"\n")

    def end(self) -> None:
        """End its standard input."""
        self._connection.shutdown(socket.SHUT_WR)

    def line(self, timeout: float = 30.0) -> str:
        """Return the next line of its output. Raises Failed where none comes."""
        while "\n" not in self.out:
            if self.status is not None or not self.take(timeout):
                raise Failed(f"{self._command}: status {self.status}, no line\n{self.err}")
        line, _, self.out = self.out.partition("\n")
        return line

    def wait(self, timeout: float = 60.0) -> int:
        """Return its exit status; 124: it was killed after its time."""
        while self.status is None:
            self.take(timeout)
        self.close()
        return self.status

    def close(self) -> None:
        """Let go of it: its input ends."""
        self._lines.close()
        self._connection.close()

    def take(self, timeout: float | None) -> bool:
        """Take in what it says next; return whether the lab was there to say it."""
        self._connection.settimeout(timeout)
        try:
            line = self._lines.readline()
        except TimeoutError:
            self.close()
            raise Failed(f"{self._command}: silent for {timeout} s\n{self.err}") from None
        answer = json.loads(line or b'{"failed": "the lab is down"}')
        if "failed" in answer:
            raise Failed(answer["failed"])
        self.out += answer.get("out", "")
        self.err += answer.get("err", "")
        self.status = answer.get("status")
        return bool(line)


def dlmfs(cluster_stack: str) -> str:
    """Return the command that mounts ocfs2_dlmfs on /run/dlm of a node, on `pcmk` or `o2cb`."""
    return f"sh /host{_GUEST}/dlmfs {cluster_stack}"


class Node:
    """One machine of a lab, with corosync and dlm_controld."""

    def __init__(self, lab: Lab, number: int) -> None:
        self.lab = lab
        self.number = number

    def begin(self, command: str, timeout: float | None = 60.0) -> Running:
        """Begin a shell command, which is killed after `timeout` seconds."""
        fields = {"node": self.number, "command": command, "timeout": timeout}
        return Running(self.lab.order("run", **fields), command)

    def run(self, command: str, timeout: float = 60.0, *, check: bool = True) -> str:
        """Run a shell command; return its output. Raises Failed for another status than 0."""
        running = self.begin(command, timeout)
        status = running.wait(timeout + 5.0)
        if check and status:
            raise Failed(
                f"node {self.number}: {command}: status {status}\n{running.out}{running.err}"
            )
        return running.out

    def here(self, *command: str) -> str:
        """Return the command that runs `command` there, in this directory and environment."""
        search = [*sys.path, os.environ.get("PYTHONPATH", "")]
        environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in search if p),
            "LD_LIBRARY_PATH": str(LIBRARIES),
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
        }
        words = [f"{name}={value}" for name, value in environment.items()]
        inside = (
            f"cd {shlex.quote(os.getcwd())} && exec {shlex.join(['env', '-i', *words, *command])}"
        )
        return shlex.join(["chroot", "/host", "/bin/sh", "-c", inside])

    def python(self, *arguments: str, timeout: float = 60.0) -> str:
        """Run this interpreter there, with these modules; return its output."""
        return self.run(self.here(sys.executable, *arguments), timeout)

    def kill(self) -> None:
        """Pull its plug. The others notice."""
        self.lab.tell("kill", node=self.number)

    def boot(self) -> None:
        """Boot it again, unless it runs; return when it is a member of the cluster."""
        self.lab.tell("boot", nodes=[self.number])


class Lab:
    """A lab that runs, in the directory of its consoles and its control socket."""

    def __init__(self, directory: Path | None = None) -> None:
        chosen = directory or os.environ.get("PYDLM_LAB_RUN") or CACHE / "run"
        self.directory = Path(chosen).absolute()

    @classmethod
    @contextmanager
    def of(cls, count: int, directory: Path) -> Iterator[Lab]:
        """A lab that lasts as long as this context, or this process."""
        lab = cls(directory)
        with lab.start(count, stdin=subprocess.PIPE) as supervisor:
            try:
                lab.tell("boot", nodes=[])
                yield lab
            finally:
                supervisor.communicate()  # the end of its input is its end

    def start(self, count: int, stdin: int | IO[bytes]) -> subprocess.Popen[bytes]:
        """Start its supervisor, which has no machine running yet. Builds what is missing."""
        build()
        self.directory.mkdir(parents=True, exist_ok=True)
        log = self.directory / "supervisor.log"
        command = [sys.executable, "-m", "tests.lab.supervisor", str(self.directory), str(count)]
        with log.open("wb") as output:
            supervisor = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=output,
                stderr=output,
                cwd=Path(__file__).parents[2],
                start_new_session=True,
            )
        give_up = time.monotonic() + _START
        while not self.runs():
            if time.monotonic() > give_up or supervisor.poll() is not None:
                supervisor.kill()
                raise Failed(f"the lab's supervisor did not start:\n{log.read_text()}")
            time.sleep(0.02)
        return supervisor

    def runs(self) -> bool:
        """Return whether it takes orders."""
        with contextlib.suppress(OSError), self.order("nothing"):
            return True
        return False

    def node(self, number: int) -> Node:
        """Return one of its machines."""
        return Node(self, number)

    def order(self, what: str, **fields: Any) -> socket.socket:
        """Give an order; return the connection on which the answers come."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self.directory / "control"))
            connection.sendall(json.dumps({"do": what, **fields}).encode() + b"\n")
        except BaseException:
            connection.close()
            raise
        return connection

    def tell(self, what: str, **fields: Any) -> None:
        """Give an order and wait until it is done. Raises Failed."""
        Running(self.order(what, **fields), what).wait(_ANSWER)
