"""A process that joins and leaves over and over is never left waiting for its helper thread.

The helper lowers a flag, looks for a request, and sleeps unless the flag was raised meanwhile. If
the processor may put off the lowering until after the look, then once in a hundred thousand times
a request that came in between is never seen.
"""

from __future__ import annotations

import pytest
from tests.host.machine import Host
from tests.host.processes import Child

TIMES, ROUND = 20_000, 500


@pytest.mark.slow
def test_many_joins_of_several_processes(host: Host) -> None:
    def body(me: Child) -> None:
        for n in range(TIMES):
            host.connect().close()
            host.spaces.clear()
            if n % ROUND == 0:
                me.say(n)

    children = [host.child(body) for _ in range(3)]  # so that some are interrupted anywhere
    for n in range(0, TIMES, ROUND):
        assert [child.hear() for child in children] == [n] * 3
    assert [child.join() for child in children] == [0] * 3
    with host.connect() as ls:
        host.until(lambda: host.state(ls) == (0, 0, 1, 1), "nothing to be left of them")
