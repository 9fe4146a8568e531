"""All benchmarks, by name, in the order of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from pydlm.cli.bench.cached import cached
from pydlm.cli.bench.crowd import holders, waiters
from pydlm.cli.bench.handover import handover
from pydlm.cli.bench.host import host_alone, host_handover, host_notice, host_scale
from pydlm.cli.bench.memory import memory
from pydlm.cli.bench.million import million
from pydlm.cli.bench.notice import notice
from pydlm.cli.bench.row import Row
from pydlm.cli.bench.sampling import Plan
from pydlm.cli.bench.uncontended import acquire, fresh, shared, with_statement

__all__ = ["BENCHMARKS"]

#: Each yields the rows it has measured.
BENCHMARKS: Final[dict[str, Callable[[Plan], Iterator[Row]]]] = {
    "acquire": acquire,
    "with": with_statement,
    "shared": shared,
    "cached": cached,
    "fresh": fresh,
    "handover": handover,
    "notice": notice,
    "million": million,
    "memory": memory,
    "holders": holders,
    "waiters": waiters,
    "host": host_alone,
    "host.handover": host_handover,
    "host.notice": host_notice,
    "host.scale": host_scale,
}
