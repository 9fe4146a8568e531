"""A child of a process that is connected: it has nothing of its parent's, and harms none of it."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pytest
from tests.host.machine import Host
from tests.host.processes import PATIENCE, Child

import pydlm
from pydlm import Forked, Lockspace, Mode


def held_by_nobody(host: Host, name: str = "x") -> bool:
    """Ask in another process whether the lock can be had."""

    def body(me: Child) -> None:
        lk = host.connect().lock(name)
        me.say(lk.acquire(blocking=False))

    child = host.child(body)
    free: bool = child.hear()
    child.join()
    return free


def every_use(ls: Lockspace, lk: Any) -> list[Callable[[], object]]:
    return [
        lk.acquire,
        lambda: lk.acquire(blocking=False),
        lambda: lk.acquire(timeout=0.01),
        lk.release,
        lambda: lk.convert(Mode.PR),
        lk.cancel,
        lk.fileno,
        lambda: lk.lvb,
        lambda: setattr(lk, "lvb", b"x"),
        lambda: lk.lvb_valid,
        lambda: lk.token,
        lambda: lk.blocked,
        lk.__enter__,
        lambda: ls.lock("other"),
        ls.fileno,
        ls.dispatch,
        lambda: list(ls.dump()),
        lambda: ls.stack.lock(b"other", Mode.PR),
        lambda: ls.stack.purge(0),
    ]


def test_each_use_of_the_parents_handle_is_an_error(host: Host) -> None:
    ls = host.connect()
    lk = ls.lock("x")
    lk.acquire()
    lk.lvb = b"parent"

    def body(me: Child) -> None:
        for number, use in enumerate(every_use(ls, lk)):
            try:
                use()
            except Forked as error:
                assert "connect again in the child" in str(error)
            else:
                pytest.fail(f"use {number} was no error")
        assert not lk.locked()
        repr(lk), repr(ls)
        me.say("done")

    child = host.child(body)
    assert child.hear() == "done"
    assert child.join() == 0
    assert lk.locked() and lk.lvb[:6] == b"parent"
    assert not held_by_nobody(host)
    lk.release()
    assert held_by_nobody(host)


@pytest.mark.parametrize("how", ["close", "delete", "collect", "with", "nothing", "finalize"])
def test_nothing_that_the_child_does_lets_go_of_the_parents_locks(how: str, host: Host) -> None:
    ls = pydlm.connect(host.name, stack=host.stack, capacity=255)
    kept = [ls, ls.lock("x"), ls.lock("y")]
    kept[1].acquire()  # type: ignore[union-attr]
    kept[1].fileno()
    pid = os.fork_with_care()  # type: ignore[attr-defined]
    if pid == 0:
        status = 1
        try:
            if how == "close":
                kept[2].close()
                kept[1].close()
                ls.close()
            elif how == "with":
                with ls:
                    pass
            elif how == "delete":
                kept.clear()
                del ls
            elif how == "collect":
                kept.append(kept)  # type: ignore[arg-type]
                kept = []
                gc.collect()
            elif how == "finalize":
                kept.clear()
                del ls
                with pydlm.connect(host.name, stack=host.stack) as mine:
                    assert not mine.lock("x").acquire(blocking=False)
            status = 0
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert kept[1].locked()  # type: ignore[union-attr]
    assert not held_by_nobody(host)
    for each in reversed(kept):
        each.close()
    assert held_by_nobody(host)


@pytest.fixture(autouse=True)
def fork_with_care(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        sys.stdout.flush()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # that there are threads
            return os.fork()

    monkeypatch.setattr(os, "fork_with_care", fork, raising=False)


PROGRAM = """
import os, sys, warnings
import pydlm
warnings.simplefilter("ignore", DeprecationWarning)
name, stack, how = sys.argv[1:]
ls = pydlm.connect(name, stack=stack, capacity=255)
lk = ls.lock("x")
lk.acquire()
lk.fileno()
pid = os.fork()
if pid == 0:
    if how == "os._exit":
        os._exit(0)
    if how == "exec":
        os.execv(sys.executable, [sys.executable, "-c", "raise SystemExit(0)"])
    if how == "raise":
        sys.stderr.close()
        raise ValueError
    sys.exit(0)
status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
assert status == (1 if how == "raise" else 0), status
# It is still ours: a second connection cannot have it.
assert lk.locked()
with pydlm.connect(name, stack=stack) as other:
    assert not other.lock("x").acquire(blocking=False)
lk.release()
with pydlm.connect(name, stack=stack) as other:
    assert other.lock("x").acquire(blocking=False)
print("done")
"""


@pytest.mark.parametrize("how", ["exit", "os._exit", "exec", "raise"])
def test_however_the_child_ends_the_parent_goes_on(how: str, host: Host) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, host.name, host.stack, how],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


@pytest.mark.parametrize("close_fds", [True, False])
def test_a_subprocess_has_no_descriptor_of_ours(close_fds: bool, host: Host) -> None:
    ls = host.connect()
    lk = ls.lock("x")
    lk.acquire()
    ours = {lk.fileno(), ls.fileno()}
    program = "import os; print(*sorted(os.listdir('/proc/self/fd')))"
    said = subprocess.run(
        [sys.executable, "-c", program],
        close_fds=close_fds,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=True,
    ).stdout
    assert not ours & {int(fd) for fd in said.split()}
    assert not held_by_nobody(host)


def test_the_parents_death_frees_its_locks_though_its_children_live(host: Host) -> None:
    def parent(me: Child) -> None:
        ls = host.connect()
        lk = ls.lock("x")
        lk.acquire()
        lk.fileno()
        grandchild = host.child(grand)
        sleeper = subprocess.Popen(["sleep", str(4 * PATIENCE)], close_fds=False)
        assert grandchild.hear() == "lives"
        me.say((grandchild.pid, sleeper.pid))
        me.hear()

    def grand(me: Child) -> None:
        me.say("lives")
        signal.pause()

    child = host.child(parent)
    lk = host.connect().lock("x")
    pids = child.hear()
    assert not lk.acquire(blocking=False)
    child.end()
    try:
        assert lk.acquire(timeout=PATIENCE)
        for pid in pids:
            os.kill(pid, 0)
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)


def test_a_prefork_server(host: Host) -> None:
    """The parent is connected and holds a lock; its workers connect for themselves."""
    ls = host.connect()
    mine = ls.lock("parent")
    mine.acquire()

    def worker(me: Child) -> None:
        with pytest.raises(Forked):
            mine.release()
        own = pydlm.connect(host.name, stack=host.stack)
        assert not own.lock("parent").acquire(blocking=False)
        lk = own.lock("count")
        for _ in range(200):
            with lk:
                count = int.from_bytes(lk.lvb[:8], "little") + 1
                lk.lvb = count.to_bytes(8, "little")
        me.say(own.node)
        me.hear()

    count = ls.lock("count")
    workers = [host.child(worker) for _ in range(4)]
    nodes = {worker.hear() for worker in workers}
    assert len(nodes | {ls.node}) == 5
    with count:
        assert int.from_bytes(count.lvb[:8], "little") == 800
    assert mine.locked()
    workers[0].end()
    host.until(lambda: len(ls.stack.arena.processes()) == 4)  # type: ignore[attr-defined]
    workers.append(host.child(worker))  # as the server replaces one
    workers[-1].hear()
    with count:
        assert int.from_bytes(count.lvb[:8], "little") == 1000


def test_a_child_of_a_child(host: Host) -> None:
    ls = host.connect()
    lk = ls.lock("x")
    lk.acquire()

    def body(me: Child, depth: int) -> None:
        own = host.connect()
        mine = own.lock(f"at {depth}")
        mine.acquire()
        with pytest.raises(Forked):
            lk.acquire()
        if depth < 3:
            below = host.child(lambda me: body(me, depth + 1))
            assert below.hear() == "done"
            assert below.join() == 0
        assert mine.locked()
        assert not own.lock("x").acquire(blocking=False)
        me.say("done")

    child = host.child(lambda me: body(me, 0))
    assert child.hear() == "done"
    assert child.join() == 0
    assert held_by_nobody(host, "at 3")


def test_a_fork_while_other_threads_are_at_it(host: Host) -> None:
    """The child begins anew, whatever the parent's threads were in the midst of."""
    import threading

    ls = host.connect()
    over = threading.Event()

    def busy(name: str) -> None:
        lk = ls.lock(name)
        while not over.is_set():
            with lk:
                pass

    threads = [threading.Thread(target=busy, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    try:
        for _ in range(30):

            def body(me: Child) -> None:
                own = host.connect()
                lk = own.lock("a")
                me.say(lk.acquire(timeout=PATIENCE))

            child = host.child(body)
            assert child.hear() is True
            assert child.join() == 0
    finally:
        over.set()
        for thread in threads:
            thread.join()
    ls.stack.arena.check()  # type: ignore[attr-defined]


def count_up(name: str, stack: str, rounds: int) -> int:
    ls = pydlm.connect(name, stack=stack)
    lk = ls.lock("count")
    for _ in range(rounds):
        with lk:
            count = int.from_bytes(lk.lvb[:8], "little") + 1
            lk.lvb = count.to_bytes(8, "little")
    return ls.node


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_multiprocessing(method: str, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    ls = host.connect()
    lk = ls.lock("count")
    held = ls.lock("x")
    held.acquire()
    context: Any = multiprocessing.get_context(method)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    program = (
        "import multiprocessing, sys, warnings\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"
        "import pydlm\n"
        "from tests.host.test_fork_on_host import count_up\n"
        "if __name__ == '__main__':\n"
        "    name, stack, method = sys.argv[1:]\n"
        "    ls = pydlm.connect(name, stack=stack)\n"
        "    mine = ls.lock('mine')\n"
        "    mine.acquire()\n"
        "    with multiprocessing.get_context(method).Pool(3) as pool:\n"
        "        nodes = pool.starmap(count_up, [(name, stack, 50)] * 6, chunksize=1)\n"
        "    assert mine.locked() and len(set(nodes)) == 6\n"
        "    print('done')\n"
    )
    assert context.get_start_method() == method
    main = host.directory / "program.py"
    main.write_text(program)
    done = subprocess.run(
        [sys.executable, str(main), host.name, host.stack, method],
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        cwd=os.getcwd(),
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    with lk:
        assert int.from_bytes(lk.lvb[:8], "little") == 300
    assert held.locked()
    host.until(lambda: host.state(ls)[2:] == (1, 1))


def test_a_child_that_uses_the_numbers_of_our_duplicates(host: Host) -> None:
    """Who contends keeps duplicates of others' descriptors; a child has no claim to the numbers."""

    def hold(me: Child) -> None:
        lk = host.connect().lock("x")
        lk.fileno()
        lk.acquire()
        me.say("held")
        me.hear()

    def daemon(me: Child) -> None:
        ls = host.connect()
        lk = ls.lock("x")
        assert lk.acquire(timeout=0.05) is False
        here, there = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            for fd in range(3, 64):
                if fd != there:
                    os.dup2(there, fd)
            del lk, ls
            gc.collect()
            lost = [fd for fd in range(3, 64) if not os.path.exists(f"/proc/self/fd/{fd}")]
            os.write(there, repr(lost).encode())
            os._exit(0)
        os.close(there)
        os.waitpid(child, 0)
        me.say(os.read(here, 1000).decode())

    holder = host.child(hold)
    assert holder.hear() == "held"
    assert host.child(daemon).hear() == "[]"
