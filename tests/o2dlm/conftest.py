"""Two nodes, of each kind that there is, and what is compiled for them."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import count
from pathlib import Path

import pytest
from tests.o2dlm.nodes import PYDLM, MountPoint, Node, wait_for

from pydlm.dlmfs.fuse import Operations, Session
from pydlm.errors import Unsupported
from pydlm.o2dlm.preload import preload_environment

HERE = Path(__file__).parent
PYTHON_CLIENT = (sys.executable, HERE / "client.py")

#: Name of a compiled program -> its path.
Build = Callable[..., Path]
#: Number of a node -> what `initialize` is called with.
Place = Callable[[int], str]
#: Number of a node -> its mount.
Mounts = Callable[[int], MountPoint]
#: Number of a node -> another client there.
Join = Callable[[int], Node]


def lacking(what: str) -> None:
    """Skip, saying what is not installed; where all has to be tested, fail."""
    if os.environ.get("PYDLM_TEST_ALL"):
        pytest.fail(f"{what}; scripts/test is to have it", pytrace=False)
    pytest.skip(what)


def _flags() -> list[str]:
    """What the compiler needs to know of libo2dlm: from pkg-config, or what Debian has."""
    try:
        done = subprocess.run(
            ["pkg-config", "--cflags", "--libs", "o2dlm", "com_err"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ["-lo2dlm", "-lcom_err", "-ldl"]
    return done.stdout.split()


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """Compile a program of this directory."""
    directory = tmp_path_factory.mktemp("o2dlm")

    def build(name: str, *flags: str) -> Path:
        path = directory / name
        if not path.exists():
            command = ["gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror"]
            command += ["-o", str(path), str(HERE / f"{name}.c"), *flags]
            try:
                done = subprocess.run(command, capture_output=True, text=True)
            except FileNotFoundError:
                lacking("there is no gcc")
            assert not done.returncode, done.stderr
        return path

    return build


@pytest.fixture(scope="session")
def libo2dlm() -> list[str]:
    """The flags to link with the real libo2dlm."""
    flags = _flags()
    try:
        done = subprocess.run(
            ["gcc", "-x", "c", "-", "-o", os.devnull, *flags],
            input="#include <o2dlm/o2dlm.h>\nint main(void) { return !!o2dlm_destroy(0); }\n",
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        lacking("there is no gcc")
    if done.returncode:
        lacking("libo2dlm cannot be linked (Debian: ocfs2-tools-dev, comerr-dev): " + done.stderr)
    return flags


@pytest.fixture(scope="session")
def host() -> Iterator[Path]:
    """A directory for the lockspaces of the host stack."""
    directory = Path(tempfile.mkdtemp(prefix="pydlm-test-", dir="/dev/shm"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def mounted(host: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounts]:
    """Mounts over one directory of lockspaces: each a node. One that was killed is replaced."""
    try:
        Session(Operations(), []).destroy()
    except Unsupported as error:
        lacking(str(error))
    mounts = _mounts

    def mounted(number: int) -> MountPoint:
        mount = mounts.get(number)
        if mount is None or mount.process.poll() is not None:
            if mount is not None:
                mount.end()
            path = tmp_path_factory.mktemp("mounts") / f"node{number}"
            command = (*PYDLM, "mount", path, "--stack", f"host:{host}")
            mounts[number] = mount = MountPoint(path, command)
        return mount

    yield mounted
    while mounts:
        mounts.popitem()[1].end()


_mounts: dict[int, MountPoint] = {}
_numbers = count()


@pytest.fixture
def domain() -> Iterator[str]:
    """A domain of the test's own; removed from all mounts when its clients are gone."""
    name = f"test{next(_numbers)}"
    yield name
    for mount in _mounts.values():
        if mount.process.poll() is None:
            wait_for(partial(removed, mount.path / name))


def removed(domain: Path) -> bool:
    """Remove a domain; return whether nobody had a file of it open any more."""
    try:
        for path in domain.iterdir():
            path.unlink()
        domain.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        assert error.errno in (errno.EBUSY, errno.ENOTEMPTY), error
        return False
    return True


@pytest.fixture(params=["stack", "mount", "C"])
def kind(request: pytest.FixtureRequest) -> str:
    """pydlm.o2dlm on a stack, pydlm.o2dlm on a mount, the real libo2dlm on a mount."""
    return request.param


@pytest.fixture
def place(kind: str, request: pytest.FixtureRequest, host: Path) -> Place:
    """Where the node of a number is."""
    if kind == "stack":
        return lambda number: f"host:{host}"
    mounted = request.getfixturevalue("mounted")
    return lambda number: str(mounted(number).path)


@pytest.fixture
def join(kind: str, place: Place, domain: str, request: pytest.FixtureRequest) -> Iterator[Join]:
    """Have another client join the test's domain, on the node of a number."""
    command = PYTHON_CLIENT
    environment = dict(os.environ)
    if kind == "C":
        flags = request.getfixturevalue("libo2dlm")
        command = (request.getfixturevalue("build")("client", *flags),)
        environment = preload_environment(environment)
    with ExitStack() as ends:

        def join(number: int) -> Node:
            node = Node(command, place(number), domain, environment)
            ends.callback(node.end)
            return node

        yield join


@pytest.fixture
def two(join: Join) -> tuple[Node, Node]:
    """A client on each of two nodes."""
    return join(1), join(2)
