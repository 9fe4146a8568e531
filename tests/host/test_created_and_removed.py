"""Created by many at once, and removed while others join or use it."""

from __future__ import annotations

import os
import signal
import stat
from pathlib import Path

import pytest
from tests.host.attaching import made, works
from tests.host.machine import Host
from tests.host.processes import Child

import pydlm
from pydlm.errors import StackUnavailable
from pydlm.stacks.host.admin import remove_lockspace


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
