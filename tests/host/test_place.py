"""Where a lockspace may lie, who may come in, and what it may be called."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from tests.host.attaching import GROUP, NOBODY, OURS, THEIRS, become, made, outcome_of, root_only
from tests.host.machine import Host
from tests.host.processes import Child

import pydlm
from pydlm import BadArgument
from pydlm.errors import StackUnavailable
from pydlm.stacks.host import HostStack, default_directory
from pydlm.stacks.host.admin import list_lockspaces, open_view, remove_lockspace

# The directory.


def test_a_directory_is_made_for_its_owner_alone_whatever_the_umask(host: Host) -> None:
    for umask in (0, 0o022, 0o077, 0o177, 0o777):
        place = host.directory / f"{umask:o}"

        def body(me: Child, umask: int = umask, place: Path = place) -> None:
            os.umask(umask)
            host.connect("private", stack=f"host:{place}/p")
            host.connect("shared", stack=f"host:{place}/s", mode=0o660)

        place.mkdir(mode=0o700)
        place.chmod(0o700)
        assert host.child(body).join() == 0
        modes = [
            stat.S_IMODE((place / each).stat().st_mode)
            for each in ("p", "p/private.dlm", "s", "s/shared.dlm")
        ]
        assert modes == [0o700, 0o600, 0o770, 0o660]


def test_a_directory_that_others_can_enter_is_refused(host: Host) -> None:
    for mode in (0o755, 0o701, 0o710, 0o770, 0o777, 0o1777):
        host.directory.chmod(mode)
        with pytest.raises(StackUnavailable, match=r"mode 0o.*0700"):
            host.connect()
    assert not list(host.directory.iterdir())


def test_a_shared_directory_that_everybody_can_write_is_refused(host: Host) -> None:
    host.directory.chmod(0o777)
    with pytest.raises(StackUnavailable, match="everybody"):
        host.connect(mode=0o660)


@root_only
def test_a_directory_of_somebody_else_is_refused(host: Host) -> None:
    os.chown(host.directory, NOBODY, NOBODY)
    with pytest.raises(StackUnavailable, match="belongs to user 65534"):
        host.connect()


def test_a_link_or_a_file_in_the_place_of_the_directory_is_refused(host: Host) -> None:
    (host.directory / "real").mkdir(mode=0o700)
    (host.directory / "link").symlink_to("real")
    (host.directory / "dangling").symlink_to("nothing")
    (host.directory / "file").touch()
    for name in ("link", "dangling", "file", "file/below", "missing/below", "nul\0"):
        with pytest.raises(StackUnavailable):
            pydlm.connect("x", stack=f"host:{host.directory}/{name}")
    assert not (host.directory / "nothing").exists()
    assert not list((host.directory / "real").iterdir())


@root_only
def test_a_directory_that_cannot_be_written_is_refused(host: Host) -> None:
    host.directory.chmod(0o500)
    os.chown(host.directory, NOBODY, NOBODY)

    def act() -> None:
        os.setuid(NOBODY)
        host.connect()

    assert outcome_of(host, act) is StackUnavailable


def test_the_default_place(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYDLM_HOST_DIR", f"{host.directory}/chosen")
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"{host.directory}")
    with pydlm.connect("x", stack="host", capacity=16):
        assert (host.directory / "chosen/x.dlm").exists()
    monkeypatch.delenv("PYDLM_HOST_DIR")
    with pydlm.connect("x", stack="host", capacity=16):
        assert (host.directory / "pydlm/x.dlm").exists()
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert default_directory() == Path(f"/dev/shm/pydlm-{os.geteuid()}")


# The name.


BAD_NAMES = ["", "/", "a/b", "../x", "..", ".", ".x", "a\0b", "x" * 65, "\u00e9" * 33, "\udc80"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_name_that_cannot_be_is_refused_everywhere(name: str, host: Host) -> None:
    outside = host.directory.parent / "x.dlm"
    for act in (
        lambda: pydlm.connect(name, stack=host.stack),
        lambda: HostStack.connect(name, str(host.directory)),
        lambda: open_view(name, host.directory),
        lambda: remove_lockspace(name, host.directory),
        lambda: remove_lockspace(name, host.directory, force=True),
    ):
        with pytest.raises(BadArgument):
            act()
    assert not list(host.directory.iterdir())
    assert not outside.exists()


@pytest.mark.parametrize("name", ["x" * 64, "\u00e9" * 32, "a b", "x.dlm", "a\nb", "-f", "*", "~"])
def test_any_other_name_is_as_good_as_another(name: str, host: Host) -> None:
    with host.connect(name) as one, host.connect(name) as other, one.lock("x"):
        assert not other.lock("x").acquire(blocking=False)
    assert list(list_lockspaces(host.directory)) == [name]
    remove_lockspace(name, host.directory, force=True)
    assert not list(host.directory.iterdir())


# Somebody else.


def test_modes_that_are_none(host: Host) -> None:
    for mode in (0o666, 0o640, 0o400, 0o620, 0o60, 0, 0o4600, -1):
        with pytest.raises(BadArgument, match="neither 0o600 nor 0o660"):
            host.connect(mode=mode)
    assert not list(host.directory.iterdir())


@root_only
def test_shared_with_a_group(host: Host) -> None:
    os.chown(host.directory, OURS, GROUP)
    host.directory.chmod(0o770)
    stack = host.stack

    def owner(me: Child) -> None:
        become(OURS, GROUP)
        ls = pydlm.connect("shared", stack=stack, capacity=255, mode=0o660)
        with ls.lock("x") as lk:
            lk.lvb = b"ours"
            me.say("held")
            me.hear()
        me.say("released")
        me.hear()

    def member(me: Child) -> None:
        become(THEIRS, GROUP)
        with pytest.raises(StackUnavailable, match="mode=0o660"):
            pydlm.connect("shared", stack=stack)
        ls = pydlm.connect("shared", stack=stack, mode=0o660)
        lk = ls.lock("x")
        me.say(lk.acquire(blocking=False))
        lk.acquire()
        me.say(lk.lvb_valid and lk.lvb[:4])
        me.hear()

    def stranger(me: Child) -> None:
        become(60003)
        try:
            pydlm.connect("shared", stack=stack, mode=0o660)
        except StackUnavailable as error:
            me.say(str(error))

    first = host.child(owner)
    assert first.hear() == "held"
    found = (host.directory / "shared.dlm").stat()
    assert (found.st_uid, found.st_gid, stat.S_IMODE(found.st_mode)) == (OURS, GROUP, 0o660)
    second = host.child(member)
    assert second.hear() is False
    assert "Permission denied" in host.child(stranger).hear()
    first.say()
    assert first.hear() == "released"
    assert second.hear() == b"ours"
    first.end()
    third = host.child(member)  # is told of the death of somebody it may not signal
    assert third.hear() is False
    second.end()
    assert third.hear() is False


@root_only
def test_private_means_private(host: Host) -> None:
    made(host)

    def act() -> None:
        become(OURS)
        pydlm.connect(host.name, stack=host.stack)

    assert outcome_of(host, act) is StackUnavailable
    assert outcome_of(host, lambda: (become(OURS), open_view(host.name, host.directory))) is (
        StackUnavailable
    )
