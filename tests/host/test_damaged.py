"""What may lie where a lockspace should be, and what `connect` does about it: never a crash."""

from __future__ import annotations

import os
import random
import signal
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.host.attaching import NOBODY, OURS, become, made, outcome_of, root_only, works
from tests.host.machine import Host
from tests.host.processes import Child

import pydlm
from pydlm import BadArgument
from pydlm.errors import ArenaDamaged, StackUnavailable
from pydlm.stacks.host import boot_id
from pydlm.stacks.host.admin import open_view, remove_lockspace

# What lies there instead of a lockspace.


def symlink(path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


def instead(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def replace(path: Path) -> None:
        path.unlink()
        make(path)

    return replace


def unix_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


def written(path: Path, offset: int, what: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(what)


THINGS: dict[str, tuple[Callable[[Path], object], type[Exception]]] = {
    "link": (symlink, StackUnavailable),
    "dangling link": (instead(lambda p: p.symlink_to("nothing")), StackUnavailable),
    "directory": (instead(lambda p: p.mkdir()), StackUnavailable),
    "fifo": (instead(lambda p: os.mkfifo(p, 0o600)), StackUnavailable),
    "socket": (instead(unix_socket), StackUnavailable),
    "empty": (lambda p: os.truncate(p, 0), ArenaDamaged),
    "a byte": (lambda p: os.truncate(p, 1), ArenaDamaged),
    "header alone": (lambda p: os.truncate(p, 4096), ArenaDamaged),
    "truncated": (lambda p: os.truncate(p, p.stat().st_size - 1), ArenaDamaged),
    "longer": (lambda p: os.truncate(p, p.stat().st_size + 4096), ArenaDamaged),
    "text": (lambda p: p.write_bytes(b"nothing of the sort\n" * 1000), ArenaDamaged),
    "zeros": (lambda p: p.write_bytes(bytes(p.stat().st_size)), ArenaDamaged),
    "other layout": (lambda p: written(p, 8, b"\x63\0\0\0"), ArenaDamaged),
    "readable by all": (lambda p: p.chmod(0o604), StackUnavailable),
    "writable by all": (lambda p: p.chmod(0o666), StackUnavailable),
}


@pytest.mark.parametrize("what", THINGS)
def test_what_is_no_lockspace_is_refused_and_left_alone(what: str, host: Host, path: Path) -> None:
    made(host)
    make, kind = THINGS[what]
    make(path)
    before = path.lstat()
    assert outcome_of(host, lambda: host.connect(capacity=None)) is kind
    after = path.lstat()
    assert (before.st_ino, before.st_size, before.st_mtime_ns) == (
        after.st_ino,
        after.st_size,
        after.st_mtime_ns,
    )
    if kind is ArenaDamaged:
        assert outcome_of(host, lambda: open_view(host.name, host.directory)) is kind
        remove_lockspace(host.name, host.directory)
        works(host)
    elif "all" not in what:
        assert outcome_of(host, lambda: open_view(host.name, host.directory)) in (
            StackUnavailable,
            ArenaDamaged,
        )


@root_only
def test_a_device_is_refused(host: Host, path: Path) -> None:
    os.mknod(path, 0o600 | stat.S_IFCHR, os.makedev(1, 5))  # /dev/zero
    assert outcome_of(host, host.connect) is StackUnavailable
    assert outcome_of(host, lambda: open_view(host.name, host.directory)) is ArenaDamaged


@root_only
def test_a_file_of_somebody_else_is_refused(host: Host, path: Path) -> None:
    made(host)
    os.chown(path, NOBODY, NOBODY)
    with pytest.raises(StackUnavailable, match="belongs to user 65534"):
        host.connect()


def test_a_file_from_before_the_boot_is_refused(host: Host, path: Path) -> None:
    made(host)
    at = path.read_bytes()[:4096].index(boot_id())
    written(path, at, bytes(16))
    with pytest.raises(ArenaDamaged, match=r"before the last boot.*pydlm host rm"):
        host.connect()


def test_another_size_than_the_one_there_is(host: Host) -> None:
    made(host, capacity=255, lvb_len=64)
    with pytest.raises(BadArgument, match="capacity 255, not 256"):
        host.connect(capacity=256)
    with pytest.raises(BadArgument, match="lvb_len 64, not 32"):
        host.connect(lvb_len=32)
    works(host)


# Damage.


def attempt(host: Host, path: Path, content: bytes, me: Child) -> str:
    with os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "wb") as file:
        file.write(content)
    try:
        with pydlm.connect(host.name, stack=host.stack) as ls:
            arena = ls.stack.arena  # type: ignore[attr-defined]
            arena.usage(), arena.processes()
        return "works"
    except (ArenaDamaged, StackUnavailable) as error:
        return type(error).__name__
    finally:
        # A mapped file would be written over.
        path.unlink()


def survivors(host: Host, path: Path, contents: list[tuple[object, bytes]]) -> dict[str, int]:
    """Have a process try each; fail, naming the one that it did not survive."""

    def body(me: Child) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # it says what it finds
        signal.alarm(0)
        for what, content in contents:
            me.say(what)
            signal.alarm(25)
            me.say(attempt(host, path, content, me))

    child = host.child(body)
    counts: dict[str, int] = {}
    for what, _ in contents:
        assert child.hear() == what
        try:
            said = child.hear()
        except EOFError:
            pytest.fail(f"{what}: it died with status {child.join()}")
        counts[said] = counts.get(said, 0) + 1
    child.end()
    return counts


@pytest.mark.slow
def test_every_byte_of_the_header_damaged(host: Host, path: Path) -> None:
    made(host)
    sound = path.read_bytes()
    path.unlink()
    size = sound.index(boot_id()) + 2300
    chance = random.Random(1)
    contents: list[tuple[object, bytes]] = []
    for at in range(size):
        for bits in {0xFF, 1 << chance.randrange(8)}:
            damaged = bytearray(sound)
            damaged[at] ^= bits
            contents.append(((at, bits), bytes(damaged)))
    found = survivors(host, path, contents)
    assert found["ArenaDamaged"] > 200
    assert found["works"] > 1000  # the deaths put down


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_random_damage_of_the_body(seed: int, host: Host, path: Path) -> None:
    made(host)
    sound = path.read_bytes()
    path.unlink()
    used = [page for page in range(4096, len(sound), 4096) if any(sound[page : page + 4096])]
    chance = random.Random(seed)
    contents: list[tuple[object, bytes]] = []
    for n in range(150):
        damaged = bytearray(sound)
        for _ in range(chance.choice((1, 1, 10, 1000))):
            page = chance.choice(used)
            at = page + 4 * chance.randrange(chance.choice((64, 1024)))
            damaged[at : at + 4] = chance.choice(
                (chance.randbytes(4), b"\xff\xff\xff\xff", b"\1\0\0\0", bytes(4))
            )
        contents.append((n, bytes(damaged)))
    assert sum(survivors(host, path, contents).values()) == len(contents)


# The file made shorter under a running process.


def test_who_has_it_mapped_dies_of_a_truncation_and_nobody_else_can_do_it(
    host: Host, path: Path
) -> None:
    """Known, documented, and not to be prevented: see the module's docstring."""

    def body(me: Child) -> None:
        ls = host.connect()
        signal.signal(signal.SIGBUS, signal.SIG_DFL)  # faulthandler's
        me.say("in")
        me.hear()
        ls.lock("x").acquire()
        me.say("alive")

    def bystander(me: Child) -> None:
        ls = host.connect("other")
        me.say("in")
        me.hear()
        me.say(ls.lock("x").acquire())

    child = host.child(body)
    other = host.child(bystander)
    assert child.hear() == other.hear() == "in"
    if os.geteuid() == 0:

        def stranger(me: Child) -> None:
            become(OURS)
            for act in (
                lambda: os.truncate(path, 0),
                lambda: os.open(path, os.O_RDONLY | os.O_TRUNC),
                lambda: os.open(path, os.O_RDONLY),
            ):
                with pytest.raises(PermissionError):
                    act()
            me.say("refused")

        assert host.child(stranger).hear() == "refused"
    os.truncate(path, 4096)
    child.say()
    with pytest.raises(EOFError):
        child.hear()
    assert child.join() == -signal.SIGBUS
    other.say()
    assert other.hear() is True
    assert outcome_of(host, lambda: host.connect(capacity=None)) is ArenaDamaged
