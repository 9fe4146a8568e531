"""The process that owns the machines: ``python -m tests.lab.supervisor DIRECTORY COUNT``.

It ends, and the machines with it, on the order to do so, or when its standard input, a pipe, does.
Orders are JSON lines on the socket DIRECTORY/control, one for each connection: {"do": "run" |
"kill" | "boot" | "down"}. What comes back ends with a line that has "status"; a failure has
"failed", a text.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from pathlib import Path
from typing import Any

from tests.lab.machines import Failed, Machines


class _Supervisor:
    def __init__(self, directory: Path, count: int) -> None:
        self.machines = Machines(count, directory)
        self.over = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""

        def answer(**fields: Any) -> None:
            writer.write(json.dumps(fields).encode() + b"\n")

        try:
            order = json.loads(await reader.readline() or b"{}")
            match order.get("do"):
                case "run":
                    await self.run(order, reader, answer)
                case "boot":
                    await self.machines.up(*(order["nodes"] or self.machines.all))
                    answer(status=0)
                case "kill":
                    self.machines.all[order["node"]].kill()
                    answer(status=0)
                case "down":
                    self.machines.down()
                    answer(status=0)
                    self.over.set()
        except Failed as error:
            answer(status=255, failed=str(error))
        except KeyError as error:
            answer(status=255, failed=f"no such machine: {error}")
        except ConnectionError:
            pass
        finally:
            writer.close()

    async def run(self, order: dict[str, Any], reader: asyncio.StreamReader, answer: Any) -> None:
        """Run a command; pass its input and output on."""
        machine = self.machines.all[order["node"]]
        number, queue = machine.begin(order["command"], order["timeout"])

        async def pass_input() -> None:
            while line := await reader.readline():
                machine.say(id=number, input=json.loads(line)["input"])
            machine.say(id=number, input=None)

        passing = asyncio.create_task(pass_input())
        try:
            while True:
                said = await queue.get()
                if said.get("died"):
                    raise Failed(f"machine {machine.number} died under {order['command']!r}")
                del said["id"]
                answer(**said)
                if "status" in said:
                    return
        finally:
            passing.cancel()
            machine.forget(number)


async def _main(directory: Path, count: int) -> None:
    supervisor = _Supervisor(directory, count)
    loop = asyncio.get_running_loop()
    if stat.S_ISFIFO(os.fstat(0).st_mode):  # somebody's who will end
        loop.add_reader(0, lambda: os.read(0, 4096) or supervisor.over.set())
    server = await asyncio.start_unix_server(supervisor.serve, directory / "control", limit=1 << 24)
    try:
        await supervisor.over.wait()
    finally:
        server.close()
        supervisor.machines.down()
        (directory / "control").unlink(missing_ok=True)


if __name__ == "__main__":
    asyncio.run(_main(Path(sys.argv[1]), int(sys.argv[2])))
