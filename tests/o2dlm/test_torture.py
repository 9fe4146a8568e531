"""lvb_torture in C: two nodes count in a lock value block through the real libo2dlm."""

from __future__ import annotations

from contextlib import ExitStack

import pytest
from tests.o2dlm.conftest import Build, Mounts
from tests.o2dlm.nodes import Program

from pydlm.o2dlm.preload import preload_environment


@pytest.mark.timeout(300)
@pytest.mark.parametrize("iterations", [1500, pytest.param(20_000, marks=pytest.mark.slow)])
def test_nodes_count(
    iterations: int, build: Build, libo2dlm: list[str], mounted: Mounts, domain: str
) -> None:
    program = build("torture", *libo2dlm)
    with ExitStack() as ends:
        nodes = []
        for number in (1, 2):
            words = (mounted(number).path, domain, "counter", str(number), str(iterations))
            nodes.append(Program([program, *words], preload_environment({})))
            ends.callback(nodes[-1].end)
        assert [node.answer() for node in nodes] == ["ready"] * 2
        for node in nodes:
            node.tell()
        writes = 2 * (iterations // 3) + min(iterations % 3, 2)
        assert [node.answer(200) for node in nodes] == [f"wrote {writes}"] * 2
        for node in nodes:
            node.tell()
        assert [node.answer() for node in nodes] == [f"last {2 * writes}"] * 2
        for node in nodes:
            node.tell()
        assert [node.end() for node in nodes] == [0, 0]
