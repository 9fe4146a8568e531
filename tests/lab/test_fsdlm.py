"""The stack fsdlm on the nodes of a real cluster: what its users rely on, and how it fails."""

from __future__ import annotations

import itertools
import json
import lzma
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.lab.node import Node
from tests.lab.prompt import Prompt, Raised

from pydlm.testing.recording import shipped

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(300)]

RECORDINGS = {Path(path).name.partition(".")[0]: path for path in shipped()}
_numbers = itertools.count(1)

Prompts = Callable[[Node], Prompt]


@pytest.fixture
def prompt() -> Iterator[Prompts]:
    """Make prompts that are connected as `ls` to a lockspace of this test."""
    lockspace = f"test{next(_numbers)}"
    with ExitStack() as prompts:

        def prompt(node: Node) -> Prompt:
            new = prompts.enter_context(Prompt(node))
            new(f"ls = pydlm.connect({lockspace!r}, 'fsdlm')")
            return new

        yield prompt


def command(node: Node, *words: str) -> str:
    """A shell command of this machine that runs Python on a node."""
    directory = f"PYDLM_LAB_RUN={shlex.quote(str(node.lab.directory))}"
    lab = shlex.join([sys.executable, "-m", "tests.lab", "python", str(node.number), *words])
    return f"{directory} {lab}"


# The recordings.


def test_recordings_of_one_node(node1: Node) -> None:
    files = [RECORDINGS["handwritten"], RECORDINGS["random"]]
    words = ["-m", "pydlm.testing", "replay", *files, "--stack", "fsdlm", "--every", "12"]
    assert " 0 failed, " in node1.python(*words, timeout=200)


def test_checks_of_stacks(node1: Node) -> None:
    words = ("-m", "pydlm.testing", "conformance", "--stack", "fsdlm")
    assert "\n18 passed, 0 failed\n" in node1.python(*words, timeout=100)


def test_recordings_of_two_nodes(node1: Node, node2: Node) -> None:
    files = [RECORDINGS["twonode"], RECORDINGS["twonode-random"]]
    replay_on_two(node1, node2, *files, "--every", "25")


def deaths() -> list[str]:
    """Return some of the recordings in which a node dies."""
    with lzma.open(RECORDINGS["death"], "rt") as lines:
        scenarios = [*lines]
    # Node 2 is the master of what survivors wait for, and grants it before it is gone.
    granting = re.compile('"death-m2-holder-EX-(waiter-.*|converter)"')
    granted = [line for line in scenarios if granting.search(line.partition(",")[0])]
    assert len(granted) == 2
    return scenarios[::15] + granted


@pytest.mark.parametrize("scenario", deaths(), ids=lambda line: json.loads(line)["name"])
def test_recordings_of_deaths(node1: Node, node2: Node, scenario: str) -> None:
    replay_on_two(node1, node2, "-", scenarios=scenario)


def replay_on_two(node1: Node, node2: Node, *words: str, scenarios: str = "") -> None:
    replay = [sys.executable, "-m", "pydlm.testing", "replay", *words, "--stack", "fsdlm"]
    for node in (node1, node2):
        replay += ["--on", command(node, "-m", "pydlm.testing", "agent")]
    lab = f"PYDLM_LAB_RUN={node1.lab.directory} {sys.executable} -m tests.lab"
    replay += ["--kill", f"{lab} kill {{node}}", "--boot", f"{lab} boot {{node}}"]
    done = subprocess.run(
        replay, input=scenarios, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 failed, " in done.stdout


# The blocking layer.


def test_two_nodes_exclude_each_other_and_pass_the_block_on(
    node1: Node, node2: Node, prompt: Prompts
) -> None:
    a, b = prompt(node1), prompt(node2)
    assert (a("ls.node"), b("ls.node"), a("ls.lvb_len")) == (1, 2, 32)
    a("lk = ls.lock('r'); fd = lk.fileno()")
    b("lk = ls.lock('r')")
    a("lk.acquire(); lk.lvb = b'from a'")
    assert b("lk.acquire(blocking=False)") is False
    assert b("lk.acquire(timeout=0.1)") is False
    assert a("bool(select.select([fd], [], [], 10)[0])")
    b.begin("lk.acquire(mode=Mode.PR), lk.lvb")
    assert a("select.select([fd], [], [], 10) and int(lk.blocked)") == 5
    a("lk.release()")
    assert b.result() == (True, b"from a".ljust(32, b"\0"))
    assert a("select.select([fd], [], [], 0)[0]") == []
    assert a("with lk.held(Mode.PR): value = lk.lvb") is None
    assert a("value").startswith(b"from a")
    b("lk.convert(Mode.EX); lk.lvb = b'from b'; lk.release()")
    assert a("lk.acquire() and lk.lvb").startswith(b"from b")


def test_node_that_dies_holding_exclusively(node1: Node, node2: Node, prompt: Prompts) -> None:
    a, b = prompt(node1), prompt(node2)
    a("lk = ls.lock('r'); lk.acquire(); lk.lvb = b'before'; lk.release()")
    b("lk = ls.lock('r'); lk.acquire(); lk.lvb = b'never published'")
    a.begin("lk.acquire(timeout=60)")
    node2.kill()
    assert a.result(70) is True
    assert a("lk.lvb_valid") is False
    with pytest.raises(Raised, match="LVBInvalid"):
        a("lk.lvb")
    a("lk.release()")
    with pytest.raises(Raised, match="LVBInvalid"):  # who did not write has not made it valid
        a("with lk.held(Mode.PR): lk.lvb")
    a("lk.acquire(); lk.lvb = b'after'; lk.release()")
    assert a("lk.acquire(mode=Mode.PR) and lk.lvb").startswith(b"after")
    assert a("[e for e in ls.dispatch() if isinstance(e, NodeDown)]") == "[NodeDown(node=2)]"


def test_master_that_is_gone_at_once_takes_the_block_along(
    node1: Node, node2: Node, prompt: Prompts
) -> None:
    a, b = prompt(node1), prompt(node2)
    b("lk = ls.lock('r'); lk.acquire(); lk.lvb = b'known to b'; lk.convert(Mode.PR)")
    a("lk = ls.lock('r')")
    a.begin("lk.acquire(timeout=60)")
    assert b("bool(select.select([lk], [], [], 10)[0])")  # a's request is there
    node2.kill()
    assert a.result(70) is True
    with pytest.raises(Raised, match="LVBInvalid"):  # though nobody was about to write
        a("lk.lvb")


def test_the_first_one_dies_and_comes_back(node1: Node, node2: Node, prompt: Prompts) -> None:
    """It agrees on the protocol's version with who was in beside it."""
    a, b = prompt(node1), prompt(node2)
    assert a("ls.stack.this_node") == 1
    node1.kill()
    assert b("bool(select.select([ls.fileno()], [], [], 60)[0])")
    assert b("[e for e in ls.dispatch() if isinstance(e, NodeDown)]") == "[NodeDown(node=1)]"
    node1.boot()
    c = prompt(node1)
    c("lk = ls.lock('r'); lk.acquire()")
    b.begin("ls.lock('r').acquire(timeout=20)")
    c("lk.release()")
    assert b.result() is True


def test_node_that_leaves_is_not_down(node1: Node, node2: Node, prompt: Prompts) -> None:
    a, b = prompt(node1), prompt(node2)
    b("ls.close()")
    assert b("os.path.exists('/sys/kernel/dlm/' + ls.name)") is False
    assert a("bool(select.select([ls.stack], [], [], 10)[0])")  # somebody has left
    assert a("list(ls.dispatch())") == []


MOUNT = """
import subprocess, sys
os.makedirs('/run/mounted', exist_ok=True)
words = ['mount', '/run/mounted', '--stack', 'fsdlm', '--background']
subprocess.run([sys.executable, '-m', 'pydlm.cli', *words], check=True)
os.mkdir('/run/mounted/d')
fd = os.open('/run/mounted/d/l', os.O_RDWR | os.O_CREAT)
"""


def test_pydlm_mount_on_it(node1: Node, node2: Node, prompt: Prompts) -> None:
    a, b = prompt(node1), prompt(node2)
    for node in (node1, node2):
        node.run("modprobe fuse")
    a(MOUNT)
    a("os.write(fd, b'from a')")
    b.begin(MOUNT)
    assert a("bool(select.select([fd], [], [], 20)[0])")  # b has asked
    a("os.close(fd)")
    b.result()
    assert b("os.read(fd, 64)").rstrip(b"\0") == b"from a"
    for each in (a, b):
        each("subprocess.run(['umount', '-l', '/run/mounted'], check=True)")


def test_cached_locks(node1: Node, node2: Node, prompt: Prompts) -> None:
    a, b = prompt(node1), prompt(node2)
    for each in (a, b):
        each("dropped = []")
        each("c = ls.cached('config', on_drop=lambda lock, level: dropped.append(level))")
    a("with c.exclusive(): c.lvb = b'v1'")
    assert a("dropped") == []
    assert b("with c.shared(): value = c.lvb") is None
    assert b("value").startswith(b"v1")
    assert a("len(dropped)") == 1
    b("with c.exclusive(): c.lvb = b'v2'")
    a("with c.shared(): value = c.lvb")
    assert a("value").startswith(b"v2")


# The stack's own verbs.


def test_orphans_are_adopted_and_purged(node1: Node, prompt: Prompts) -> None:
    a, b, c = prompt(node1), prompt(node1), prompt(node1)
    for name in ("r", "s"):
        a(f"ls.stack.lock(b'{name}', Mode.EX, LockFlag.PERSISTENT)")
    pid = a("os.getpid()")
    a("ls.stack.abandon()")
    with pytest.raises(Raised, match="WouldBlock"):
        b("ls.stack.lock(b'r', Mode.PR, LockFlag.ORPHAN)")
    with pytest.raises(Raised, match="NoSuchLock"):
        b("ls.stack.lock(b'none', Mode.EX, LockFlag.ORPHAN)")
    b("lkid = ls.stack.lock(b'r', Mode.EX, LockFlag.ORPHAN)")
    assert b("ls.stack.lock_status(lkid).granted == Mode.EX")
    c("lk = ls.lock('s')")
    assert c("lk.acquire(blocking=False)") is False
    b(f"ls.stack.purge(ls.node, pid={pid + 1})")
    assert c("lk.acquire(blocking=False)") is False
    b(f"ls.stack.purge(ls.node, pid={pid})")
    assert c("lk.acquire(timeout=10)") is True


def test_persistent_request_that_waits_is_no_orphan_when_closed(
    node1: Node, prompt: Prompts
) -> None:
    """Purged, it would make the kernel panic."""
    a, b = prompt(node1), prompt(node1)
    a("lk = ls.lock('r'); lk.acquire()")
    b("ls.stack.lock(b'r', Mode.EX, LockFlag.PERSISTENT); ls.close()")
    a("ls.stack.purge(ls.node)")
    a("lk.release()")
    assert a("lk.acquire(blocking=False)") is True


def test_lkids_are_not_used_again(node1: Node, prompt: Prompts) -> None:
    a = prompt(node1)
    a("s = ls.stack")
    a("one = s.lock(b'r', Mode.EX); s.dispatch(); s.unlock(one); s.dispatch()")
    a("two = s.lock(b'r', Mode.EX); s.dispatch()")
    assert a("one & 0xffffffff == two & 0xffffffff and one != two")  # the kernel does use its
    with pytest.raises(Raised, match="NoSuchLock"):
        a("s.unlock(one)")


def test_child_of_a_fork(node1: Node, prompt: Prompts) -> None:
    a, b = prompt(node1), prompt(node1)
    a("lk = ls.lock('r'); lk.acquire()")
    a(
        "pid = os.fork()\n"
        "if pid == 0:\n"
        "    try:\n"
        "        ls.stack.lock(b's', Mode.EX)\n"
        "    except Forked:\n"
        "        ls.stack.disconnect()\n"
        "        os._exit(7)\n"
        "    os._exit(1)\n"
    )
    assert a("os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])") == 7
    assert b("ls.lock('r').acquire(blocking=False)") is False
    a("lk.release()")


def test_what_it_cannot_do(node1: Node, prompt: Prompts) -> None:
    a = prompt(node1)
    assert not {"fencing", "dump", "native", "deadlock"} & set(a("sorted(ls.capabilities)"))
    for what in ("list(ls.dump())", "ls.lock('r').token"):
        with pytest.raises(Raised, match="Unsupported: the stack 'fsdlm' cannot"):
            a(what)
    for what in ("pydlm.connect('x', 'fsdlm', lvb_len=64)", "pydlm.connect('x', 'fsdlm:there')"):
        with pytest.raises(Raised, match="BadArgument"):
            a(what)
    a("ls.close()")
    with pytest.raises(Raised, match="Closed"):
        a("ls.stack.lock(b'r', Mode.NL)")


# What is missing is named.


def become_nobody(prompt: Prompt) -> None:
    # What is loaded on demand may not be readable afterwards.
    prompt("import pydlm.stacks.fsdlm; pydlm.stacks.fsdlm.libdlm.load()")
    prompt("os.setgroups([]); os.setgid(65534); os.setuid(65534)")


def test_user_who_may_not(node1: Node, prompt: Prompts) -> None:
    a = prompt(node1)
    with Prompt(node1) as b:
        become_nobody(b)
        with pytest.raises(Raised, match=r"StackUnavailable.*dlm-control may not be used by user"):
            b("pydlm.connect('elsewhere', 'fsdlm')")
        with pytest.raises(Raised, match=r"StackUnavailable.*may not be used by user 65534"):
            b(f"pydlm.connect({a('ls.name')!r}, 'fsdlm')")


def test_user_who_may_join_what_root_has_opened_to_all(node1: Node) -> None:
    with Prompt(node1) as a, Prompt(node1) as b:
        a("ls = pydlm.connect('open', 'fsdlm', permissions=0o666)")
        become_nobody(b)
        b("ls = pydlm.connect('open', 'fsdlm'); lk = ls.lock('r')")
        assert b("lk.acquire()") is True
        assert a("ls.lock('r').acquire(blocking=False)") is False


def test_join_that_does_not_come_back(node2: Node) -> None:
    with Prompt(node2) as a:
        node2.run("kill -STOP $(cat /run/lab-controld)")
        try:
            a("begin = time.monotonic()")
            with pytest.raises(
                Raised, match=r"has not joined .* within 1 s\. Check `dlm_tool status"
            ):
                a("pydlm.connect('never', 'fsdlm', timeout=1)")
            assert a("time.monotonic() - begin") < 5
        finally:
            node2.run("kill -CONT $(cat /run/lab-controld)")


def test_without_dlm_controld(node2: Node) -> None:
    try:
        node2.run(
            "pid=$(cat /run/lab-controld); kill -9 $pid; while kill -0 $pid; do sleep 0.1; done"
        )
        with (
            Prompt(node2) as a,
            pytest.raises(Raised, match="StackUnavailable: dlm_controld does not run"),
        ):
            a("pydlm.connect('nowhere', 'fsdlm')")
    finally:
        node2.kill()


def test_without_libdlm(node1: Node) -> None:
    with Prompt(node1) as a:
        a("import pydlm.stacks.fsdlm.libdlm as libdlm; libdlm.LIBRARY = 'libdlm.so.0'")
        with pytest.raises(Raised, match=r"StackUnavailable: .* needs libdlm.so.0: install"):
            a("pydlm.connect('x', 'fsdlm')")


# The torture.


def test_torture(node1: Node, node2: Node) -> None:
    words = [sys.executable, "-m", "pydlm.cli", "torture", "--stack", "fsdlm"]
    words += ["--iterations", "1000", "--json"]
    for node in (node1, node2):
        words += ["--on", command(node, "-m", "pydlm.cli")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert '"wrong": null' in done.stdout
