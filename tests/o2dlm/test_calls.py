"""Each call, three times: pydlm's on a stack and on a mount, the real libo2dlm's on a mount."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.o2dlm.conftest import Join, Place
from tests.o2dlm.nodes import Node

pytestmark = pytest.mark.timeout(120)

Two = tuple[Node, Node]
ZEROS = "00" * 64

on_mounts = pytest.mark.parametrize("kind", ["mount", "C"], indirect=True)


# initialize, destroy, supports_*.


def test_a_place_says_what_it_can_do(two: Two) -> None:
    assert two[0].get("supports_bast") == "1"
    assert two[0].get("supports_stackglue") == "1"


def test_what_is_no_dlmfs(join: Join, tmp_path: Path) -> None:
    node = join(1)
    file = tmp_path / "file"
    file.touch()
    assert node.ask("initialize", tmp_path, "d") == "error NO_FS"
    assert node.ask("initialize", file, "d") == "error NO_FS_DIR"
    assert node.ask("initialize", tmp_path / "none", "d") == "error OPEN_DLM_DIR"


def test_long_names_of_domains(join: Join, place: Place, kind: str) -> None:
    node = join(1)
    assert node.ask("initialize", place(1), "d" * 255) == "error NAME_TOO_LONG"
    assert node.ask("initialize", place(1), "d" * 254) == "error DOMAIN_CREATE"
    node.get("initialize", place(1), "d" * 63)
    node.get("destroy")
    if kind != "stack":  # where the limit is the stack's
        assert node.ask("initialize", place(1), "d" * 64) == "error DOMAIN_CREATE"


def test_destroy_gives_all_locks_up(two: Two) -> None:
    a, b = two
    a.get("lock", "one", "EX")
    a.get("lock_with_bast", "two", "PR")
    assert b.ask("lock", "one", "PR", "TRY") == "error TRYLOCK_FAILED"
    a.get("destroy")
    b.get("lock", "one", "EX", "TRY")
    b.get("lock", "two", "EX", "TRY")


@on_mounts
def test_destroy_removes_the_domain_with_its_last_client(
    join: Join, place: Place, domain: str
) -> None:
    a, b, root = join(1), join(1), Path(place(1))
    for name in map(str, range(40)):
        a.get("lock", name, "PR")
        a.get("unlock", name)
    b.get("lock", "held", "PR")
    a.get("destroy")
    # What nobody holds is gone; b's lock is there, and the one that keeps the domain.
    names = {path.name for path in (root / domain).iterdir()}
    assert "held" in names and len(names) == 2
    b.get("destroy")
    assert not (root / domain).exists()


# lock, unlock.


def test_a_name_is_held_once(two: Two) -> None:
    a, _ = two
    assert a.ask("unlock", "x") == "error UNKNOWN_LOCK"
    a.get("lock", "x", "PR")
    assert a.ask("lock", "x", "PR") == "error RECURSIVE_LOCK"
    assert a.ask("lock", "x", "EX", "TRY") == "error RECURSIVE_LOCK"
    a.get("unlock", "x")
    assert a.ask("unlock", "x") == "error UNKNOWN_LOCK"
    a.get("lock", "x", "EX")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("n" * 31, "ok"),
        ("n" * 32, "error INVALID_LOCK_NAME"),
        (".n", "error INVALID_LOCK_NAME"),
        ("$n", "error LOCKING"),
        ("n/n", "error LOCKING"),
        ("größe", "ok"),
    ],
)
def test_names(two: Two, name: str, said: str) -> None:
    assert two[0].ask("lock", name, "EX") == said
    assert two[0].ask("unlock", name) == ("ok" if said == "ok" else "error UNKNOWN_LOCK")


def test_levels(two: Two) -> None:
    a, b = two
    assert a.ask("lock", "x", "BOGUS") == "error INVALID_LOCK_LEVEL"
    a.get("lock", "x", "PR")
    b.get("lock", "x", "PR", "TRY")
    b.get("unlock", "x")
    assert b.ask("lock", "x", "EX", "TRY") == "error TRYLOCK_FAILED"
    a.get("unlock", "x")


def test_trylock_where_the_other_node_only_keeps_the_lock(two: Two) -> None:
    a, b = two
    a.get("lock", "x", "EX")
    a.get("unlock", "x")
    assert b.ask("lock", "x", "PR", "TRY") == "error TRYLOCK_FAILED"
    a.get("drop_lock", "x")
    b.get("lock", "x", "PR", "TRY")


def test_who_waits_gets_the_lock_when_it_is_unlocked(two: Two) -> None:
    a, b = two
    fd = a.get("lock_with_bast", "x", "EX")
    b.begin("lock", "x", "EX")
    assert a.polled(fd)
    assert b.silent()
    a.get("unlock", "x")
    assert b.answer() == "ok"
    assert a.ask("lock", "x", "PR", "TRY") == "error TRYLOCK_FAILED"


def test_what_another_node_keeps_is_had_by_waiting(two: Two) -> None:
    a, b = two
    for _ in range(20):
        for node in (a, b):
            node.get("lock", "x", "EX")
            node.get("unlock", "x")


def test_a_killed_client_holds_nothing(two: Two) -> None:
    a, b = two
    fd = a.get("lock_with_bast", "x", "EX")
    b.begin("lock", "x", "EX")
    assert a.polled(fd)
    a.kill()
    assert b.answer() == "ok"


def test_a_killed_waiter_waits_no_more(join: Join) -> None:
    a, b, c = join(1), join(2), join(2)
    fd = a.get("lock_with_bast", "x", "EX")
    b.begin("lock", "x", "EX")
    assert a.polled(fd)
    b.kill()
    a.get("unlock", "x")
    c.get("lock", "x", "PR")
    a.get("lock", "x", "PR")


# drop_lock.


def test_drop(two: Two) -> None:
    a, b = two
    assert a.ask("drop_lock", "x") == "error UNLINK"
    a.get("lock", "x", "EX")
    assert a.ask("drop_lock", "x") == "error BUSY_LOCK"
    a.get("unlock", "x")
    a.get("drop_lock", "x")
    assert a.ask("drop_lock", "x") == "error UNLINK"
    a.get("lock", "x", "EX")  # it begins anew
    b.get("lock", "y", "EX")


def test_drop_of_what_another_node_holds(two: Two) -> None:
    a, b = two
    for node in two:
        node.get("lock", "x", "PR")
    a.get("unlock", "x")
    a.get("drop_lock", "x")
    assert a.ask("lock", "x", "EX", "TRY") == "error TRYLOCK_FAILED"
    b.get("unlock", "x")


@on_mounts  # on a stack each client is a node of its own
def test_drop_of_what_another_client_of_the_node_holds(join: Join) -> None:
    a, b = join(1), join(1)
    a.get("lock", "x", "EX")
    b.get("lock", "x", "EX")  # processes of a node do not exclude each other
    b.get("unlock", "x")
    assert b.ask("drop_lock", "x") == "error BUSY_LOCK"
    a.get("unlock", "x")
    b.get("drop_lock", "x")


# lock_with_bast, process_bast.


@pytest.mark.parametrize(("held", "wanted"), [("EX", "PR"), ("EX", "EX"), ("PR", "EX")])
def test_the_holder_is_told_who_lets_go(two: Two, held: str, wanted: str) -> None:
    a, b = two
    fd = a.get("bastdrop", "x", held)
    assert not a.polled(fd, 0)
    assert a.get("process_bast", str(int(fd) + 1)) == ""
    b.begin("lock", "x", wanted)
    assert a.polled(fd)
    assert b.silent()
    assert a.get("process_bast", fd) == "x"
    assert b.answer() == "ok"
    assert a.get("process_bast", fd) == ""  # unlocked, so forgotten
    assert a.ask("unlock", "x") == "error UNKNOWN_LOCK"


def test_the_descriptor_tells_as_long_as_somebody_waits(two: Two) -> None:
    a, b = two
    fd = a.get("lock_with_bast", "x", "EX")
    b.begin("lock", "x", "EX")
    for _ in range(3):
        assert a.polled(fd)
        assert a.get("process_bast", fd) == "x"
    a.get("unlock", "x")
    assert b.answer() == "ok"
    b.get("unlock", "x")
    fd = a.get("lock_with_bast", "x", "EX")
    assert not a.polled(fd, 0)


def test_each_lock_has_its_descriptor(two: Two) -> None:
    a, b = two
    fds = {name: a.get("lock_with_bast", name, "PR") for name in ("x", "y", "z")}
    b.begin("lock", "y", "EX")
    assert a.polled(fds["y"])
    assert not a.polled(fds["x"], 0) and not a.polled(fds["z"], 0)
    assert a.get("process_bast", fds["y"]) == "y"
    a.get("unlock", "y")
    assert b.answer() == "ok"


def test_a_failed_trylock_leaves_no_function(two: Two) -> None:
    a, b = two
    b.get("lock", "x", "EX")
    assert a.ask("lock_with_bast", "x", "PR", "TRY") == "error TRYLOCK_FAILED"
    assert a.ask("unlock", "x") == "error UNKNOWN_LOCK"


# read_lvb, write_lvb.


def test_the_block_travels_with_the_lock(two: Two) -> None:
    a, b = two
    a.get("lock", "x", "EX")
    assert a.get("read_lvb", "x", 64) == ZEROS
    assert a.get("write_lvb", "x", "0102030405") == "5"
    assert a.get("write_lvb", "x", "aabb") == "2"  # the rest stays
    assert a.get("read_lvb", "x", 4) == "aabb0304"
    a.get("unlock", "x")
    b.get("lock", "x", "PR")
    assert b.get("read_lvb", "x", 5) == "aabb030405"
    assert b.get("read_lvb", "x", 1000) == "aabb030405" + ZEROS[10:]


def test_the_block_has_64_bytes(two: Two) -> None:
    a, _ = two
    a.get("lock", "x", "EX")
    assert a.get("write_lvb", "x", "77" * 100) == "64"
    assert a.get("read_lvb", "x", 100) == "77" * 64


def test_who_may_read_and_write_the_block(two: Two) -> None:
    a, _ = two
    assert a.ask("read_lvb", "x", 64) == "error UNKNOWN_LOCK"
    assert a.ask("write_lvb", "x", "00") == "error UNKNOWN_LOCK"
    a.get("lock", "x", "PR")
    assert a.ask("write_lvb", "x", "00") == "error LVB_WRITE"
    assert a.get("read_lvb", "x", 64) == ZEROS


def test_a_kept_block_outlives_its_use(two: Two) -> None:
    a, _ = two
    a.get("lock", "x", "EX")
    a.get("write_lvb", "x", "0102")
    a.get("unlock", "x")
    a.get("lock", "x", "PR")
    assert a.get("read_lvb", "x", 2) == "0102"


@pytest.fixture
def end_node_1(kind: str, request: pytest.FixtureRequest) -> Callable[[Node], None]:
    """Kills what the node of number 1 is: the client itself, or the mount."""
    if kind == "stack":
        return Node.kill
    mounted = request.getfixturevalue("mounted")
    return lambda client: mounted(1).kill()


def test_the_block_of_a_dead_writer_is_invalid(
    two: Two, end_node_1: Callable[[Node], None]
) -> None:
    a, b = two
    b.get("lock", "x", "PR")
    b.get("unlock", "x")  # b knows the lock, so it lives on
    a.get("lock", "x", "EX")
    a.get("write_lvb", "x", "0102")
    end_node_1(a)
    b.get("lock", "x", "EX")
    assert b.ask("read_lvb", "x", 64) == "error LVB_INVALID"
    assert b.get("write_lvb", "x", "0304") == "2"
    assert b.get("read_lvb", "x", 64) == "0304" + ZEROS[4:]
