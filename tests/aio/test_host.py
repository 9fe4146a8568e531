"""Between processes: the same locks on the host stack."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest
from tests.aio.case import run, until

import pydlm
from pydlm import Mode, aio

COUNT = """
import asyncio, sys
from pydlm import aio

async def main():
    async with aio.connect("tests", stack=sys.argv[1]) as ls:
        lk, cached = ls.lock("counter"), ls.cached("cached", codec="<Q")
        for _ in range(200):
            async with lk:
                lk.lvb = (int.from_bytes(lk.lvb[:8], "big") + 1).to_bytes(8, "big")
            async with cached.exclusive():
                cached.value += 1

asyncio.run(main())
"""
HOLD = """
import asyncio, sys
from pydlm import aio

async def main():
    async with aio.connect("tests", stack=sys.argv[1]) as ls:
        lk = ls.lock("r")
        await lk.acquire()
        print("held", flush=True)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@pytest.fixture
def stack() -> Iterator[str]:
    directory = tempfile.mkdtemp(prefix="pydlm-test-", dir="/dev/shm")
    yield f"host:{directory}"
    shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def _works(stack: str) -> None:
    try:
        pydlm.connect("probe", stack=stack).close()
    except pydlm.StackUnavailable as error:
        pytest.skip(str(error))


def start(program: str, stack: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    return subprocess.Popen(
        [sys.executable, "-c", program, stack], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_counting_in_the_block(stack: str) -> None:
    async def main() -> None:
        async with aio.connect("tests", stack=stack) as ls:
            lk, cached = ls.lock("counter"), ls.cached("cached", codec="<Q")
            processes = [start(COUNT, stack) for _ in range(2)]
            await until(lambda: all(process.poll() is not None for process in processes))
            for process in processes:
                process.communicate()
            async with lk, cached.shared():
                assert int.from_bytes(lk.lvb[:8], "big") == cached.value == 400

    run(main(), 60)


def test_the_holder_is_killed(stack: str) -> None:
    async def main() -> None:
        async with aio.connect("tests", stack=stack) as ls:
            lk = ls.lock("r")
            async with lk:
                lk.lvb = b"one"
            process = start(HOLD, stack)
            assert process.stdout and process.stdout.readline() == "held\n"
            waits = asyncio.create_task(lk.acquire())
            await until(lambda: lk.requested is Mode.EX)
            process.kill()
            process.communicate()
            assert await waits
            with pytest.raises(pydlm.LVBInvalid):
                lk.lvb  # noqa: B018
            lk.release()
            async for event in ls.events():
                assert isinstance(event, pydlm.NodeDown)
                break

    run(main(), 60)
