"""Nobody in the way, on the host stack."""

from __future__ import annotations

from collections.abc import Iterator

from pydlm.cli.bench.host.partner import CONTEXT, meeting_place
from pydlm.cli.bench.row import Row, compared
from pydlm.cli.bench.sampling import Plan, compare, sampled
from pydlm.lockspace import Lockspace, connect

__all__ = ["host_alone"]

_PAIR = "l.acquire(); l.release()"
_WITH = "with l:\n    pass"


def host_alone(plan: Plan) -> Iterator[Row]:
    """Take EX through an open handle, and give it up."""
    plain = CONTEXT.Lock()
    what = "host: acquire+release EX, open handle, uncontended"
    with meeting_place() as stack, connect("bench", stack=stack) as ls, connect("bench") as local:
        lock, inside = _written(ls), _written(local)
        for name, statement, peer, peer_name, at_most in (
            ("host.with", _WITH, plain, "multiprocessing.Lock by `with`", 0.6),
            ("host.acquire", _PAIR, plain, "multiprocessing.Lock", 2.0),
            ("host.local", _PAIR, inside, "pydlm, the local stack", 1.15),
        ):
            found = compare(
                plan.rounds, sampled(plan, statement, l=lock), sampled(plan, statement, l=peer)
            )
            yield compared(name, what, found, peer_name, at_most=at_most)
            what = "the same by `acquire` and `release`"


def _written(ls: Lockspace) -> object:
    """Open a lock whose lock value block has been written."""
    lock = ls.lock("alone")
    with lock:
        lock.lvb = bytes(ls.lvb_len)
    return lock
