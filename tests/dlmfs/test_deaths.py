"""Who is killed loses its locks at once; who gets a signal need not wait any longer."""

from __future__ import annotations

import pytest
from tests.dlmfs.client import Client, opening
from tests.dlmfs.mounts import Mounted, World, until

import pydlm
from pydlm import Mode

Two = tuple[Mounted, Mounted]


def raw_opening(path: str) -> str:
    return f"raw_open({path!r}, os.O_RDWR | os.O_CREAT)"


@pytest.mark.parametrize("owner", ["node", "open"])
def test_a_killed_client_loses_its_lock(world: World, owner: str) -> None:
    one, two = world.mount("--owner", owner), world.mount("--owner", owner)
    victim, other = world.client(), world.client()
    for mount in (one, two):
        victim(f"os.mkdir({mount / 'd'!r})")
    victim.opened(one / "d/l")
    other.start(opening(two / "d/l"))
    world.waits(other)
    victim.kill()
    assert isinstance(other.answer(), int)


def test_a_signal_ends_the_wait(world: World, two: Two, client: Client) -> None:
    fd, other = client.opened(two[0] / "d/l"), world.client()
    for _ in range(3):
        other.start(raw_opening(two[1] / "d/l"))
        world.waits(other)
        other.kill(10)
        assert other.answer() == "EINTR"
    client(f"os.close({fd})")
    # Nothing was left in line, or held.
    fd = other.opened(two[1] / "d/l", "O_RDWR")
    other(f"os.close({fd})")
    client.opened(two[0] / "d/l")


def test_a_stop_ends_it_too(world: World, two: Two, client: Client) -> None:
    client.opened(two[0] / "d/l")
    other = world.client()
    other.start(raw_opening(two[1] / "d/l"))
    world.waits(other)
    other.kill(19)
    until(lambda: other.waits_in() != "request_wait_answer", "the stop")
    other.kill(18)
    assert other.answer() == "EINTR"


def test_python_waits_on_after_a_signal(world: World, two: Two, client: Client) -> None:
    fd, other = client.opened(two[0] / "d/l"), world.client()
    other.start(opening(two[1] / "d/l"))
    world.waits(other)
    other.kill(10)
    world.waits(other)
    client(f"os.close({fd})")
    assert isinstance(other.answer(), int)


def test_sigkill_ends_the_wait(world: World, two: Two, client: Client) -> None:
    fd, other, third = client.opened(two[0] / "d/l"), world.client(), world.client()
    other.start(opening(two[1] / "d/l"))
    world.waits(other)
    other.kill()
    until(other.has_died, "its death")
    third.start(opening(two[1] / "d/l"))
    world.waits(third)
    client(f"os.close({fd})")
    theirs = third.answer()
    assert third(f"(os.close({theirs}), os.unlink({two[1] / 'd/l'!r}))") == (None, None)


def test_a_signal_ends_unlink(world: World, two: Two, client: Client) -> None:
    fd, opener, remover = client.opened(two[0] / "d/l"), world.client(), world.client()
    opener.start(opening(two[1] / "d/l"))
    world.waits(opener)
    remover.start(f"os.unlink({two[1] / 'd/l'!r})")
    world.waits(remover)
    remover.kill(10)
    assert remover.answer() == "EINTR"
    client(f"os.close({fd})")
    assert isinstance(opener.answer(), int)


def test_a_crowd_that_is_killed_leaves_no_trace(world: World, two: Two, client: Client) -> None:
    fd = client.opened(two[0] / "d/l")
    crowd = [world.client() for _ in range(8)]
    for number, one in enumerate(crowd):
        one.start(opening(two[1] / "d/l", "O_RDWR" if number % 2 else "O_RDONLY"))
    for one in crowd:
        world.waits(one)
    for one in crowd:
        one.kill()
    for one in crowd:
        until(one.has_died, "its death")
    client(f"os.close({fd})")
    assert client(f"os.unlink({two[1] / 'd/l'!r})") is None
    assert client(f"os.rmdir({two[1] / 'd'!r})") is None


def test_a_killed_daemon_answers_with_errors_and_has_no_locks(
    world: World, two: Two, client: Client
) -> None:
    holder, sleeper, waiter = client, world.client(), world.client()
    fd = holder.opened(two[0] / "d/l")
    asleep = sleeper.opened(two[0] / "d/quiet")
    sleeper.start(f"(lambda p: (p.register({asleep}, 1), p.poll(20000))[1])(select.poll())")
    until(lambda: "poll" in sleeper.waits_in(), "that it sleeps")
    theirs = world.client().opened(two[1] / "d/other")
    assert theirs
    waiter.start(opening(two[0] / "d/other"))
    world.waits(waiter)
    other = world.client()
    other.start(opening(two[1] / "d/l"))
    world.waits(other)
    two[0].kill()
    assert isinstance(other.answer(), int)
    assert waiter.answer() in {"ENOTCONN", "ECONNABORTED"}
    assert sleeper.answer() == [(asleep, 8)]  # POLLERR
    for call in (f"os.read({fd}, 64)", f"os.write({fd}, b'x')", opening(two[0] / "d/l")):
        assert holder(call) in {"ENOTCONN", "ECONNABORTED"}, call
    assert holder(f"os.stat({two[0] / 'd'!r})") == "ENOTCONN"
    assert holder(f"os.close({fd})") is None


def test_a_stopped_daemon_unmounts_though_files_are_open(
    world: World, two: Two, client: Client
) -> None:
    fd, other, waiter = client.opened(two[0] / "d/l"), world.client(), world.client()
    client.opened(two[1] / "d/w")
    waiter.start(opening(two[0] / "d/w"))
    world.waits(waiter)
    other.start(opening(two[1] / "d/l"))
    world.waits(other)
    assert two[0].kill(15) == 0
    assert isinstance(other.answer(), int)
    assert waiter.answer() in {"ENOTCONN", "ECONNABORTED"}
    assert client(f"os.read({fd}, 64)") in {"ENOTCONN", "ECONNABORTED", "EIO"}
    assert client(f"os.listdir({two[0].path!r})") == []


def test_scripts_and_python_share_locks(world: World, mount: Mounted, client: Client) -> None:
    fd = client.opened(mount / "d/l")
    client(f"os.write({fd}, b'from a script')")
    with pydlm.connect("d", stack=world.stack) as ls:
        lock = ls.lock("l")
        assert not lock.acquire(blocking=False)
        assert client(f"os.close({fd})") is None
        assert lock.acquire(timeout=20, mode=Mode.PR)
        assert lock.lvb.rstrip(b"\0") == b"from a script"
        client.start(opening(mount / "d/l"))
        world.waits(client)
        until(lambda: lock.blocked is Mode.EX, "the notice")
        lock.release()
        assert isinstance(client.answer(), int)
