"""What may lie where a lockspace should be, and what `connect` does about it: never a crash."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.host.machine import Host
from tests.host.processes import Child

import pydlm
from pydlm import BadArgument, LockspaceFull, _core
from pydlm.errors import ArenaDamaged, StackUnavailable
from pydlm.stacks.host import HostStack, boot_id, default_directory
from pydlm.stacks.host.admin import list_lockspaces, open_view, remove_lockspace

NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture
def path(host: Host) -> Path:
    return host.directory / f"{host.name}.dlm"


def made(host: Host, **options: object) -> None:
    """Make a lockspace with something in it, and leave it."""

    def body(me: Child) -> None:
        ls = host.connect(**options)
        locks = [ls.lock(name) for name in ("x", "x", "y" * 60)]
        locks[0].acquire()
        locks[0].lvb = b"v" * 8
        ls.stack.lock(b"orphan", 5, pydlm.LockFlag.PERSISTENT | pydlm.LockFlag.VALBLK)
        ls.close()

    assert host.child(body).join() == 0


def outcome_of(host: Host, act: Callable[[], object]) -> object:
    """Do that in another process; return the exception it raised, or None."""

    def body(me: Child) -> None:
        try:
            act()
        except Exception as error:
            me.say((type(error), str(error)))
        else:
            me.say((None, ""))

    child = host.child(body)
    kind, text = child.hear()
    assert child.join() == 0
    sys.stdout.write(f"{kind} {text}\n")  # shown where a test fails
    return kind


def works(host: Host) -> None:
    with host.connect(capacity=None) as ls, ls.lock("x") as lk:
        lk.lvb = b"works"


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


def test_modes_that_are_none(host: Host) -> None:
    for mode in (0o666, 0o640, 0o400, 0o620, 0o60, 0, 0o4600, -1):
        with pytest.raises(BadArgument, match="neither 0o600 nor 0o660"):
            host.connect(mode=mode)
    assert not list(host.directory.iterdir())


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


# Many at once.


def test_two_dozen_create_it_at_once(host: Host) -> None:
    go_read, go_write = os.pipe()
    stay_read, stay_write = os.pipe()

    def body(me: Child) -> None:
        os.close(stay_write)
        me.say("ready")
        os.read(go_read, 1)
        ls = host.connect()
        with ls.lock("x") as lk:
            count = int.from_bytes(lk.lvb[:8], "little") + 1
            lk.lvb = count.to_bytes(8, "little")
            me.say(os.stat(host.directory / f"{host.name}.dlm").st_ino)
        os.read(stay_read, 1)

    children = [host.child(body) for _ in range(24)]
    for child in children:
        assert child.hear() == "ready"
    os.write(go_write, b"g" * 24)
    assert len({child.hear() for child in children}) == 1
    ls = host.connect()
    assert len(ls.stack.arena.processes()) == 25  # type: ignore[attr-defined]
    with ls.lock("y"):
        pass
    assert os.listdir(host.directory) == [f"{host.name}.dlm"], "nothing beside it"
    for fd in (go_read, go_write, stay_read, stay_write):
        os.close(fd)
    for child in children:
        assert child.join() == 0


def test_nothing_is_left_of_who_dies_while_creating(host: Host) -> None:
    def body(me: Child) -> None:
        link = os.link

        def die(*args: object, **kwargs: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        os.link = die  # type: ignore[assignment]
        host.connect()
        os.link = link

    assert host.child(body).join() == -signal.SIGKILL
    assert not list(host.directory.iterdir())
    works(host)


def test_removed_while_others_join(host: Host, path: Path) -> None:
    """Whoever has joined is in the lockspace that the next one joins too, or it is not removed."""

    def joiner(me: Child) -> None:
        while True:
            ls = pydlm.connect(host.name, stack=host.stack, capacity=255)
            # Nobody may remove it as long as we are in.
            here = os.stat(path).st_ino
            mine = [key[1] for key in pydlm.stacks.host._arenas]  # type: ignore[attr-defined]
            me.say(mine == [here])
            ls.close()
            del ls
            me.hear()

    children = [host.child(joiner) for _ in range(3)]
    removed = busy = 0
    while removed < 100 or busy < 20:
        for child in children:
            if child.link.poll():
                assert child.hear() is True
                child.say()
        try:
            remove_lockspace(host.name, host.directory)
            removed += 1
        except pydlm.Busy:
            busy += 1
        except StackUnavailable:
            pass  # nobody has made it anew yet


def test_removed_by_force_while_somebody_joins(host: Host, path: Path) -> None:
    """The file was opened before it was removed: who comes last joins the new one."""
    made(host)

    def body(me: Child) -> None:
        fstat, first = os.fstat, []

        def removes(fd: int) -> os.stat_result:
            found = fstat(fd)
            if not first and stat.S_ISREG(found.st_mode):
                first.append(found)
                remove_lockspace(host.name, host.directory, force=True)
                me.say("removed")
                me.hear()
            return found

        os.fstat = removes
        ls = host.connect()
        os.fstat = fstat
        lk = ls.lock("x")
        me.say(lk.acquire(blocking=False))
        me.hear()

    child = host.child(body)
    assert child.hear() == "removed"
    lk = host.connect().lock("x")
    assert not lk.locked()
    child.say()
    assert child.hear() is True
    assert not lk.acquire(blocking=False)


# Memory.


@contextlib.contextmanager
def small_tmpfs(host: Host, size: str) -> Iterator[Path]:
    place = host.directory / "small"
    place.mkdir()
    if os.system(f"mount -t tmpfs -o size={size},mode=0700 tmpfs {place} 2>/dev/null"):
        pytest.skip("may not mount")
    try:
        yield place
    finally:
        for child in host.children:
            child.end()
        assert os.system(f"umount -l {place}") == 0


@root_only
def test_a_tmpfs_that_is_full_before_it_begins(host: Host) -> None:
    with small_tmpfs(host, "64k") as place:
        filled = place / "filled"
        with contextlib.suppress(OSError):
            filled.write_bytes(bytes(1 << 20))
        assert outcome_of(host, lambda: pydlm.connect("x", f"host:{place}")) is LockspaceFull
        assert os.listdir(place) == ["filled"]


@root_only
@pytest.mark.parametrize("what", ["locks", "resources", "blocks", "long names"])
@pytest.mark.parametrize("filled", [False, True])
def test_a_tmpfs_that_fills_up(what: str, filled: bool, host: Host) -> None:
    with small_tmpfs(host, "1m") as place:

        def body(me: Child) -> None:
            ls = pydlm.connect("x", f"host:{place}", capacity=1 << 20, lvb_len=4096)
            if filled:
                with contextlib.suppress(OSError):
                    (place / "filled").write_bytes(bytes(1 << 20))
            kept = [] if filled else [ls.lock("0")]
            with pytest.raises(LockspaceFull, match="tmpfs"):
                for n in range(1 << 20):
                    name = "0" if what == "locks" else f"{n:060}" if "long" in what else f"{n + 1}"
                    kept.append(ls.lock(name))
                    if what == "blocks":
                        kept[-1].acquire()
                        kept[-1].lvb = b"x"
            me.say(len(kept))
            # Everything else goes on.
            view = open_view("x", place)
            view.resources(), view.processes(), view.usage()
            del view
            assert len(list(ls.dump())) >= len(kept)
            ls.stack.arena.check()  # type: ignore[attr-defined]
            if filled:
                (place / "filled").unlink()
            else:
                while len(kept) > 1:
                    kept.pop().close()
            with ls.lock("0") as again:
                assert again.locked()
            me.say("done")

        child = host.child(body)
        assert (child.hear() > 50) is not filled
        assert child.hear() == "done"
        assert child.join() == 0


@root_only
def test_others_join_and_die_on_a_full_tmpfs(host: Host) -> None:
    with small_tmpfs(host, "1m") as place:

        def body(me: Child) -> None:
            ls = pydlm.connect("x", f"host:{place}")
            lk = ls.lock("x")
            me.say(lk.acquire(timeout=30))
            me.hear()

        first = host.child(body)
        assert first.hear() is True
        with contextlib.suppress(OSError):
            (place / "filled").write_bytes(bytes(1 << 20))
        others = [host.child(body) for _ in range(20)]

        def waiting() -> bool:
            return len(open_view("x", place).processes()) == 21

        host.until(waiting)
        for child in [first, *others[:-1]]:
            child.end()
        assert others[-1].hear() is True


def test_a_limit_on_the_size_of_files(host: Host) -> None:
    def act() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        host.connect(capacity=1 << 20)

    assert outcome_of(host, act) is LockspaceFull
    assert not list(host.directory.iterdir())


def test_no_descriptors_left(host: Host) -> None:
    def act() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        host.connect()

    assert outcome_of(host, act) is StackUnavailable


def test_no_address_space_left(host: Host) -> None:
    def act() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
        host.connect(capacity=1 << 24)

    assert outcome_of(host, act) is LockspaceFull
    made(host, capacity=1 << 24)

    def again() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (1 << 29, 1 << 29))
        host.connect(capacity=None)

    assert outcome_of(host, again) is LockspaceFull
    assert _core.start_time(os.getpid())


def test_a_disk_will_do(host: Host, tmp_path: Path) -> None:
    """Slower, for its pages are written back; gone with the next boot as well."""
    tmp_path.chmod(0o700)
    stack = f"host:{tmp_path}"
    try:
        ls = pydlm.connect(host.name, stack=stack, capacity=255)
    except StackUnavailable as error:
        pytest.skip(str(error))  # an overlay may not have O_TMPFILE

    def body(me: Child) -> None:
        with pydlm.connect(host.name, stack=stack) as theirs:
            me.say(theirs.lock("x").acquire(blocking=False))
            with theirs.lock("y"):
                me.say("held")
                me.hear()

    with ls, ls.lock("x"):
        child = host.child(body)
        assert child.hear() is False
        assert child.hear() == "held"
        lk = ls.lock("y")
        assert not lk.acquire(blocking=False)
        child.end()
        assert lk.acquire(timeout=30)
        lk.close()


# Somebody else.

OURS, THEIRS, GROUP = 60001, 60002, 60010


def become(uid: int, *groups: int) -> None:
    os.setgroups(groups)
    os.setgid(uid)
    os.setuid(uid)
    os.umask(0o077)


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


def test_removing_never_truncates(host: Host, path: Path) -> None:
    ls = host.connect()
    lk = ls.lock("x")
    with pytest.raises(pydlm.Busy):
        remove_lockspace(host.name, host.directory)
    remove_lockspace(host.name, host.directory, force=True)
    assert not path.exists()
    with lk:
        lk.lvb = b"goes on"
    ls.stack.arena.check()  # type: ignore[attr-defined]
    works(host)
