"""What a mounted ocfs2_dlmfs does, as recorded: cached locks do the same.

A node is a connection, a domain a lockspace. `open` begins a use (RDONLY shared, else exclusive)
of a lock without exclusion, `close` ends it, `poll` looks at its descriptor. Left out are
scenarios about files rather than locks, and those that send a signal to a process that waits: there
the kernel waits on. Of a single node only those that look at several openers are taken.
"""

from __future__ import annotations

import contextlib
import json
import logging
import lzma
import select
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.core.conftest import Task, World

import pydlm
from pydlm import CachedLock, LVBInvalid

RECORDINGS = Path(pydlm.__file__).parent / "testing" / "recordings" / "dlmfs"
CALLS = {"mkdir", "open", "close", "poll", "read", "pread", "write", "pwrite", "kill_node"}


def scenarios() -> Iterator[Any]:
    for path in sorted(RECORDINGS.glob("*.jsonl.xz")):
        with lzma.open(path, "rt") as lines:
            for scenario in map(json.loads, lines):
                calls = {step["call"] for step in scenario["steps"]}
                of_locks = "single" not in path.name or "-same-" in scenario["name"]
                if "zz-trylock" in scenario["name"]:
                    # On pcmk they hang for ever; the signal at their end only clears up.
                    of_locks, calls = scenario["stack"] == "o2cb", calls - {"kill"}
                if of_locks and calls <= CALLS:
                    yield pytest.param(scenario, id=scenario["name"])


class Replay:
    """One scenario on the nodes of one lockspace."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.spaces: dict[int, pydlm.Lockspace] = {}
        self.files: dict[tuple[str, str], tuple[CachedLock, bool, str]] = {}
        self.at: dict[tuple[str, str], int] = {}
        self.blocked: dict[int, tuple[int, Task]] = {}  # by step: node and call
        self.rebuilt: set[int] = set()  # locks that were invalid, and written by their node since

    def lock(self, node: int, path: str) -> CachedLock:
        if node not in self.spaces:
            self.spaces[node] = self.world.connect()
        return self.spaces[node].cached(path, exclusion=False)

    def step(self, number: int, step: dict[str, Any]) -> None:
        if step.get("skipped") or step["call"] in ("mkdir", "kill"):
            return
        if "errno" in step and step["call"] != "open":
            return  # what the file system refuses
        getattr(self, step["call"])(number, step)
        for ended in step.get("completed", ()):
            assert ended["ret"] == 0
            self.blocked.pop(ended["step"])[1].result()
        for _, task in self.blocked.values():
            assert not task.done

    def open(self, number: int, step: dict[str, Any]) -> None:
        path, flags = step["args"]
        lock, words = self.lock(step["node"], path), flags.split("|")
        exclusive, trying = "RDONLY" not in words, "NONBLOCK" in words
        use = (lock.exclusive if exclusive else lock.shared)(not trying)
        self.files[step["proc"], step["as"]] = (lock, exclusive, path)
        self.at[step["proc"], step["as"]] = 0
        if step.get("blocked"):
            task = self.world.thread(use.__enter__)
            self.blocked[number] = step["node"], task
            self.world.until(lambda: task.done or lock._kept.machine._line)
        elif step["ret"] == 0:
            self.world.worker(use.__enter__).result()
        else:
            assert step["errno_name"] == "ETXTBSY"
            with pytest.raises(pydlm.WouldBlock):
                use.__enter__()

    def close(self, number: int, step: dict[str, Any]) -> None:
        lock, exclusive, _ = self.files.pop((step["proc"], step["args"][0]))
        (lock.exclusive() if exclusive else lock.shared()).__exit__(None, None, None)

    def poll(self, number: int, step: dict[str, Any]) -> None:
        lock, _, _ = self.files[step["proc"], step["args"][0]]
        wanted = "POLLIN" in step["revents"]
        poll = select.poll()
        poll.register(lock.fileno(), select.POLLIN)
        self.world.until(lambda: bool(poll.poll(0)) == wanted, f"POLLIN to be {wanted}")

    def read(self, number: int, step: dict[str, Any]) -> None:
        key = step["proc"], step["args"][0]
        self.look(step, self.at[key], step["args"][1])
        self.at[key] += step["ret"]

    def pread(self, number: int, step: dict[str, Any]) -> None:
        self.look(step, step["args"][2], step["args"][1])

    def look(self, step: dict[str, Any], start: int, count: int) -> None:
        lock, _, _ = self.files[step["proc"], step["args"][0]]
        if step["node"] in self.rebuilt:
            # The kernel goes on saying "invalid" until the node lets go; ours is valid again.
            assert lock.lvb_valid
            return
        try:
            data = lock.lvb[start : start + count]
        except LVBInvalid:
            data = b""
        assert data.hex() == step["data"]

    def write(self, number: int, step: dict[str, Any]) -> None:
        lock, _, _ = self.files[step["proc"], step["args"][0]]
        data = bytes.fromhex(step["args"][1])[: step["ret"]]
        if not lock.lvb_valid:
            self.rebuilt.add(step["node"])
        before = lock.lvb if lock.lvb_valid else bytes(64)
        lock.lvb = data + before[len(data) :]
        self.at[step["proc"], step["args"][0]] += len(data)

    # It writes at the start of the block, wherever it was told to.
    pwrite = write

    def kill_node(self, number: int, step: dict[str, Any]) -> None:
        keeper: Any = self.spaces[step["node"]]._cached._keeper
        keeper.stack.abandon()
        for key in [k for k, (lock, *_) in self.files.items() if lock._keeper is keeper]:
            del self.files[key]
        for n in [n for n, (node, _) in self.blocked.items() if node == step["node"]]:
            del self.blocked[n]


@pytest.mark.parametrize("scenario", list(scenarios()))
def test_as_recorded(world: World, scenario: Any, caplog: pytest.LogCaptureFixture) -> None:
    replay = Replay(world)
    with caplog.at_level(logging.CRITICAL, logger="pydlm"):
        for number, step in enumerate(scenario["steps"]):
            replay.step(number, step)
        for lock, exclusive, _ in replay.files.values():
            with contextlib.suppress(pydlm.DlmError):
                (lock.exclusive() if exclusive else lock.shared()).__exit__(None, None, None)
