"""A directory of lockspaces, and the processes that use them."""

from __future__ import annotations

import faulthandler
import itertools
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.host.processes import PATIENCE, Child

import pydlm
from pydlm import Lockspace

_numbers = itertools.count()


class Host:
    """A directory of lockspaces, and processes that use them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.stack = f"host:{directory}"
        self.name = f"test-{next(_numbers)}"
        self.spaces: list[Lockspace] = []
        self.children: list[Child] = []

    def connect(self, name: str | None = None, **options: Any) -> Lockspace:
        options.setdefault("capacity", 255)
        options.setdefault("stack", self.stack)
        space = pydlm.connect(self.name if name is None else name, **options)
        self.spaces.append(space)
        return space

    def child(self, body: Callable[[Child], object]) -> Child:
        child = Child(body)
        self.children.append(child)
        return child

    def until(
        self, holds: Callable[[], object], what: str = "", patience: float = PATIENCE
    ) -> None:
        give_up = time.monotonic() + patience
        while not holds():
            if time.monotonic() > give_up:
                faulthandler.dump_traceback()
                dump = [str(s) for space in self.spaces[:1] for s in space.dump()]
                pytest.fail("\n".join([f"waited in vain for {what or holds}", *dump]))
            time.sleep(0.0005)

    def state(self, space: Lockspace) -> tuple[int, int, int, int]:
        """Return how many locks, resources, connections and processes there are."""
        arena: Any = space.stack.arena  # type: ignore[attr-defined]
        usage = arena.usage()
        return usage["locks"], usage["resources"], arena.connections, len(arena.processes())

    def end(self) -> None:
        for child in self.children:
            child.end()
        for space in self.spaces:
            space.close()


def readable(thing: Any) -> bool:
    return bool(select.select([thing], [], [], 0)[0])
