"""Two processes on different resources of one lockspace, which should not slow each other down."""

from __future__ import annotations

from collections.abc import Iterator
from multiprocessing.connection import Connection

from pydlm.cli.bench.host.partner import Partner, meeting_place
from pydlm.cli.bench.row import Row, compared
from pydlm.cli.bench.sampling import Plan, compare, loop
from pydlm.lockspace import connect

__all__ = ["host_scale"]

_PAIR = "l.acquire(); l.release()"
#: Batches in a sample: long beside the time in which one process works and the other not yet.
_LONG = 50


def _work(link: Connection, stack: str) -> None:
    with connect("bench", stack=stack) as ls:
        timed = loop(_PAIR, l=ls.lock("another"))
        link.send(None)
        while operations := link.recv():
            link.send(timed(operations))


def host_scale(plan: Plan) -> Iterator[Row]:
    """Nanoseconds for each operation of two processes together, beside one alone."""
    operations = _LONG * plan.batch
    with meeting_place() as stack, connect("bench", stack=stack) as ls:
        timed = loop(_PAIR, l=ls.lock("one"))
        with Partner(_work, stack) as partner:

            def alone() -> list[float]:
                return [timed(operations)]

            def together() -> list[float]:
                mine: list[float] = []
                theirs = partner.run(operations, lambda: mine.append(timed(operations)))
                return [1 / (1 / mine[0] + 1 / theirs)]

            found = compare(plan.rounds, together, alone)
        yield compared(
            "host.scale",
            "host: acquire+release EX, two processes on different resources, for each operation",
            found,
            "one process",
            at_most=round(1 / 1.8, 3),
        )
