"""A stack that takes its time to connect, or to disconnect, holds up nobody else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from tests.dlmfs.client import PATIENCE, Client, opening
from tests.dlmfs.mounts import World, is_mounted, until

from pydlm.dlmfs import Mount
from pydlm.dlmfs import serve as serve_module
from pydlm.errors import StackUnavailable
from pydlm.stacks.local import LocalStack


class Slow(LocalStack):
    """Is joined and left when `go` is set."""

    go = threading.Event()
    asked = threading.Event()

    @classmethod
    def wait(cls) -> None:
        cls.asked.set()
        assert cls.go.wait(PATIENCE)

    def disconnect(self) -> None:
        self.wait()
        super().disconnect()


def connect(_stack: str | None, lockspace: str, **options: Any) -> LocalStack:
    if lockspace == "away":
        raise StackUnavailable("nobody is there")
    if lockspace != "slow":
        return LocalStack.connect(lockspace)
    Slow.wait()
    return Slow.connect(lockspace)


@pytest.fixture
def path(world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A mount that is served by a thread of this process, with the domain `d`."""
    monkeypatch.setattr(serve_module, "connect_stack", connect)
    Slow.go.clear()
    Slow.asked.clear()
    where = str(world.directory())
    mount = Mount(where)
    thread = threading.Thread(target=mount.serve)
    thread.start()
    try:
        until(lambda: is_mounted(where), "the mount")
        assert world.client()(f"os.mkdir({where + '/d'!r})") is None
        yield where
    finally:
        Slow.go.set()
        mount.stop()
        thread.join(PATIENCE)
        assert not thread.is_alive()
        mount.stop()  # too late, and without effect


def test_joining_and_leaving(world: World, path: str, client: Client) -> None:
    other = world.client()
    for call in (f"os.mkdir({path + '/slow'!r})", f"os.rmdir({path + '/slow'!r})"):
        client.start(call)
        assert Slow.asked.wait(PATIENCE)
        fd = other(opening(f"{path}/d/l"))
        assert other(f"os.close({fd})") is None
        assert not client.has_answered()
        Slow.go.set()
        assert client.answer() is None
        Slow.go.clear()
        Slow.asked.clear()
    assert client(f"os.listdir({path!r})") == ["d"]


def test_a_signal_ends_joining(world: World, path: str, client: Client) -> None:
    client.start(
        f"__import__('ctypes').CDLL(None, use_errno=True).mkdir({path + '/slow'!r}.encode(), 493)"
    )
    assert Slow.asked.wait(PATIENCE)
    client.kill(10)
    assert client.answer() == -1
    assert client(f"os.listdir({path!r})") == ["d"]
    Slow.go.set()
    assert client(f"os.mkdir({path + '/slow'!r})") is None


def test_the_end_waits_for_it(world: World, path: str, client: Client) -> None:
    """What is under way when the mount ends is left again; the fixture finds no thread behind."""
    client.start(f"os.mkdir({path + '/slow'!r})")
    assert Slow.asked.wait(PATIENCE)


def test_what_cannot_be_joined(path: str, client: Client, caplog: pytest.LogCaptureFixture) -> None:
    assert client(f"os.mkdir({path + '/away'!r})") == "ENODEV"
    assert "nobody is there" in caplog.text
