"""Another process that does a part of a benchmark, and the place where both meet."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CONTEXT", "Partner", "meeting_place"]

#: Of all processes and semaphores here: a fork would copy the threads of this one half-way.
CONTEXT = get_context("spawn")


@contextmanager
def meeting_place() -> Iterator[str]:
    """Yield a host stack with a directory of its own, gone afterwards."""
    shm = "/dev/shm"
    with tempfile.TemporaryDirectory(
        prefix="pydlm-bench-", dir=shm if os.path.isdir(shm) else None
    ) as directory:
        yield f"host:{directory}"


class Partner:
    """A process that runs `serve(link, *arguments)`.

    That says when it is ready by sending None; then does its part for each number that it receives,
    and answers; and ends at 0.
    """

    def __init__(self, serve: Callable[..., None], *arguments: Any) -> None:
        self._link: Connection
        self._link, theirs = CONTEXT.Pipe()
        self._process = CONTEXT.Process(target=serve, args=(theirs, *arguments), daemon=True)
        self._process.start()
        theirs.close()
        self._link.recv()

    def run(self, number: int, here: Callable[[], None]) -> Any:
        """Have the other do its part while we do ours; return its answer."""
        self._link.send(number)
        here()
        return self._link.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self._link.send(0)
        else:
            self._process.kill()
        self._process.join()
        self._link.close()
