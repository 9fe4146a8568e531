"""No memory, no descriptors, no address space left: a clear error, and never SIGBUS."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.host.attaching import made, outcome_of, root_only
from tests.host.machine import Host
from tests.host.processes import Child

import pydlm
from pydlm import LockspaceFull, _core
from pydlm.errors import StackUnavailable
from pydlm.stacks.host.admin import open_view


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
