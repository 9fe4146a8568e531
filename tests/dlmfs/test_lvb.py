"""A file's contents are the lock value block."""

from __future__ import annotations

import pytest
from tests.dlmfs.client import Client, opening
from tests.dlmfs.mounts import Mounted, World

import pydlm

ZEROS = bytes(64)


@pytest.fixture
def fd(mount: Mounted, client: Client) -> int:
    return client.opened(mount / "d/l")


def block(client: Client, fd: int) -> bytes:
    found = client(f"os.pread({fd}, 200, 0)")
    assert isinstance(found, bytes)
    return found


def test_constant_size(client: Client, fd: int) -> None:
    assert client(f"os.read({fd}, 100)") == ZEROS
    assert client(f"os.read({fd}, 1)") == b""
    assert client(f"os.lseek({fd}, 0, os.SEEK_END)") == 64
    assert client(f"os.pwrite({fd}, b'x' * 5000, 0)") == 64
    assert client(f"os.pwrite({fd}, b'yy', 0)") == 2
    assert block(client, fd) == b"yy" + b"x" * 62


def test_writes_go_where_they_are_told(client: Client, fd: int) -> None:
    assert client(f"os.write({fd}, b'1' * 40)") == 40
    assert client(f"os.write({fd}, b'2' * 40)") == 24
    assert client(f"os.write({fd}, b'3')") == "ENOSPC"
    assert client(f"os.pwrite({fd}, b'ab', 63)") == 1
    assert client(f"os.pwrite({fd}, b'', 0)") == 0
    for offset in (64, 100, 4096):
        assert client(f"os.pwrite({fd}, b'x', {offset})") == "ENOSPC"
        assert client(f"os.pread({fd}, 9, {offset})") == b""
    assert block(client, fd) == b"1" * 40 + b"2" * 23 + b"a"
    assert client(f"os.pread({fd}, 9, 60)") == b"222a"


def test_appending_begins_at_the_start(mount: Mounted, client: Client) -> None:
    """`echo v >> lock`: what cannot be appended to 64 bytes is the value."""
    fd = client.opened(mount / "d/l", "O_RDWR|O_APPEND")
    assert client(f"(os.write({fd}, b'ab'), os.write({fd}, b'cd'))") == (2, 2)
    assert block(client, fd) == b"abcd" + bytes(60)


def test_truncation_means_nothing(mount: Mounted, client: Client, fd: int) -> None:
    client(f"os.write({fd}, b'value')")
    again = client.opened(mount / "d/l", "O_RDWR|O_TRUNC")
    assert client(f"(os.ftruncate({again}, 3), os.fstat({again}).st_size)") == (None, 64)
    assert block(client, again) == b"value" + bytes(59)


def test_only_who_may_write_does(mount: Mounted, client: Client) -> None:
    reader = client.opened(mount / "d/l", "O_RDONLY")
    writer = client.opened(mount / "d/l", "O_WRONLY")
    assert client(f"os.write({reader}, b'x')") == "EBADF"
    assert client(f"os.read({writer}, 64)") == "EBADF"


def test_processes_of_one_node_see_it_at_once(
    world: World, mount: Mounted, client: Client, fd: int
) -> None:
    other = world.client()
    reading = other.opened(mount / "d/l", "O_RDONLY")
    client(f"os.write({fd}, b'one')")
    assert block(other, reading)[:3] == b"one"


def test_other_nodes_see_what_was_there_at_the_close(
    world: World, two: tuple[Mounted, Mounted], client: Client
) -> None:
    others = (client, world.client())
    for turn in range(6):
        who, fd = others[turn % 2], others[turn % 2].opened(two[turn % 2] / "d/l")
        assert block(who, fd).rstrip(b"\0") == (b"%d" % turn if turn else b"")
        who(f"os.pwrite({fd}, b'{turn + 1}', 0)")
        who(f"os.close({fd})")


def test_unlink_forgets_it(mount: Mounted, client: Client, fd: int) -> None:
    client(f"os.write({fd}, b'value')")
    assert client(f"(os.close({fd}), os.unlink({mount / 'd/l'!r}))") == (None, None)
    assert block(client, client.opened(mount / "d/l")) == ZEROS


def test_invalid_reads_as_nothing_until_it_is_written(
    world: World, two: tuple[Mounted, Mounted], client: Client
) -> None:
    reader, writing = world.client(), client.opened(two[0] / "d/m")
    reader.start(opening(two[1] / "d/m"))
    told = client(f"select.select([{writing}], [], [], 15)[0]")  # it has been asked for
    assert told == [writing]
    client(f"os.write({writing}, b'half done')")
    two[0].kill()
    fd = reader.answer()
    assert block(reader, fd) == b""
    assert reader(f"os.pwrite({fd}, b'new', 0)") == 3
    assert block(reader, fd) == b"new" + bytes(61)
    again = world.client()
    assert block(again, again.opened(two[1] / "d/m", "O_RDONLY")) == b"new" + bytes(61)


def test_a_clean_unmount_publishes_what_idle_locks_have(
    world: World, two: tuple[Mounted, Mounted], client: Client
) -> None:
    other = world.client()
    fd = other.opened(two[1] / "d/l", "O_RDONLY")
    other(f"os.close({fd})")
    fd = client.opened(two[0] / "d/l")
    client(f"(os.write({fd}, b'kept'), os.close({fd}))")
    assert two[0].kill(15) == 0
    assert block(other, other.opened(two[1] / "d/l")) == b"kept" + bytes(60)


def test_a_lockspace_with_smaller_blocks(world: World, mount: Mounted, client: Client) -> None:
    """As those of libdlm, of 32 bytes."""
    with pydlm.connect("small", stack=world.stack, lvb_len=32):
        assert client(f"os.mkdir({mount / 'small'!r})") is None
        fd = client.opened(mount / "small/l")
        assert client(f"os.fstat({fd}).st_size") == 32
        assert client(f"os.write({fd}, b'x' * 64)") == 32
        assert client(f"os.write({fd}, b'x')") == "ENOSPC"
        assert block(client, fd) == b"x" * 32
