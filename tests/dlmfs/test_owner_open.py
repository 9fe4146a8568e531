"""`--owner open`: each open file is an owner of its own, also beside others of the same mount."""

from __future__ import annotations

import pytest
from tests.dlmfs.client import PATIENCE, Client, opening
from tests.dlmfs.mounts import Mounted, World, until


@pytest.fixture
def mount(world: World) -> Mounted:
    made = world.mount("--owner", "open")
    assert world.client()(f"os.mkdir({made / 'd'!r})") is None
    return made


@pytest.mark.parametrize(("held", "wanted"), [("O_RDWR", "O_RDONLY"), ("O_RDONLY", "O_RDWR")])
def test_two_processes_exclude_each_other(
    world: World, mount: Mounted, client: Client, held: str, wanted: str
) -> None:
    fd, other = client.opened(mount / "d/l", held), world.client()
    assert other(opening(mount / "d/l", wanted + "|O_NONBLOCK")) == "ETXTBSY"
    other.start(opening(mount / "d/l", wanted))
    world.waits(other)
    assert client(f"select.select([{fd}], [], [], {PATIENCE})[0]") == [fd]
    client(f"os.close({fd})")
    assert isinstance(other.answer(), int)


def test_so_do_two_open_files_of_one_process(mount: Mounted, client: Client) -> None:
    fd = client.opened(mount / "d/l")
    trying = opening(mount / "d/l", "O_RDWR|O_NONBLOCK")
    assert client(trying) == "ETXTBSY"
    copy = client(f"os.dup({fd})")
    client(f"os.close({fd})")
    assert client(trying) == "ETXTBSY"
    client(f"os.close({copy})")
    assert isinstance(client(trying), int)


def test_readers_share_and_a_writer_sees_what_was_written(
    world: World, mount: Mounted, client: Client
) -> None:
    other = world.client()
    fd = client.opened(mount / "d/l")
    client(f"(os.write({fd}, b'value'), os.close({fd}))")
    for reader in (client, other):
        fd = reader.opened(mount / "d/l", "O_RDONLY")
        assert reader(f"os.read({fd}, 5)") == b"value"


def test_nothing_is_kept(world: World, mount: Mounted, client: Client) -> None:
    """So who only tries on another node gets it."""
    other = world.mount("--owner", "open")
    client(f"os.mkdir({other / 'd'!r})")
    fd = client.opened(mount / "d/l")
    client(f"os.close({fd})")
    trying = opening(other / "d/l", "O_RDWR|O_NONBLOCK")
    # close(2) returns a moment before the mount knows of it.
    fd = until(lambda: (fd := client(trying)) != "ETXTBSY" and fd, "the release")
    assert client(opening(mount / "d/l", "O_RDONLY|O_NONBLOCK")) == "ETXTBSY"


def test_unlink(world: World, mount: Mounted, client: Client) -> None:
    path, waiter = mount / "d/l", world.client()
    fd = client.opened(path)
    waiter.start(opening(path))
    world.waits(waiter)
    assert client(f"os.unlink({path!r})") == "EBUSY"
    client(f"os.close({fd})")
    fd = waiter.answer()
    assert waiter(f"(os.write({fd}, b'x'), os.close({fd}), os.unlink({path!r}))")[2] is None
    fd = client.opened(path)
    assert client(f"os.read({fd}, 64)") == bytes(64)


def test_first_come_first_served(world: World, mount: Mounted, client: Client) -> None:
    fd = client.opened(mount / "d/l")
    line = [world.client() for _ in range(4)]
    for one in line:
        one.start(opening(mount / "d/l"))
        world.waits(one)
    client(f"os.close({fd})")
    for number, one in enumerate(line):
        fd = one.answer()
        assert not any(later.has_answered() for later in line[number + 1 :])
        one(f"os.close({fd})")


def test_counting_up_in_the_block(world: World, mount: Mounted) -> None:
    """Four processes, a read and a write each time: no count is lost."""
    counting = (
        "[(fd := os.open({path!r}, os.O_RDWR | os.O_CREAT),"
        " os.pwrite(fd, str(int(os.pread(fd, 64, 0).rstrip(bytes(1)) or 0) + 1).encode(), 0),"
        " os.close(fd)) for _ in range({rounds})] and None"
    ).format(path=mount / "d/l", rounds=200)
    clients = [world.client() for _ in range(4)]
    for one in clients:
        one.start(counting)
    for one in clients:
        assert one.answer() is None
    fd = clients[0].opened(mount / "d/l", "O_RDONLY")
    assert clients[0](f"os.read({fd}, 64)").rstrip(b"\0") == b"800"
