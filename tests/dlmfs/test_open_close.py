"""Opening takes a lock, closing lets it go, and all the names and calls that are refused."""

from __future__ import annotations

import pytest
from tests.dlmfs.client import Client, opening
from tests.dlmfs.mounts import Mounted, World, until

Two = tuple[Mounted, Mounted]


@pytest.mark.parametrize(("held", "wanted"), [("O_RDWR", "O_RDONLY"), ("O_RDONLY", "O_WRONLY")])
def test_another_node_waits_until_it_is_closed(
    world: World, two: Two, client: Client, held: str, wanted: str
) -> None:
    fd, other = client.opened(two[0] / "d/l", held), world.client()
    other.start(opening(two[1] / "d/l", wanted))
    world.waits(other)
    client(f"os.close({fd})")
    assert isinstance(other.answer(), int)


def test_readers_of_two_nodes_share(world: World, two: Two, client: Client) -> None:
    client.opened(two[0] / "d/l", "O_RDONLY")
    world.client().opened(two[1] / "d/l", "O_RDONLY")


def test_processes_of_one_mount_share_the_nodes_lock(
    world: World, mount: Mounted, client: Client
) -> None:
    client.opened(mount / "d/l")
    world.client().opened(mount / "d/l", "O_RDONLY")
    world.client().opened(mount / "d/l", "O_RDWR|O_NONBLOCK")


@pytest.mark.parametrize("wanted", ["O_RDONLY", "O_RDWR"])
def test_o_nonblock_does_not_wait(world: World, two: Two, client: Client, wanted: str) -> None:
    fd, other = client.opened(two[0] / "d/l"), world.client()
    trying = opening(two[1] / "d/l", wanted + "|O_NONBLOCK")
    assert other(trying) == "ETXTBSY"
    client(f"os.close({fd})")
    # Still refused: it does not even ask for what the other node only keeps.
    assert other(trying) == "ETXTBSY"
    other.opened(two[1] / "d/l", wanted)
    other.opened(two[1] / "d/l", wanted + "|O_NONBLOCK")


@pytest.mark.parametrize("copied", ["os.dup({fd})", "os.fork() or signal.pause()"])
def test_only_the_last_close_lets_go(world: World, two: Two, client: Client, copied: str) -> None:
    fd, other = client.opened(two[0] / "d/l"), world.client()
    copy = client(copied.format(fd=fd))
    other.start(opening(two[1] / "d/l"))
    world.waits(other)
    client(f"os.close({fd})")
    assert client(f"os.listdir({two[0] / 'd'!r})") == ["l"]  # the mount has seen the close
    assert not other.has_answered()
    client(f"os.close({copy})" if "dup" in copied else f"os.kill({copy}, signal.SIGKILL)")
    assert isinstance(other.answer(), int)


def test_a_lock_that_is_kept_goes_to_who_asks(world: World, two: Two, client: Client) -> None:
    for node in (0, 1, 0, 1):
        fd = client.opened(two[node] / "d/l")
        client(f"os.close({fd})")


def test_one_waits_and_others_do_not(world: World, two: Two, client: Client) -> None:
    """The daemon goes on, and so do calls in the same directory, also those that make files."""
    client.opened(two[0] / "d/l")
    waiters = [world.client() for _ in range(3)]
    for waiter in waiters:
        waiter.start(opening(two[1] / "d/l"))
        world.waits(waiter)
    other = world.client()
    for name in ("a", "b"):
        fd = other.opened(two[1] / f"d/{name}")
        assert other(f"os.close({fd})") is None
        assert other(f"os.unlink({two[1] / f'd/{name}'!r})") is None
    assert other(f"os.listdir({two[1] / 'd'!r})") == ["l"]


def test_unlink(world: World, two: Two, client: Client) -> None:
    path = two[0] / "d/l"
    fd = client.opened(path, "O_RDONLY")
    assert client(f"os.unlink({path!r})") == "EBUSY"
    assert client(f"os.rmdir({two[0] / 'd'!r})") == "ENOTEMPTY"
    assert client(f"(os.close({fd}), os.unlink({path!r}))") == (None, None)
    assert client(f"os.open({path!r}, os.O_RDONLY)") == "ENOENT"
    assert client(f"os.rmdir({two[0] / 'd'!r})") is None


def test_unlink_waits_for_who_waits(world: World, two: Two, client: Client) -> None:
    fd = client.opened(two[0] / "d/l")
    opener, remover, late = world.client(), world.client(), world.client()
    opener.start(opening(two[1] / "d/l"))
    world.waits(opener)
    remover.start(f"os.unlink({two[1] / 'd/l'!r})")
    world.waits(remover)
    assert late(f"os.open({two[1] / 'd/l'!r}, os.O_RDWR)") == "EAGAIN"
    client(f"os.close({fd})")
    assert opener.answer() == "EAGAIN"
    assert remover.answer() is None


def test_names(mount: Mounted, client: Client) -> None:
    for name, result in {
        "d/" + "n" * 31: int,
        "d/" + "n" * 32: "EINVAL",
        "d/" + "n" * 255: "EINVAL",
        "d/$x": "EINVAL",
        "d/x$": int,
        "d/.x": int,
        "d/a b": int,
        "d/\x01\x7f": int,
        "d/é": int,
        "f": "EACCES",
    }.items():
        found = client(opening(mount / name))
        assert isinstance(found, int) if result is int else found == result, name
    for name, result in {
        ".hidden": None,
        "%2Ehidden": None,  # another one than .hidden
        "m" * 63: None,
        "m" * 64: "EINVAL",
        "d": "EEXIST",
        "d/sub": "EPERM",
    }.items():
        assert client(f"os.mkdir({mount / name!r})") == result, name
    assert client(f"os.mkdir(os.fsencode({mount / 'm'!r}) + b'\\xff')") == "EINVAL"


def test_what_is_refused(mount: Mounted, client: Client) -> None:
    d, f, x = mount / "d", mount / "d/l", mount / "d/x"
    fd = client.opened(f)
    for call, result in {
        f"os.rename({f!r}, {x!r})": "EPERM",
        f"os.rename({d!r}, {mount / 'e'!r})": "EPERM",
        f"os.link({f!r}, {x!r})": "EPERM",
        f"os.symlink('l', {x!r})": "EPERM",
        f"os.mknod({x!r}, 0o10644)": "EPERM",
        f"os.mknod({mount / 'x'!r})": "EACCES",
        f"os.open({f!r}, os.O_RDWR | os.O_DIRECT)": "EINVAL",
        f"os.open({f!r}, os.O_RDWR | os.O_CREAT | os.O_EXCL)": "EEXIST",
        f"os.open({d!r}, os.O_RDWR)": "EISDIR",
        f"os.fsync({fd})": "EINVAL",
        f"mmap.mmap({fd}, 64)": "ENODEV",
        f"os.setxattr({f!r}, b'user.x', b'y')": "ENOTSUP",
        f"fcntl.ioctl({fd}, 21505, bytes(64))": "ENOTTY",
        f"os.unlink({d!r})": "EISDIR",
        f"os.rmdir({f!r})": "ENOTDIR",
    }.items():
        assert client(call) == result, call
    for call in (
        f"fcntl.flock({fd}, fcntl.LOCK_EX)",
        f"os.truncate({f!r}, 0)",
        f"os.ftruncate({fd}, 100)",
        f"os.mknod({x!r})",
    ):
        assert client(call) is None, call
    assert client(f"os.open({mount / 'd/new'!r}, os.O_CREAT | os.O_RDWR | os.O_DIRECT)") == "EINVAL"
    assert client(f"sorted(os.listdir({d!r}))") == ["l", "new", "x"]
    assert client(f"os.fstat({fd}).st_size") == 64


def test_many_names_are_listed_once_each(mount: Mounted, client: Client) -> None:
    count = 3000
    made = f"[os.mknod({mount / 'd'!r} + f'/{{n:020}}') for n in range({count})]"
    assert len(client(made)) == count
    assert client(f"len(set(os.listdir({mount / 'd'!r})))") == count
    assert client(f"len(os.listdir({mount / 'd'!r}))") == count


def test_stat(mount: Mounted, client: Client) -> None:
    client.opened(mount / "d/l")
    fields = "(st.st_mode, st.st_nlink, st.st_size, st.st_blksize)"
    for path, found in {
        mount.path: (0o40755, 3, 0, 4096),
        mount / "d": (0o40755, 2, 0, 4096),
        mount / "d/l": (0o100644, 1, 64, 4096),
    }.items():
        assert client(f"(lambda st: {fields})(os.stat({path!r}))") == found
    assert client(f"os.mkdir({mount / 'e'!r})") is None
    assert client(f"os.stat({mount.path!r}).st_nlink") == 4
    assert client(f"os.statvfs({mount.path!r}).f_namemax") == 255


def test_rmdir_leaves_the_lockspace(world: World, mount: Mounted, client: Client) -> None:
    descriptors = f"/proc/{mount.process.pid}/fd"
    before = len(client(f"os.listdir({descriptors!r})"))
    for _ in range(3):
        assert client(f"os.mkdir({mount / 'e'!r})") is None
        assert client(f"os.rmdir({mount / 'e'!r})") is None
    until(lambda: len(client(f"os.listdir({descriptors!r})")) == before, "the disconnect")
