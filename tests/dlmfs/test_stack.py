"""The stack `dlmfs` on real mounts: what it can do, and that what it cannot is said."""

from __future__ import annotations

import errno
import fcntl
import os
import platform
import select
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.dlmfs.client import PATIENCE
from tests.dlmfs.mounts import Mounted, World, until

import pydlm
from pydlm import Lockspace, LVBInvalid, Mode, StackUnavailable, Unsupported, o2dlm
from pydlm.stacks.dlmfs import DlmfsStack
from pydlm.stacks.dlmfs.attempt import Attempt
from pydlm.stacks.dlmfs.domain import Domain
from pydlm.stacks.dlmfs.place import Place
from pydlm.types import LockFlag

Connect = Callable[[Mounted], Lockspace]


@pytest.fixture
def connect(world: World) -> Connect:
    def connect(mount: Mounted) -> Lockspace:
        made = pydlm.connect("s", stack=f"dlmfs:{mount.path}")
        world.callbacks.append(made.close)
        return made

    return connect


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def join(thread: threading.Thread) -> None:
    thread.join(PATIENCE)
    assert not thread.is_alive()


def openers() -> int:
    """How many threads wait for a file to be opened."""
    stacks = [Path(f"/proc/self/task/{task}/wchan") for task in os.listdir("/proc/self/task")]
    return sum("request_wait_answer" in wchan.read_text() for wchan in stacks)


def flockers() -> int:
    """How many threads wait for another connection of their node."""
    tasks = [Path(f"/proc/self/task/{task}/syscall") for task in os.listdir("/proc/self/task")]
    return sum(task.read_text().split()[0] in _FLOCK for task in tasks)


#: flock(2) on x86_64, and where system calls have the generic numbers.
_FLOCK = ("73",) if platform.machine() == "x86_64" else ("32",)


@pytest.fixture(params=["one mount", "two mounts"])
def both(request: pytest.FixtureRequest, world: World, connect: Connect) -> list[Lockspace]:
    """Two connections, as two processes on a node or on two nodes have them."""
    mounts = [world.mount() for _ in range(1 if request.param == "one mount" else 2)]
    return [connect(mounts[0]), connect(mounts[-1])]


def test_they_exclude_each_other(both: list[Lockspace]) -> None:
    a, b = (ls.lock("l") for ls in both)
    with a:
        assert not b.acquire(blocking=False)
        assert not b.acquire(timeout=0.05)
        assert not b.acquire(blocking=False, mode=Mode.PR)
        waiter = in_thread(b.acquire)
        until(lambda: b.requested is Mode.EX)
        assert not b.locked()
    join(waiter)
    assert not a.acquire(blocking=False)
    b.release()
    with a.held(Mode.PR), b.held(Mode.PR):
        assert not both[1].lock("l").acquire(blocking=False)


def test_the_block_goes_with_the_lock(both: list[Lockspace]) -> None:
    a, b = (ls.lock("l") for ls in both)
    with a:
        assert a.lvb == bytes(64)
        a.lvb = b"one"
    with b.held(Mode.PR):
        assert b.lvb.rstrip(b"\0") == b"one"
    with b:
        pass  # writes nothing
    with a, pytest.raises(ValueError, match="64"):
        a.lvb = bytes(65)
    with a:
        assert a.lvb.rstrip(b"\0") == b"one"


def test_a_holder_is_told(world: World, connect: Connect) -> None:
    a, b = (connect(world.mount()).lock("l") for _ in range(2))
    a.acquire(mode=Mode.PR)
    assert not select.select([a], [], [], 0)[0]
    waiter = in_thread(b.acquire)
    assert select.select([a], [], [], PATIENCE)[0]
    assert a.blocked is Mode.EX
    a.release()
    join(waiter)
    assert not select.select([a], [], [], 0)[0]
    b.release()


def test_events_of_the_connection(world: World, connect: Connect) -> None:
    a, b = (connect(world.mount()) for _ in range(2))
    held, wanted = a.lock("l"), b.lock("l")
    held.acquire()
    waiter = in_thread(wanted.acquire)
    assert select.select([a], [], [], PATIENCE)[0]
    events = a.dispatch()
    assert [type(event) for event in events] == [pydlm.Blocked]
    assert events[0].lock is held  # type: ignore[union-attr]
    assert not select.select([a], [], [], 0)[0]
    held.release()
    join(waiter)
    wanted.release()


def test_a_wait_that_was_given_up_leaves_nothing(world: World, connect: Connect) -> None:
    a, b = (connect(world.mount()) for _ in range(2))
    held, other = a.lock("l"), b.lock("l")
    held.acquire()
    for _ in range(5):
        assert not other.acquire(timeout=0.02)
    assert openers() == 1  # each goes on where the last one has left
    held.release()
    until(lambda: openers() == 0)
    with held:
        pass
    held.acquire()
    assert not other.acquire(timeout=0.02)
    waiter = in_thread(lambda: other.acquire(timeout=PATIENCE))
    until(lambda: other.requested is Mode.EX)
    until(lambda: openers() == 1)  # two for a moment, while O_NONBLOCK is being answered
    held.release()
    join(waiter)
    assert other.locked()
    other.release()


def test_a_wait_that_was_given_up_keeps_no_other_node_waiting(
    world: World, connect: Connect
) -> None:
    """Not even while another program of its own node has what it would have to wait for next."""
    a, b = (connect(world.mount()) for _ in range(2))
    there, here = a.lock("l"), b.lock("l")
    there.acquire(mode=Mode.PR)
    beside = os.open(Path(world.mounts[1].path, "s", "l"), os.O_RDONLY | os.O_CREAT, 0o664)
    try:
        fcntl.flock(beside, fcntl.LOCK_SH)
        assert not here.acquire(timeout=0.02)
        assert openers() == 1
        there.release()
        until(lambda: openers() == flockers() == 0)
        assert there.acquire(mode=Mode.PR, timeout=PATIENCE)
        there.release()
    finally:
        os.close(beside)


def test_who_waits_does_not_take_over_a_try_that_was_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a mount: in the kernel, a try takes its time."""
    go_on = threading.Event()
    at_once = Attempt.at_once

    def slow(attempt: Attempt) -> bool:
        go_on.wait()
        return at_once(attempt)

    monkeypatch.setattr(Attempt, "at_once", slow)
    place = Place(str(tmp_path), True, "o2cb", frozenset({"cancel", "lvb", "trylock"}), 1)
    a, b = (DlmfsStack(place, Domain(place.path, "s", 30, in_kernel=True)) for _ in range(2))
    try:
        held = a.lock(b"l", Mode.EX)
        until(lambda: [event.status for event in a.dispatch()] == [0])
        b.unlock(b.lock(b"l", Mode.EX, LockFlag.NOQUEUE))
        waiting = b.lock(b"l", Mode.EX)
        go_on.set()
        until(lambda: flockers() == 1)
        a.unlock(held)
        found = []
        until(lambda: bool(found.extend(e for e in b.dispatch() if e.lkid == waiting) or found))
        assert [event.status for event in found] == [0]
    finally:
        go_on.set()
        for stack in (a, b):
            stack.disconnect()


def test_a_connection_is_closed_with_waiters(world: World, connect: Connect) -> None:
    a, b = (connect(world.mount()) for _ in range(2))
    held, other = a.lock("l"), b.lock("l")
    held.acquire()
    failed: list[BaseException] = []

    def wait() -> None:
        try:
            other.acquire()
        except pydlm.Closed as error:
            failed.append(error)

    waiter = in_thread(wait)
    until(lambda: openers() == 1)
    b.close()
    join(waiter)
    assert failed
    held.release()
    until(lambda: not os.listdir(world.mounts[1].path))
    with held:
        pass


def test_the_block_of_a_dead_node_is_invalid(world: World, connect: Connect) -> None:
    alive, dying = world.mount(), world.mount()
    a = connect(alive).lock("l")
    with a:
        a.lvb = b"old"
    b = connect(dying).lock("l")
    b.acquire()
    waiter = in_thread(a.acquire)
    until(lambda: b.blocked)
    dying.kill()
    join(waiter)
    assert not a.lvb_valid
    with pytest.raises(LVBInvalid):
        _ = a.lvb
    a.lvb = b"new"
    a.release()
    with a.held(Mode.PR):
        assert a.lvb.rstrip(b"\0") == b"new"
    with pytest.raises(pydlm.DlmError):
        b.release()
    b.close()


def test_a_killed_process_lets_go(world: World, connect: Connect) -> None:
    mount = world.mount()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with pydlm.connect("s", stack=f"dlmfs:{mount.path}") as ls, ls.lock("l"):
                os.write(write, b"1")
                signal.pause()
        finally:
            os._exit(1)
    assert os.read(read, 1)
    lock = connect(mount).lock("l")
    assert not lock.acquire(blocking=False)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert lock.acquire(timeout=PATIENCE)
    lock.release()
    os.close(read)
    os.close(write)


def test_a_child_keeps_nothing(world: World, connect: Connect) -> None:
    mount = world.mount()
    ls = connect(mount)
    lock = ls.lock("l")
    lock.acquire()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            lock.release()
        except pydlm.Forked:
            os.write(write, b"F")
        signal.pause()
    assert os.read(read, 1) == b"F"
    lock.release()
    other = connect(mount).lock("l")
    assert other.acquire(timeout=PATIENCE)
    other.release()
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(read)
    os.close(write)


def test_a_child_keeps_nothing_of_what_is_waited_for(world: World, connect: Connect) -> None:
    """Another connection of the node holds the lock, so the file is open while flock(2) waits."""
    mount = world.mount()
    held, wanted = (connect(mount).lock("l") for _ in range(2))
    held.acquire()
    waiter = in_thread(wanted.acquire)
    until(lambda: flockers() == 1)
    pid = os.fork()
    if pid == 0:
        signal.pause()
    try:
        held.release()
        join(waiter)
        wanted.release()
        assert held.acquire(timeout=PATIENCE)
        held.release()
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_a_child_of_a_child_keeps_its_descriptors(world: World, connect: Connect) -> None:
    ls = connect(world.mount())
    with ls.lock("l"):
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(20)]
                if (below := os.fork()) == 0:
                    for fd in taken:
                        os.fstat(fd)
                    status = 0
                else:
                    status = os.waitstatus_to_exitcode(os.waitpid(below, 0)[1])
            finally:
                os._exit(status)
        assert os.waitpid(pid, 0)[1] == 0


def test_a_wait_for_which_there_is_no_thread(
    world: World, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = world.mount()
    held, wanted = (connect(mount).lock("l") for _ in range(2))
    other = connect(world.mount()).lock("l")
    held.acquire()

    def start(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(pydlm.DlmError, match="no thread can be started") as caught:
            wanted.acquire()
    assert caught.value.errno == errno.EAGAIN
    held.release()
    assert other.acquire(timeout=PATIENCE)
    other.release()


def test_the_last_connection_removes_the_domain(world: World, connect: Connect) -> None:
    mount = world.mount()
    a, b = connect(mount), connect(mount)
    with a.lock("l"), b.lock("m"):
        pass
    a.close()
    assert {"l", "m"} < set(os.listdir(mount / "s"))
    b.close()
    until(lambda: not os.listdir(mount.path))


def test_what_the_dead_have_left_is_removed(world: World, connect: Connect) -> None:
    mount = world.mount()
    first, last = connect(mount), connect(mount)
    pid = os.fork()
    if pid == 0:
        try:
            dying = pydlm.connect("s", stack=f"dlmfs:{mount.path}")
            dying.lock("l").acquire()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert len(os.listdir(mount / "s")) == 4
    first.close()
    until(lambda: len(os.listdir(mount / "s")) == 2)  # the last one's, and the lock
    with last.lock("l"):
        pass
    last.close()
    until(lambda: not os.listdir(mount.path))


@pytest.mark.parametrize("how", ["stack", "o2dlm"])
def test_signals_while_joining(world: World, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    """os.mkdir does not begin again after a signal's handler."""
    mount = world.mount()
    handled: list[int] = []
    make, me = os.mkdir, threading.main_thread()

    def interrupt() -> None:
        wchan = Path(f"/proc/self/task/{me.native_id}/wchan")
        until(lambda: "request_wait_answer" in wchan.read_text())
        signal.pthread_kill(me.ident or 0, signal.SIGUSR1)
        mount.process.send_signal(signal.SIGCONT)

    def mkdir(path: bytes | str, mode: int) -> None:
        """Make it, with a signal in the midst the first time."""
        if not threads:
            mount.process.send_signal(signal.SIGSTOP)
            threads.append(in_thread(interrupt))
        make(path, mode)

    threads: list[threading.Thread] = []
    before = signal.signal(signal.SIGUSR1, lambda *_: handled.append(1))
    monkeypatch.setattr(os, "mkdir", mkdir)
    leave: Callable[[], None]
    try:
        if how == "stack":
            leave = pydlm.connect("s", stack=f"dlmfs:{mount.path}").close
        else:
            leave = o2dlm.initialize(mount.path, "s").destroy
    finally:
        mount.process.send_signal(signal.SIGCONT)
        signal.signal(signal.SIGUSR1, before)
    join(threads[0])
    assert handled
    assert os.listdir(mount.path) == ["s"]
    leave()
    until(lambda: not os.listdir(mount.path))


def test_what_it_cannot_is_said(world: World, connect: Connect) -> None:
    ls = connect(world.mount())
    assert ls.capabilities == {"bast", "stackglue", "trylock", "cancel", "lvb"}
    lock = ls.lock("l")
    with pytest.raises(Unsupported, match="CW"):
        lock.acquire(mode=Mode.CW)
    with lock, pytest.raises(Unsupported, match="convert"):
        lock.convert(Mode.PR)
    with pytest.raises(Unsupported, match="convert"):
        ls.cached("c")
    for call in (ls.dump, lambda: ls.stack.purge(1), lambda: ls.stack.deadlock_cancel(1)):
        with pytest.raises(Unsupported):
            call()


@pytest.mark.parametrize("name", ["x" * 32, "a/b", "$x", ".x", "a\0b"])
def test_names_that_no_file_has(world: World, connect: Connect, name: str) -> None:
    ls = connect(world.mount())
    with pytest.raises(pydlm.BadArgument, match="1 to 31 bytes"):
        ls.lock(name).acquire()
    with ls.lock("x" * 31):
        pass


def test_places_that_are_no_dlmfs(world: World, tmp_path: Path) -> None:
    for stack, message in (
        ("dlmfs", "needs to know where dlmfs is mounted"),
        (f"dlmfs:{tmp_path}", "is on no dlmfs; mount one there, by `pydlm mount"),
        (f"dlmfs:{tmp_path}/none", "cannot open .*No such file"),
    ):
        with pytest.raises(StackUnavailable, match=message):
            pydlm.connect("s", stack=stack)
    mount = world.mount()
    with pytest.raises(pydlm.BadArgument, match="63 bytes"):
        pydlm.connect("s" * 64, stack=f"dlmfs:{mount.path}")
    with pytest.raises(pydlm.BadArgument, match="no option capacity"):
        pydlm.connect("s", stack=f"dlmfs:{mount.path}", capacity=7)
    with pytest.raises(StackUnavailable, match="'of pydlm', not on 'o2cb', and a host runs one"):
        pydlm.connect("s", stack=f"dlmfs:{mount.path}", cluster_stack="o2cb")


def test_many_threads_count(both: list[Lockspace]) -> None:
    """Each adds to the block under EX; what is lost shows in the sum."""
    rounds = 60

    def add(ls: Lockspace) -> None:
        lock = ls.lock("sum")
        for _ in range(rounds):
            with lock:
                lock.lvb = (int.from_bytes(lock.lvb[:8], "big") + 1).to_bytes(8, "big")

    threads = [in_thread(lambda ls=ls: add(ls)) for ls in both for _ in range(2)]  # type: ignore[misc]
    for thread in threads:
        join(thread)
    with both[0].lock("sum") as lock:
        assert int.from_bytes(lock.lvb[:8], "big") == 4 * rounds


def test_events_are_left_for_the_next_time(world: World, connect: Connect) -> None:
    stack = DlmfsStack.connect("s", world.mount().path)
    world.callbacks.append(stack.disconnect)
    lkids = [stack.lock(b"%d" % n, Mode.PR) for n in range(3)]
    give_up = time.monotonic() + PATIENCE
    seen: list[int] = []
    while len(seen) < 3 and time.monotonic() < give_up:
        assert select.select([stack.fileno()], [], [], PATIENCE)[0]
        batch = stack.dispatch(1)
        assert len(batch) == 1
        seen += [event.lkid for event in batch]  # type: ignore[union-attr]
    assert seen == lkids
    assert not select.select([stack.fileno()], [], [], 0)[0]
