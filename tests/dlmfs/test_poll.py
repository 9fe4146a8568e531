"""POLLIN on every descriptor of a lock as long as another node wants it."""

from __future__ import annotations

import pytest
from tests.dlmfs.client import PATIENCE, Client, opening
from tests.dlmfs.mounts import Mounted, World, until

Two = tuple[Mounted, Mounted]

ALL = "select.POLLIN | select.POLLOUT | select.POLLPRI | select.POLLRDNORM"
NOW = f"(lambda p: (p.register({{fd}}, {ALL}), p.poll({{ms}}))[1])(select.poll())"
WANTED = 0x41  # POLLIN | POLLRDNORM


def polled(client: Client, fd: int) -> int:
    found = client(NOW.format(fd=fd, ms=0))
    return found[0][1] if found else 0


def test_it_is_up_while_another_node_waits(world: World, two: Two, client: Client) -> None:
    fd, second = client.opened(two[0] / "d/l"), client.opened(two[0] / "d/l", "O_RDONLY")
    assert polled(client, fd) == polled(client, second) == 0
    other = world.client()
    other.start(opening(two[1] / "d/l"))
    for one in (fd, second):
        until(lambda: polled(client, one) == WANTED)
    client(f"os.close({fd})")
    assert polled(client, second) == WANTED
    client(f"os.close({second})")
    assert polled(other, other.answer()) == 0


SLEEPERS = {
    "poll": NOW.format(fd="{fd}", ms=int(PATIENCE * 1000)),
    "select": f"select.select([{{fd}}], [], [], {PATIENCE})[0]",
    "epoll": f"(lambda e: (e.register({{fd}}, 1), e.poll({PATIENCE}))[1])(select.epoll())",
    "edge": f"(lambda e: (e.register({{fd}}, 1 | select.EPOLLET), e.poll({PATIENCE}))[1])"
    "(select.epoll())",
}


@pytest.mark.parametrize("how", SLEEPERS)
def test_who_sleeps_is_woken(world: World, two: Two, client: Client, how: str) -> None:
    fd = client.opened(two[0] / "d/l")
    client.start(SLEEPERS[how].format(fd=fd))
    until(lambda: "poll" in client.waits_in() or "select" in client.waits_in(), "that it sleeps")
    assert not client.has_answered()
    world.client().start(opening(two[1] / "d/l", "O_RDONLY"))
    assert str(fd) in str(client.answer())


def test_everybody_who_sleeps_is_woken(world: World, two: Two) -> None:
    """Several processes, several of them on one open file."""
    sleepers = [world.client() for _ in range(3)]
    for sleeper in sleepers:
        fd = sleeper.opened(two[0] / "d/l", "O_RDONLY")
        sleeper.start(SLEEPERS["poll"].format(fd=fd))
        until(lambda: "poll" in sleeper.waits_in(), "that it sleeps")
    world.client().start(opening(two[1] / "d/l"))
    for sleeper in sleepers:
        assert sleeper.answer()


def test_edge_triggered_is_told_once_a_time(world: World, two: Two, client: Client) -> None:
    fd, other = client.opened(two[0] / "d/l"), world.client()
    client.start(f"globals().update(e=select.epoll()) or e.register({fd}, 1 | select.EPOLLET)")
    assert client.answer() is None
    assert client("e.poll(0)") == []
    for _ in range(2):
        other.start(opening(two[1] / "d/l"))
        assert client(f"e.poll({PATIENCE})") == [(fd, 1)]
        assert client("e.poll(0)") == []
        client(f"os.close({fd})")
        theirs = other.answer()
        other(f"os.close({theirs})")
        fd = client.opened(two[0] / "d/l")
        assert client(f"e.register({fd}, 1 | select.EPOLLET)") is None
        assert client("e.poll(0)") == []


def test_level_triggered_is_told_again(world: World, two: Two, client: Client) -> None:
    fd = client.opened(two[0] / "d/l")
    client(f"globals().update(e=select.epoll()) or e.register({fd}, 1)")
    world.client().start(opening(two[1] / "d/l"))
    for _ in range(3):
        assert client(f"e.poll({PATIENCE})") == [(fd, 1)]


def test_who_only_tries_bothers_nobody(world: World, two: Two, client: Client) -> None:
    fd, other = client.opened(two[0] / "d/l"), world.client()
    assert other(opening(two[1] / "d/l", "O_RDWR|O_NONBLOCK")) == "ETXTBSY"
    assert polled(client, fd) == 0


def test_sleeping_again_and_again_leaks_nothing(world: World, two: Two, client: Client) -> None:
    fd, other = client.opened(two[0] / "d/l", "O_RDONLY"), world.client()
    client("globals().update(e=select.epoll())")
    for _ in range(200):
        assert client(f"e.register({fd}, 1) or e.poll(0) or e.unregister({fd})") is None
    assert client(f"e.register({fd}, 1)") is None
    other.start(opening(two[1] / "d/l"))
    assert client(f"e.poll({PATIENCE})") == [(fd, 1)]
