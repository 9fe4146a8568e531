"""Opening and closing for ever takes no memory and no descriptors."""

from __future__ import annotations

import os

import pytest
from tests.dlmfs.client import Client
from tests.dlmfs.mounts import Mounted, World


def grown(mount: Mounted, client: Client, call: str, rounds: int) -> int:
    """Return how many kB the daemon has grown by while a call was made `rounds` times."""
    pid = mount.process.pid

    def resident() -> int:
        with open(f"/proc/{pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024

    def repeat(times: int) -> None:
        while times > 0:
            assert client(f"[{call} for _ in range({min(times, 20_000)})] and None") is None
            times -= 20_000

    repeat(rounds // 5)
    before, descriptors = resident(), set(os.listdir(f"/proc/{pid}/fd"))
    repeat(rounds)
    assert set(os.listdir(f"/proc/{pid}/fd")) == descriptors
    return resident() - before


@pytest.mark.slow
@pytest.mark.parametrize("owner", ["node", "open"])
@pytest.mark.parametrize(
    "rounds", [20_000, pytest.param(1_000_000, marks=pytest.mark.timeout(1800))]
)
def test_opens(world: World, client: Client, owner: str, rounds: int) -> None:
    if owner == "open" and rounds == 1_000_000:
        rounds //= 4
    mount = world.mount("--owner", owner)
    client(f"os.mkdir({mount / 'd'!r})")
    path = mount / "d/l"
    call = f"os.close(os.open({path!r}, os.O_RDWR | os.O_CREAT))"
    assert grown(mount, client, call, rounds) < 512


def test_files_that_come_and_go(world: World, mount: Mounted, client: Client) -> None:
    path = mount / "d/l"
    call = f"(os.close(os.open({path!r}, os.O_RDWR | os.O_CREAT)), os.unlink({path!r}))"
    assert grown(mount, client, call, 2_000) < 512


def test_sleepers(world: World, mount: Mounted, client: Client) -> None:
    fd = client.opened(mount / "d/l")
    client("globals().update(e=select.epoll())")
    call = f"(e.register({fd}, 1), e.poll(0), e.unregister({fd}))"
    assert grown(mount, client, call, 5_000) < 512
