from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.dlmfs.client import Client
from tests.dlmfs.mounts import Mounted, World, is_root_with_fuse


@pytest.fixture
def world() -> Iterator[World]:
    if why := is_root_with_fuse():
        pytest.skip(why)
    made = World()
    try:
        yield made
    finally:
        made.end()


@pytest.fixture
def mount(world: World) -> Mounted:
    """One node, with the domain `d`."""
    made = world.mount()
    assert world.client()(f"os.mkdir({made / 'd'!r})") is None
    return made


@pytest.fixture
def client(world: World) -> Client:
    return world.client()


@pytest.fixture
def two(world: World, mount: Mounted) -> tuple[Mounted, Mounted]:
    """Two nodes, both in the domain `d`."""
    other = world.mount()
    assert world.client()(f"os.mkdir({other / 'd'!r})") is None
    return mount, other
