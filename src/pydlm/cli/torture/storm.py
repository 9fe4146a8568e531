"""`pydlm torture --kill`: nodes are processes, and die by SIGKILL at any moment.

Each node counts up in the lock value block, or reads it, as fast as it can. What must hold is
checked against a ledger that all nodes keep in shared memory: a node writes down what it is about
to publish, and once `release` has returned, that it is published. So whoever finds a valid block
knows the lowest and the highest value that it may have. Less than what was published before the
lock was granted would be a lost update; an invalid block is the answer of a writer's death.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import select
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from multiprocessing.sharedctypes import RawArray
from time import monotonic
from typing import Any, Final, NamedTuple, cast

from pydlm.cli.torture.block import block_of, counter_of
from pydlm.cli.torture.orchestrator import PATIENCE
from pydlm.cli.torture.player import RESOURCE, Wrong
from pydlm.contract import Lock
from pydlm.errors import LVBInvalid
from pydlm.lockspace import Lockspace, connect
from pydlm.stacks.host import HostStack
from pydlm.types import Mode, NodeDown

__all__ = ["Storm", "StormResult"]

_MEAN_LIFE: Final = 0.005  # seconds between two deaths


class _Ledger(NamedTuple):
    """What the nodes know of each other; one place for each."""

    intended: Any  #: highest value the node was about to publish
    published: Any  #: highest value whose release has returned
    rounds: Any  #: locks taken


class StormResult(NamedTuple):
    """How it went."""

    kills: int
    rounds: int  #: locks taken and checked
    rebuilt: int  #: blocks found invalid and written anew
    seconds: float
    slowest_notice: float  #: seconds from a SIGKILL until everybody had been told
    wrong: Wrong | None
    leaked: dict[str, int]  #: locks left behind; 1 if slots of the arena were lost


def _play(number: int, name: str, stack: str, ledger: _Ledger, pipe: Pipe) -> None:
    """Take the lock and check, for ever. Says so on `pipe` if something is wrong."""
    ls = connect(name, stack)
    # Before the next one is killed: a block is forgotten with the last lock on its resource.
    lock = ls.lock(RESOURCE)
    pipe.send(ls.node)
    chance = random.Random()
    while True:
        wrong, rebuilt = _round(number, lock, ls.lvb_len, ledger, writes=chance.random() < 0.5)
        ledger.rounds[number] += 1
        if wrong or rebuilt:
            pipe.send(wrong)


def _round(
    number: int, lock: Lock, size: int, ledger: _Ledger, *, writes: bool
) -> tuple[Wrong | None, bool]:
    lock.acquire(mode=Mode.EX if writes else Mode.PR)
    low = max(ledger.published)
    value: int | None = 0
    valid = True
    try:
        value = counter_of(lock.lvb)
    except LVBInvalid:
        valid = False
    high = max(ledger.intended)
    fresh = high + 1
    wrong = None
    if valid and (value is None or not low <= value <= high):
        found = "a block that is not whole" if value is None else str(value)
        wrong = Wrong(number, high, "storm", f"{low} to {high}", found)
    if writes:
        ledger.intended[number] = fresh
        lock.lvb = block_of(fresh, size)
    lock.release()
    if writes:
        ledger.published[number] = fresh
    return wrong, writes and not valid


def _unsound(ls: Lockspace) -> int:
    """Return 1 if an invariant of the arena is broken, or a slot of it lost."""
    try:
        cast("HostStack", ls.stack).arena.check()
    except AssertionError:
        return 1
    return 0


class Storm:
    """Keeps `nodes` processes running while it kills `kills` of them, one after the other."""

    def __init__(self, name: str, stack: str, nodes: int) -> None:
        self._name = name
        self._stack = stack
        self._nodes = nodes
        self._context = multiprocessing.get_context("fork")
        # Places are not used again: a dead node's entries go on to count.
        self._ledger = _Ledger(*(RawArray("Q", nodes) for _ in range(3)))

    def run(self, kills: int, seconds: float | None, tell: Callable[[int], None]) -> StormResult:
        """Run until so many were killed, or the time is over, or something is wrong.

        `tell` is told of each death.
        """
        wrong: Wrong | None = None
        rebuilt = done = 0
        slowest = 0.0
        begin = monotonic()
        chance = random.Random()
        members = [self._start(number) for number in range(self._nodes)]
        with connect(self._name, self._stack) as watcher:
            end = float("inf") if seconds is None else begin + seconds
            while done < kills and wrong is None and monotonic() < end:
                pipes = [pipe for _, pipe, _ in members]
                for ready in wait(pipes, timeout=chance.expovariate(1 / _MEAN_LIFE)):
                    said: Wrong | None = cast("Pipe", ready).recv()
                    rebuilt += said is None
                    wrong = said if wrong is None else wrong
                victim = chance.randrange(self._nodes)
                process, pipe, node = members[victim]
                slowest = max(slowest, self._kill(process, node, watcher))
                pipe.close()
                members[victim] = self._start(victim)
                done += 1
                tell(done)
            for process, pipe, node in members:
                self._kill(process, node, watcher)
                pipe.close()
            took = monotonic() - begin
            left = {"locks": sum(1 for _ in watcher.dump()), "slots": _unsound(watcher)}
        return StormResult(done, sum(self._ledger.rounds), rebuilt, took, slowest, wrong, left)

    def _start(self, number: int) -> tuple[Any, Pipe, int]:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=_play,
            args=(number, self._name, self._stack, self._ledger, theirs),
            daemon=True,
        )
        process.start()
        theirs.close()
        if not ours.poll(PATIENCE):
            raise TimeoutError(f"node {number} did not come up")
        return process, ours, ours.recv()

    def _kill(self, process: Any, node: int, watcher: Lockspace) -> float:
        """Kill a node; return the seconds until its death was known."""
        begin = monotonic()
        os.kill(process.pid, signal.SIGKILL)
        while True:
            ready, _, _ = select.select([watcher], [], [], PATIENCE)
            if not ready:
                raise TimeoutError(f"nobody noticed the death of node {node}")
            if any(isinstance(e, NodeDown) and e.node == node for e in watcher.dispatch()):
                break
        process.join()
        return monotonic() - begin
