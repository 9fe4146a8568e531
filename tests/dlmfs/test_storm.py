"""Many processes on two mounts count up in one block, under signals and kills: no count is lost."""

from __future__ import annotations

import os
import random
import signal

import pytest
from tests.dlmfs.client import Client
from tests.dlmfs.mounts import World, until

ROUNDS = 150

#: Counts up once; None if a signal came first.
COUNT = (
    "(lambda fd: (os.pwrite(fd, str(int(os.pread(fd, 64, 0).rstrip(bytes(1)) or 0) + 1).encode(),"
    " 0), os.close(fd)))(raw_open({path!r}, os.O_RDWR | os.O_CREAT))"
)


def count(client: Client, path: str) -> None:
    client.start(COUNT.format(path=path))


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_no_count_is_lost(world: World, seed: int) -> None:
    rng = random.Random(seed)
    mounts = [world.mount("--owner", "open") for _ in range(2)]
    crowd = [(world.client(), mount / "d/l") for mount in mounts for _ in range(3)]
    for client, path in crowd[::3]:
        assert client(f"os.mkdir({os.path.dirname(path)!r})") is None
    bystander = world.client()
    victims: list[Client] = []
    done = interrupted = 0
    for client, path in crowd:
        assert client("0") == 0  # it has begun, and signals do not kill it any more
        count(client, path)
    while done < ROUNDS:
        for client, path in crowd:
            if rng.random() < 0.3:
                client.kill(signal.SIGUSR1)
            if client.has_answered(0.01):
                if client.answer() == "EINTR":
                    interrupted += 1
                else:
                    done += 1
                count(client, path)
        if rng.random() < 0.1:
            # One that only wants to read, and is killed while it waits, or reads, or sleeps.
            victim, (_, path) = world.client(), rng.choice(crowd)
            victim.start(f"select.select([os.open({path!r}, os.O_RDONLY)], [], [])")
            victim.has_answered(rng.random() * 0.05)
            victim.kill()
            victims.append(victim)
    for client, _ in crowd:
        done += client.answer() != "EINTR"
    for victim in victims:
        until(victim.has_died, "its death")
    fd = bystander.opened(crowd[0][1], "O_RDONLY")
    assert int(bystander(f"os.read({fd}, 64)").rstrip(b"\0")) == done
    bystander(f"os.close({fd})")
    for mount in mounts:
        path = mount / "d/l"
        assert bystander(f"(os.unlink({path!r}), os.rmdir({os.path.dirname(path)!r}))")
        assert mount.kill(15) == 0 and mount.said() == ""
    assert interrupted
