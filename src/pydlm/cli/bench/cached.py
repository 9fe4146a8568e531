"""A cached lock whose level suffices."""

from __future__ import annotations

import threading
from collections.abc import Iterator

from pydlm.cli.bench.row import Row, compared
from pydlm.cli.bench.sampling import Plan, compare, sampled
from pydlm.lockspace import connect

__all__ = ["cached"]

_WITH = "with l:\n    pass"


def cached(plan: Plan) -> Iterator[Row]:
    """Begin a use and end it, in an EX that is kept, beside a `threading.Lock`."""
    with connect("bench") as ls:
        lock = ls.cached("cached")
        with lock.exclusive():
            lock.lvb = bytes(ls.lvb_len)
        for name, what, statement, subject in (
            ("cached.shared", "`with lock.shared()`", "with l.shared():\n    pass", lock),
            ("cached.exclusive", "`with lock.exclusive()`", "with l.exclusive():\n    pass", lock),
            ("cached.reused", "`with` of a `lock.shared()` made once", _WITH, lock.shared()),
        ):
            ours = sampled(plan, statement, l=subject)
            yield compared(
                name,
                f"{what}, cached lock, level suffices",
                compare(plan.rounds, ours, sampled(plan, _WITH, l=threading.Lock())),
                "threading.Lock by `with`",
                at_most=1.0,
            )
