"""`pydlm host` and `pydlm locks`: they show what is there, and harm nobody."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.host.machine import Host
from tests.host.processes import PATIENCE, Child

from pydlm import LockFlag, Mode
from pydlm.stacks.host.admin import open_view


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pydlm.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | {"COLUMNS": "200"},
    )


def pydlm_json(*arguments: str) -> Any:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def member(host: Host, *steps: tuple[str, Mode]) -> Child:
    """Start a process that takes all of these, and waits for the last."""

    def body(me: Child) -> None:
        ls = host.connect(deadlock_wait=None)
        locks = [ls.lock(name) for name, _ in steps]
        for lk, (_, mode) in list(zip(locks, steps, strict=True))[:-1]:
            lk.acquire(mode=mode)
        me.say("ready")
        if steps:
            locks[-1].acquire(mode=steps[-1][1])
        me.say("has all")
        me.hear()

    child = host.child(body)
    assert child.hear() == "ready"
    return child


def test_who_holds_what_and_who_waits_for_whom(host: Host) -> None:
    place = f"--dir={host.directory}"
    begun = time.time()
    holder = member(host, ("x", Mode.PR))
    assert holder.hear() == "has all"
    first = member(host, ("y", Mode.CW), ("x", Mode.EX))
    ls = host.connect()
    host.until(lambda: sum(s.requested is not None for s in ls.dump()) == 1)
    second = member(host, ("x", Mode.PR))
    host.until(lambda: sum(s.requested is not None for s in ls.dump()) == 2)
    both = {row["resource"]: row for row in pydlm_json("locks", host.name, place)}
    assert set(both) == {"x", "y"}
    (row,) = pydlm_json("locks", host.name, "x", place)
    assert row["lvb_valid"] is True
    locks = {lock["pid"]: lock for lock in row["locks"]}
    assert set(locks) == {child.pid for child in (holder, first, second)}
    assert (locks[holder.pid]["granted"], locks[holder.pid]["requested"]) == ("PR", None)
    assert (locks[first.pid]["queue"], locks[first.pid]["requested"]) == ("convert", "EX")
    assert locks[holder.pid]["waits_for"] == []
    assert locks[first.pid]["waits_for"] == [locks[holder.pid]["lkid"]]
    assert locks[second.pid]["waits_for"] == [locks[first.pid]["lkid"]]
    command = Path(f"/proc/{holder.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    for lock in locks.values():
        assert lock["command"] == command
        assert begun - PATIENCE < lock["started"] < time.time() + 1
        assert 0 <= lock["age"] < 2 * PATIENCE
    table = run("locks", host.name, place).stdout
    for word in (str(holder.pid), str(first.pid), "convert", "granted", "EX", "CW", "waits for"):
        assert word in table
    holder.end()
    assert first.hear() == "has all"
    (row,) = pydlm_json("locks", host.name, "x", place)
    assert holder.pid not in {lock["pid"] for lock in row["locks"]}


def test_names_that_are_no_text_and_commands_that_are_markup(host: Host) -> None:
    ls = host.connect()
    names = [b"\xff\0[red]", "\u00e9\u4e2d".encode(), b"[/]", b"\x1b[2J", b"n" * 64]
    for name in names:
        ls.stack.lock(name, Mode.PR)
    place = f"--dir={host.directory}"
    assert len(pydlm_json("locks", host.name, place)) == len(names)
    done = run("locks", host.name, place)
    assert done.returncode == 0, done.stderr
    assert "[/]" in done.stdout
    assert "\x1b" not in done.stdout


def test_who_is_gone(host: Host) -> None:
    def body(me: Child) -> None:
        ls = host.connect()
        ls.stack.lock(b"x", Mode.EX, LockFlag.PERSISTENT)
        me.say()
        me.hear()

    ls = host.connect()
    child = host.child(body)
    child.hear()
    child.end()
    host.until(lambda: host.state(ls)[2:] == (1, 1))
    place = f"--dir={host.directory}"
    (row,) = pydlm_json("locks", host.name, place)
    (lock,) = row["locks"]
    assert (lock["pid"], lock["started"], lock["command"]) == (0, None, "")
    assert "(gone)" in run("locks", host.name, place).stdout


def test_ls_and_rm(host: Host) -> None:
    place = f"--dir={host.directory}"
    assert pydlm_json("host", "ls", place) == []
    ls = host.connect(lvb_len=32)
    lk = ls.lock("x")
    (found,) = pydlm_json("host", "ls", place)
    assert found == {
        "name": host.name,
        "processes": [os.getpid()],
        "locks": 1,
        "resources": 1,
        "capacity": 255,
        "lvb_len": 32,
    }
    assert host.name in run("host", "ls", place).stdout
    refused = run("host", "rm", host.name, place)
    assert refused.returncode != 0
    assert str(os.getpid()) in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    lk.close()
    child = member(host)
    ls.close()
    host.spaces.clear()
    del ls, lk
    assert run("host", "rm", host.name, place).returncode != 0
    child.end()
    assert run("host", "rm", host.name, place).returncode == 0
    assert pydlm_json("host", "ls", place) == []
    gone = run("host", "rm", host.name, place)
    assert gone.returncode != 0
    assert "no lockspace" in gone.stderr


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "", ".hidden", "a/b"])
def test_nothing_outside_of_the_directory(name: str, host: Host) -> None:
    (host.directory / "below").mkdir()
    (host.directory / "x.dlm").write_text("not yours")
    for command in (["host", "rm", "--force"], ["host", "rm"], ["locks"]):
        done = run(*command, f"--dir={host.directory}/below", "--", name)
        assert done.returncode != 0
        assert "Traceback" not in done.stderr
    assert (host.directory / "x.dlm").exists()


def test_while_others_hammer_it(host: Host) -> None:
    """Each resource is shown as it was at one moment: never two writers, never half a queue."""

    def hammer(me: Child) -> None:
        ls = host.connect()
        chance = random.Random()
        me.say()
        while True:
            name = chance.choice(["x", "y", "z" * 60])
            lk = ls.lock(name)
            with lk.held(chance.choice([Mode.PR, Mode.EX, Mode.CW])):
                pass
            lk.close()

    children = [host.child(hammer) for _ in range(3)]
    for child in children:
        child.hear()
    pids = {child.pid for child in children}
    view = open_view(host.name, host.directory)
    seen = contended = 0
    give_up = time.monotonic() + PATIENCE
    while seen < 2000 or contended < 20:
        assert time.monotonic() < give_up
        for name, valid, locks in view.resources():
            assert name in (b"x", b"y", b"z" * 60)
            assert valid
            held = [status.granted for status, _, _ in locks if status.granted]
            assert all(one.compatible(other) for n, one in enumerate(held) for other in held[:n]), (
                locks
            )
            assert {pid for _, pid, _ in locks} <= pids
            assert len({status.lkid for status, _, _ in locks}) == len(locks)
            seen += 1
            contended += len(locks) > 1
    for row in pydlm_json("locks", host.name, f"--dir={host.directory}"):
        assert row["locks"]
    assert pydlm_json("host", "ls", f"--dir={host.directory}")[0]["processes"]
    for child in children:
        assert os.waitpid(child.pid, os.WNOHANG) == (0, 0), "nobody came to harm"


def test_it_does_not_wait_for_a_process_that_is_stopped_at_work(host: Host) -> None:
    ls = host.connect()
    lk = ls.lock("x")
    lk.acquire()

    def hammer(me: Child) -> None:
        own = host.connect().lock("y")
        me.say()
        while True:
            with own:
                pass

    child = host.child(hammer)
    child.hear()
    for _ in range(10):
        child.kill(signal.SIGSTOP)
        view = open_view(host.name, host.directory)
        assert b"x" in [name for name, _, _ in view.resources()]
        child.kill(signal.SIGCONT)


def test_it_is_mapped_read_only(host: Host) -> None:
    host.connect()
    view = open_view(host.name, host.directory)
    path = str(host.directory / f"{host.name}.dlm")
    maps = [line for line in Path("/proc/self/maps").read_text().splitlines() if path in line]
    assert sorted(line.split()[1] for line in maps) == ["r--s", "rw-s"]
    del view

    def body(me: Child) -> None:
        open_view(host.name, host.directory).resources()
        mine = [line for line in Path("/proc/self/maps").read_text().splitlines() if path in line]
        me.say([line.split()[1] for line in mine])

    assert host.child(body).hear() == []  # nothing of the parent's, and it is given back


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_file(seed: int, host: Host) -> None:
    """Whatever is in it, looking at it ends, and ends with an answer."""
    path = host.directory / f"{host.name}.dlm"

    def fill(me: Child) -> None:
        ls = host.connect()
        kept = [ls.lock(name) for name in ("x", "x", "x", "y" * 60)]
        kept[0].acquire(mode=Mode.PR)
        for name in (b"o", b"p" * 50, b"x"):
            ls.stack.lock(name, Mode.PR, LockFlag.PERSISTENT | LockFlag.VALBLK)
        me.say(path.read_bytes())  # as it is while they are held

    sound = host.child(fill).hear()
    used = [page for page in range(0, len(sound), 4096) if any(sound[page : page + 4096])]
    chance = random.Random(seed)

    def look(me: Child) -> None:
        for n in range(400):
            damaged = bytearray(sound)
            for _ in range(chance.choice((1, 10, 1000))):
                # All but what is checked first, most of it where the locks are.
                at = chance.choice(used) + 4 * chance.randrange(chance.choice((64, 1024)))
                if at >= 192:
                    damaged[at : at + 4] = chance.choice(
                        (chance.randbytes(4), b"\xff\xff\xff\xff", b"\1\0\0\0", bytes(4))
                    )
            path.write_bytes(damaged)
            me.say(n)
            signal.alarm(10)
            view = open_view(host.name, host.directory)
            view.processes(), view.usage(), view.resources(), view.resources(b"x")
            del view
        me.say("done")

    child = host.child(look)
    said: object = None
    try:
        while said != "done":
            said = child.hear()
    except EOFError:
        pytest.fail(f"looking at number {said} ended with status {child.join()}")
    place = f"--dir={host.directory}"
    for command in (["host", "ls"], ["locks", host.name]):
        assert isinstance(pydlm_json(*command, place), list)
    path.write_bytes(b"nothing of the sort")
    (found,) = pydlm_json("host", "ls", place)
    assert "unusable" in found["error"]
    assert "unusable" in run("host", "ls", place).stdout
    done = run("locks", host.name, place)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert run("host", "rm", host.name, place).returncode == 0
