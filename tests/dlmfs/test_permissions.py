"""The kernel enforces owners and modes."""

from __future__ import annotations

import pytest
from tests.dlmfs.client import Client, opening
from tests.dlmfs.mounts import Mounted, World

ALICE, BOB = 60001, 60002


@pytest.fixture
def mount(world: World) -> Mounted:
    return world.mount("--allow-other", "--domains", "anyone")


def test_without_allow_other_nobody_else_gets_in(world: World) -> None:
    private = world.mount()
    assert world.client(ALICE)(f"os.listdir({private.path!r})") == "EACCES"


@pytest.mark.parametrize(
    ("creators", "expected", "mode"),
    [("owner", "EACCES", 0o40755), ("group", "EACCES", 0o40775), ("anyone", None, 0o41777)],
)
def test_who_may_create_domains(
    world: World, creators: str, expected: str | None, mode: int
) -> None:
    made = world.mount("--allow-other", "--domains", creators)
    assert world.client()(f"os.stat({made.path!r}).st_mode") == mode
    assert world.client(ALICE)(f"os.mkdir({made / 'd'!r})") == expected


def test_files_belong_to_who_makes_them(world: World, mount: Mounted) -> None:
    alice, bob = world.client(ALICE), world.client(BOB)
    assert alice(f"os.mkdir({mount / 'd'!r})") is None
    alice.opened(mount / "d/private", "O_RDWR", 0o600)
    alice.opened(mount / "d/readable", "O_RDWR", 0o644)
    for name in ("d", "d/private"):
        assert bob(f"os.stat({mount / name!r})[4:6]") == (ALICE, ALICE)
    for flags in ("O_RDONLY", "O_RDWR"):
        assert bob(f"os.open({mount / 'd/private'!r}, os.{flags})") == "EACCES"
    assert bob(f"os.open({mount / 'd/readable'!r}, os.O_RDWR)") == "EACCES"
    assert isinstance(bob(f"os.open({mount / 'd/readable'!r}, os.O_RDONLY)"), int)
    assert bob(opening(mount / "d/new")) == "EACCES"
    assert bob(f"os.unlink({mount / 'd/readable'!r})") == "EACCES"
    assert bob(f"os.rmdir({mount / 'd'!r})") in {"EPERM", "EACCES"}


def test_chmod_and_chown(world: World, mount: Mounted) -> None:
    alice, bob, root = world.client(ALICE), world.client(BOB), world.client()
    assert alice(f"os.mkdir({mount / 'd'!r})") is None
    path = mount / "d/l"
    alice.opened(path, "O_RDWR", 0o600)
    assert bob(f"os.chmod({path!r}, 0o666)") == "EPERM"
    assert alice(f"os.chmod({path!r}, 0o640)") is None
    assert alice(f"os.chown({path!r}, {BOB}, -1)") == "EPERM"
    assert root(f"os.chown({path!r}, {BOB}, {BOB})") is None
    assert alice(f"os.open({path!r}, os.O_RDONLY)") == "EACCES"
    assert isinstance(bob(f"os.open({path!r}, os.O_RDWR)"), int)
    assert root(f"oct(os.stat({path!r}).st_mode)") == "0o100640"


def test_a_new_file_is_open_to_its_maker_whatever_its_mode(world: World, mount: Mounted) -> None:
    alice = world.client(ALICE)
    assert alice(f"os.mkdir({mount / 'd'!r})") is None
    for mode in (0, 0o400):
        alice.opened(mount / f"d/{mode}", "O_RDWR", mode)
        assert alice(opening(mount / f"d/{mode}")) == "EACCES"
    assert alice(f"oct(os.stat({mount / 'd/256'!r}).st_mode)") == "0o100400"


def test_the_umask_counts_and_the_set_group_id_of_a_domain(world: World, mount: Mounted) -> None:
    alice: Client = world.client(ALICE)
    assert alice(f"os.mkdir({mount / 'd'!r})") is None
    assert world.client()(f"(os.chown({mount / 'd'!r}, -1, {BOB}))") is None
    assert world.client()(f"os.chmod({mount / 'd'!r}, 0o2777)") is None
    alice.opened(mount / "d/l", "O_RDWR", 0o666)
    assert alice(f"os.stat({mount / 'd/l'!r})[:6:5]") == (0o100644, BOB)
