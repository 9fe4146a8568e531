"""The binding to libfuse by itself: whatever an operation does, the kernel gets an answer."""

from __future__ import annotations

import errno
import logging
import os
import select
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.dlmfs.client import Client
from tests.dlmfs.mounts import World, until

from pydlm.dlmfs.fuse import Attributes, Operations, Request, Session
from pydlm.errors import MountFailed, Unsupported


class Odd(Operations):
    """A file system whose files do what their names say."""

    def __init__(self) -> None:
        self.kept: list[Request] = []
        self.answers: list[bool] = []
        self.struck: BaseException | None = None

    def lookup(self, request: Request, parent: int, name: bytes) -> None:
        if name == b"raises":
            raise RuntimeError("odd")
        if name == b"exits":
            raise KeyboardInterrupt
        if name == b"forgets":
            return
        if name == b"keeps":
            self.kept.append(request)
            request.on_interrupt(lambda: self.interrupted(request))
            return
        if name == b"twice":
            self.answers.append(request.fail(errno.EDOM))
            self.answers.append(request.fail(errno.ERANGE))
            return
        request.fail(errno.ENOENT)

    def interrupted(self, request: Request) -> None:
        self.kept.remove(request)
        raise RuntimeError("odd too")

    def getattr(self, request: Request, ino: int) -> None:
        request.attributes(Attributes(1, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 0, 0, 0))


@pytest.fixture
def odd(world: World) -> Iterator[tuple[Odd, Path]]:
    """It is served by a thread."""
    operations, where = Odd(), world.directory()
    session = Session(operations, ["default_permissions"])
    session.mount(str(where))
    stop = os.eventfd(0)

    def serve() -> None:
        poll = select.poll()
        poll.register(session.fileno(), select.POLLIN)
        poll.register(stop, select.POLLIN)
        while stop not in dict(poll.poll()):
            try:
                assert session.dispatch()
            except KeyboardInterrupt as error:
                operations.struck = error

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield operations, where
    finally:
        os.eventfd_write(stop, 1)
        thread.join()
        session.unmount()
        for request in operations.kept:
            assert not request.fail(errno.EIO)
        session.destroy()
        os.close(stop)


@pytest.mark.parametrize("name", ["raises", "forgets"])
def test_a_failure_is_eio_and_is_logged(
    odd: tuple[Odd, Path], client: Client, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="pydlm"):
        assert client(f"os.stat({str(odd[1] / name)!r})") == "EIO"
        assert client(f"os.stat({str(odd[1] / 'other')!r})") == "ENOENT"
    assert "forgotten" in caplog.text if name == "forgets" else "Traceback" in caplog.text


def test_what_strikes_from_outside_is_raised_by_dispatch(
    odd: tuple[Odd, Path], client: Client
) -> None:
    assert client(f"os.stat({str(odd[1] / 'exits')!r})") == "EIO"
    assert client(f"os.stat({str(odd[1] / 'other')!r})") == "ENOENT"
    assert isinstance(odd[0].struck, KeyboardInterrupt)


def test_only_the_first_answer_counts(odd: tuple[Odd, Path], client: Client) -> None:
    assert client(f"os.stat({str(odd[1] / 'twice')!r})") == "EDOM"
    until(lambda: len(odd[0].answers) == 2)
    assert odd[0].answers == [True, False]


def test_an_interrupt_that_fails_is_an_answer_too(
    world: World, odd: tuple[Odd, Path], client: Client
) -> None:
    client.start(f"os.stat({str(odd[1] / 'keeps')!r})")
    until(lambda: client.waits_in() == "request_wait_answer")
    client.kill(10)
    assert client.answer() == "EIO"


def test_a_request_that_is_never_answered_ends_with_the_mount(
    world: World, odd: tuple[Odd, Path], client: Client
) -> None:
    client.start(f"os.stat({str(odd[1] / 'keeps')!r})")
    until(lambda: client.waits_in() == "request_wait_answer")


def test_options_that_libfuse_does_not_know(world: World) -> None:
    with pytest.raises(MountFailed, match="nonsense"):
        Session(Operations(), ["nonsense"])


def test_a_place_that_is_not_there(world: World) -> None:
    session = Session(Operations(), [])
    with pytest.raises(MountFailed, match="No such file") as raised:
        session.mount(str(world.root / "none"))
    assert raised.value.errno == errno.ENOENT
    session.destroy()


def test_what_is_missing_is_named(world: World) -> None:
    """Each in a process of its own, in which something cannot be found."""
    for broken, said in {
        "sys.modules['cffi'] = None": "pydlm-locks[fuse]",
        "import cffi; cffi.FFI.dlopen = lambda *_: (_ for _ in ()).throw(OSError('none'))": "fuse3",
        "import os; os.path.exists = lambda _: False": "/dev/fuse",
        "import os, shutil; os.geteuid = lambda: 1; shutil.which = lambda _: None": "fusermount3",
        "import platform; platform.machine = lambda: 'pdp11'": "pdp11",
    }.items():
        program = (
            f"import sys; {broken}\n"
            "from pydlm.dlmfs.fuse import Operations, Session\n"
            "from pydlm.errors import Unsupported\n"
            "try: Session(Operations(), [])\n"
            "except Unsupported as error: print(error)\n"
        )
        found = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=20
        )
        assert said in found.stdout, (broken, found)


def test_importing_it_needs_nothing() -> None:
    program = "import sys; sys.modules['cffi'] = None; import pydlm.cli, pydlm.dlmfs"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=20)
    assert issubclass(Unsupported, NotImplementedError)
