"""`node1` and `node2`: nodes of a real cluster, booted for the first test that wants them."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.lab.build import missing
from tests.lab.node import Lab, Node, dlmfs


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"lab", "node1", "node2", "dlmfs_nodes"} & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.lab)


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two nodes with corosync and dlm_controld."""
    if reason := missing():
        if os.environ.get("PYDLM_TEST_ALL"):
            pytest.fail(reason)
        pytest.skip(reason)
    with Lab.of(2, tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture
def node1(lab: Lab) -> Node:
    """The first node, which runs."""
    return _running(lab, 1)


@pytest.fixture
def node2(lab: Lab) -> Node:
    """The second node, which runs."""
    return _running(lab, 2)


def _running(lab: Lab, number: int) -> Node:
    node = lab.node(number)
    node.boot()  # a test before may have killed it
    return node


@pytest.fixture(scope="module", params=["pcmk", "o2cb"])
def cluster_stack(request: pytest.FixtureRequest, lab: Lab) -> Iterator[str]:
    """What the ocfs2_dlmfs of `dlmfs_nodes` is on: pcmk is fs/dlm, o2cb has a heartbeat of its own.

    One after the other, on machines that have booted for it.
    """
    yield request.param
    for number in (1, 2):
        lab.node(number).kill()


@pytest.fixture
def dlmfs_nodes(cluster_stack: str, node1: Node, node2: Node) -> tuple[Node, Node]:
    """Both nodes, with ocfs2_dlmfs on /run/dlm."""
    nodes = node1, node2
    for mounting in [node.begin(dlmfs(cluster_stack)) for node in nodes]:
        assert mounting.wait() == 0, mounting.out + mounting.err
    return nodes
