"""The fixtures for users' tests, and that they cost nobody anything who does not use them."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import pydlm
from pydlm import Lockspace, Mode, aio
from pydlm.testing.nodes import Nodes

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "testing.md").read_text()


def test_a_lockspace(dlm_lockspace: Lockspace) -> None:
    with dlm_lockspace.lock("r") as lk:
        assert lk.locked()
    assert not list(dlm_lockspace.dump()) or not lk.locked()


def test_nodes_and_a_notice(dlm_nodes: Nodes) -> None:
    first, second = dlm_nodes(2)
    lk = first.lock("r")
    lk.acquire()
    second.stack.lock(b"r", Mode.EX)
    assert lk.blocked is Mode.EX
    lk.release()
    (third,) = dlm_nodes()
    assert {first.node, second.node, third.node} == {1, 2, 3}


def test_a_death(dlm_nodes: Nodes) -> None:
    first, second = dlm_nodes(2)
    lk, other = first.lock("r"), second.lock("r")
    with other:
        other.lvb = b"kept"
    lk.acquire()
    dlm_nodes.kill(first)
    with other, pytest.raises(pydlm.LVBInvalid):
        other.lvb  # noqa: B018
    with pytest.raises(pydlm.Closed):
        lk.release()
    assert pydlm.NodeDown(1) in second.dispatch()


def test_the_death_of_what_is_cached(dlm_nodes: Nodes) -> None:
    first, second = dlm_nodes(2)
    with first.cached("r").exclusive(), second.cached("other").shared():
        waits = second.cached("r")
        dlm_nodes.kill(first)
        with waits.exclusive(timeout=20):
            pass


def test_who_waits_for_a_cached_lock_of_a_node_that_dies(dlm_nodes: Nodes) -> None:
    first, second = dlm_nodes(2)
    failed: list[pydlm.DlmError] = []
    waits = second.cached("r")

    def use() -> None:
        try:
            with waits.exclusive():
                pass
        except pydlm.DlmError as error:
            failed.append(error)

    with first.cached("r").exclusive():
        threads = [threading.Thread(target=use) for _ in range(3)]
        for thread in threads:
            thread.start()
        while len(waits._kept.machine._line) < 3:
            time.sleep(0.001)
        # Its keeper alone: what else a death tells might wake it, or might come too early.
        second._cached.abandon()
        for thread in threads:
            thread.join(20)
        assert [type(error) for error in failed] == [pydlm.Closed] * 3
    second.close()


def test_the_death_of_an_asyncio_node(dlm_nodes: Nodes) -> None:
    async def main() -> None:
        async with aio.connect(dlm_nodes.name) as ls, aio.connect(dlm_nodes.name) as dying:
            lk, held = ls.lock("r"), dying.lock("r")
            await held.acquire()
            waits = asyncio.create_task(lk.acquire())
            await asyncio.sleep(0)
            dlm_nodes.kill(dying)
            assert await asyncio.wait_for(waits, 20)
            dying.close()

    asyncio.run(main())


def test_the_tasks_of_an_asyncio_node_that_dies(dlm_nodes: Nodes) -> None:
    async def main() -> None:
        async with aio.connect(dlm_nodes.name) as ls:
            dying = aio.connect(dlm_nodes.name)
            lk, held, cached = dying.lock("r"), dying.lock("held"), dying.cached("c")
            await held.acquire()
            async with ls.lock("r"), ls.cached("c").exclusive():
                waits = [
                    asyncio.ensure_future(wait)
                    for wait in (
                        lk.acquire(),
                        lk.acquire(timeout=60),
                        held.wait_blocked(),
                        cached.shared().__aenter__(),
                        dying.events().__anext__(),
                    )
                ]
                await asyncio.sleep(0)
                dlm_nodes.kill(dying)
                done, _ = await asyncio.wait(waits, timeout=20)
                found = [task.exception() for task in waits if task in done]
                assert [type(error) for error in found] == [pydlm.Closed] * 4 + [StopAsyncIteration]
                with pytest.raises(pydlm.Closed):
                    held.release()
                # Whoever gets the dead node's descriptor next, hears.
                async with aio.connect(dlm_nodes.name) as new:
                    waits = [asyncio.ensure_future(new.lock("r").acquire())]
                    await asyncio.sleep(0)
                    await dying.aclose()
                    stands = new.lock("stands")
                    async with stands:
                        (other,) = dlm_nodes()
                        other.stack.lock(b"stands", Mode.EX)
                        assert await asyncio.wait_for(stands.wait_blocked(), 20) is Mode.EX
                    waits[0].cancel()

    asyncio.run(main())


def test_only_what_has_abandon_can_be_killed(dlm_nodes: Nodes) -> None:
    class Other:
        class stack:
            name = "other"

    with pytest.raises(pydlm.BadArgument):
        dlm_nodes.kill(Other)  # type: ignore[arg-type]


def run_pytest(folder: Path, program: str, *options: str) -> subprocess.CompletedProcess[str]:
    (folder / "test_program.py").write_text(program)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "pydlm_pytest", *options],
        cwd=folder,
        env=os.environ
        | {
            "PYTEST_ADDOPTS": "-p no:cacheprovider",
            "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        },
        capture_output=True,
        text=True,
    )


def test_a_lock_that_is_left_held_fails_the_test(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path,
        "def test_it(dlm_lockspace):\n"
        "    global lk\n"
        "    lk = dlm_lockspace.lock('r')\n"
        "    lk.acquire()\n",
    )
    assert done.returncode == 1
    assert "locks left behind: b'r' held in EX" in done.stdout


def test_a_use_that_is_left_fails_the_test(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path,
        "def test_it(dlm_lockspace):\n"
        "    with dlm_lockspace.cached('kept').exclusive():\n"
        "        pass\n"
        "    dlm_lockspace.cached('r').shared().__enter__()\n",
    )
    assert done.returncode == 1 and "kept" not in done.stdout
    assert "locks left behind: b'r' in use, 1 shared and 0 exclusive" in done.stdout


@pytest.mark.parametrize("option", [[], ["-W", "error"], ["-p", "no:warnings"]])
def test_a_held_lock_that_is_forgotten_is_shown(tmp_path: Path, option: list[str]) -> None:
    program = "def test_it(dlm_lockspace):\n    lk = dlm_lockspace.lock('r')\n    lk.acquire()\n"
    done = run_pytest(tmp_path, program, *option)
    assert done.returncode == (option == ["-W", "error"]), done.stdout
    assert ("was held when its last reference went" in done.stdout) == (option[:1] != ["-p"])


def test_mistakes_are_named(dlm_nodes: Nodes) -> None:
    with pytest.raises(pydlm.BadArgument, match="at least 1, not 0"):
        dlm_nodes(0)
    with pytest.raises(TypeError, match=r"a node is a connection, .* not list"):
        dlm_nodes.kill(dlm_nodes(1))  # type: ignore[arg-type]
    (node,) = dlm_nodes()
    dlm_nodes.kill(node)
    with pytest.raises(pydlm.Closed):
        dlm_nodes.kill(node)


def test_it_loads_nothing_before_it_is_used(tmp_path: Path) -> None:
    done = run_pytest(
        tmp_path,
        "import sys\n"
        "def test_it():\n"
        "    assert 'pydlm_pytest' in sys.modules and 'pydlm' not in sys.modules\n",
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("program", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_the_page(program: str, tmp_path: Path) -> None:
    done = run_pytest(tmp_path, program)
    assert done.returncode == 0 and "passed" in done.stdout, done.stdout
