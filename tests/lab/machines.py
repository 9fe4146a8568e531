"""The machines, the cable between them, and the line on which each takes orders."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import Any

from tests.lab.build import KERNEL, MODULES, ROOT, SHIM

__all__ = ["Failed", "Machine", "Machines"]

_GUEST = Path(__file__).parent / "guest"
_MEMORY = "384M"
_DISK = 1 << 20
_BOOT = 60.0  # seconds
_JOIN = 60.0


class Failed(Exception):
    """Something in the lab did not work, and this is all that is known of it."""


class Machine:
    """One machine, running or not."""

    def __init__(self, number: int, directory: Path) -> None:
        self.number = number
        self.console = directory / f"console{number}.log"
        self.disk = directory / "disk"  # one for all of them
        self.running = False
        self._directory = directory
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Queue[dict[str, Any]]] = {}
        self._process: subprocess.Popen[bytes] | None = None
        self._reading: asyncio.Task[None] | None = None
        self.cable: socket.socket | None = None

    async def boot(self, count: int) -> None:
        """Boot it; return when it takes orders."""
        self.cable, plug = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        ours, line = socket.socketpair()
        for end in (self.cable, plug):
            end.setblocking(False)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        environment = {
            **os.environ,
            "HOME": str(self._directory),
            "TMPDIR": "/dev/shm",  # its memory is a file there
            "LD_PRELOAD": str(SHIM),
        }
        with self.console.open("wb") as console:
            self._process = subprocess.Popen(
                [
                    str(KERNEL),
                    f"umid=lab{self.number}-{os.getpid()}",
                    f"mem={_MEMORY}",
                    *("root=/dev/root", "rootfstype=hostfs", f"rootflags={ROOT}", "rw"),
                    *("init=/lab-init", "panic=-1", "quiet"),
                    *("con0=null,fd:1", "con=null", "ssl=null"),
                    f"ssl0=fd:{line.fileno()},fd:{line.fileno()}",
                    f"vec0:transport=fd,fd={plug.fileno()},mac=52:54:00:00:00:{self.number:02x}",
                    f"ubd0sc={self.disk}",  # written at once, and nobody has it alone
                    f"LAB_NODE={self.number}",
                    f"LAB_COUNT={count}",
                    f"LAB_GUEST={_GUEST}",
                    f"LAB_MODULES={MODULES}",
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                pass_fds=(plug.fileno(), line.fileno()),
                env=environment,
                start_new_session=True,
            )
        plug.close()
        line.close()
        reader, self._writer = await asyncio.open_connection(sock=ours, limit=1 << 24)
        hello = asyncio.Event()
        self._reading = asyncio.create_task(self._read(reader, hello))
        waiting = asyncio.create_task(hello.wait())
        await asyncio.wait(
            {waiting, self._reading}, timeout=_BOOT, return_when=asyncio.FIRST_COMPLETED
        )
        if not hello.is_set():
            waiting.cancel()
            self.kill()
            raise Failed(f"machine {self.number} did not boot; its console:\n{self.last_words()}")
        self.running = True

    def last_words(self) -> str:
        """Return the console's last lines."""
        lines = self.console.read_text(errors="replace").splitlines()[-15:]
        return "\n".join(lines) or "(nothing)"

    async def _read(self, reader: asyncio.StreamReader, hello: asyncio.Event) -> None:
        with contextlib.suppress(ConnectionError):
            while line := await reader.readline():
                with contextlib.suppress(ValueError):
                    answer = json.loads(line)
                    if "hello" in answer:
                        hello.set()
                    elif queue := self._answers.get(answer["id"]):
                        queue.put_nowait(answer)
        self.running = False
        for queue in self._answers.values():
            queue.put_nowait({"status": 255, "died": True})

    def begin(
        self, command: str, timeout: float | None
    ) -> tuple[int, asyncio.Queue[dict[str, Any]]]:
        """Begin a command; return its number and where its answers come."""
        if not self.running:
            raise Failed(f"machine {self.number} is not running")
        number = next(self._numbers)
        queue = self._answers[number] = asyncio.Queue()
        self.say(id=number, run=command, timeout=timeout)
        return number, queue

    def say(self, **order: Any) -> None:
        """Send an order."""
        self._writer.write(json.dumps(order).encode() + b"\n")

    def forget(self, number: int) -> None:
        """No more answers are wanted to that order."""
        self._answers.pop(number, None)

    async def run(self, command: str, timeout: float) -> None:
        """Run a command that has to succeed."""
        number, queue = self.begin(command, timeout)
        said = ""
        while "status" not in (answer := await queue.get()):
            said += answer.get("out", "") + answer.get("err", "")
        self.forget(number)
        if answer["status"]:
            raise Failed(f"machine {self.number}: {command}: status {answer['status']}\n{said}")

    def kill(self) -> None:
        """Pull its plug."""
        self.running = False
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
            self._writer.close()
        if self.cable is not None:
            asyncio.get_running_loop().remove_reader(self.cable)
            self.cable.close()
            self.cable = None


class Machines:
    """All of them, on one switch."""

    def __init__(self, count: int, directory: Path) -> None:
        self.all = {n: Machine(n, directory) for n in range(1, count + 1)}
        with (directory / "disk").open("wb") as disk:
            disk.truncate(_DISK)

    async def up(self, *numbers: int) -> None:
        """Boot these, at once, and make them nodes of the cluster."""
        numbers = tuple(n for n in numbers if not self.all[n].running)
        await asyncio.gather(*map(self._up, numbers))

    async def _up(self, number: int) -> None:
        machine = self.all[number]
        machine.kill()  # what is left of one that died by itself
        # The switch is there before the first frame.
        booting = asyncio.create_task(machine.boot(len(self.all)))
        await asyncio.sleep(0)
        assert machine.cable is not None
        asyncio.get_running_loop().add_reader(machine.cable, self._frames, machine)
        await booting
        await machine.run(f"sh /host{_GUEST}/cluster {len(self.all)}", _JOIN)

    def _frames(self, sender: Machine) -> None:
        for _ in range(64):
            try:
                frame = sender.cable.recv(65536) if sender.cable else b""
            except OSError:
                return
            if not frame:
                return
            # The last byte of an address is the machine's number; an odd first one means all.
            known = self.all.get(frame[5])
            receivers = self.all.values() if frame[0] & 1 else [known] if known else []
            for receiver in receivers:
                if receiver is not sender and receiver.cable is not None:
                    with contextlib.suppress(OSError):  # full: as any switch, it drops it
                        receiver.cable.send(frame)

    def down(self) -> None:
        """Pull all plugs."""
        for machine in self.all.values():
            machine.kill()
