"""The stack dlmfs on the kernel's ocfs2_dlmfs: on fs/dlm and on o2cb, on two nodes."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.lab.node import Lab, Node, dlmfs
from tests.lab.prompt import Prompt, Raised

pytestmark = [pytest.mark.lab, pytest.mark.slow, pytest.mark.timeout(300)]

Two = tuple[Node, Node]
Prompts = Callable[[Node], Prompt]

STACK = "dlmfs:/run/dlm"
CLIENT = Path(__file__).parents[1] / "o2dlm" / "client.c"
_numbers = itertools.count(1)

#: How many threads wait in open(2) or flock(2).
OPENERS = "sum(t.name.startswith('pydlm-dlmfs') for t in threading.enumerate())"


@pytest.fixture
def domain() -> str:
    return f"test{next(_numbers)}"


@pytest.fixture
def prompt(domain: str) -> Iterator[Prompts]:
    """Make prompts that are connected as `ls` to the domain, and have the lock `lk`."""
    with ExitStack() as prompts:

        def prompt(node: Node) -> Prompt:
            new = prompts.enter_context(Prompt(node))
            new(f"ls = pydlm.connect({domain!r}, {STACK!r}); lk = ls.lock('r'); fd = lk.fileno()")
            return new

        yield prompt


def wait_until(prompt: Prompt, condition: str) -> None:
    prompt(
        "give_up = time.monotonic() + 20\n"
        f"while not ({condition}):\n"
        f"    assert time.monotonic() < give_up, {condition!r}\n"
        "    time.sleep(0.01)"
    )


def told(prompt: Prompt) -> bool:
    """Whether the holder of `lk` is told within some time that it is wanted."""
    return prompt("select.select([fd], [], [], 20)[0] == [fd] and lk.blocked is Mode.EX")


def test_what_it_can(dlmfs_nodes: Two, cluster_stack: str, prompt: Prompts, domain: str) -> None:
    a, b = map(prompt, dlmfs_nodes)
    can, numbers = {"bast", "cancel", "lvb", "stackglue"}, (1, 2)
    if cluster_stack == "o2cb":
        can.add("trylock")
        numbers = (2, 3)  # there they count from 0
    assert set(a("sorted(ls.capabilities)")) == can
    assert (a("ls.node"), b("ls.node"), a("ls.lvb_len")) == (*numbers, 64)
    for what in ("lk.acquire(mode=Mode.CW)", "ls.cached('c')", "list(ls.dump())"):
        with pytest.raises(Raised, match="Unsupported"):
            a(what)
    a("lk.acquire()")
    if cluster_stack == "pcmk":  # where it would hang for ever, in the kernel
        with pytest.raises(Raised, match=r"Unsupported: .* it lacks 'trylock'"):
            b("lk.acquire(blocking=False)")
    else:
        assert b("lk.acquire(blocking=False)") is False
        assert b("lk.acquire(blocking=False, mode=Mode.PR)") is False
    a("lk.release()")
    assert b("lk.acquire(timeout=20)") is True
    a("ls.close()")
    b("ls.close()")
    for each in (a, b):
        assert domain not in each("os.listdir('/run/dlm')")


def test_checks_of_stacks(dlmfs_nodes: Two, cluster_stack: str) -> None:
    words = ["-m", "pydlm.testing", "conformance", "--stack", STACK]
    words += ["--without", "told"]  # of each other, connections of one node are not
    assert "\n15 passed, 0 failed\n" in dlmfs_nodes[0].python(*words, timeout=100)


def test_nodes_exclude_each_other_and_pass_the_block_on(dlmfs_nodes: Two, prompt: Prompts) -> None:
    a, b = map(prompt, dlmfs_nodes)
    a("lk.acquire(); zeros = lk.lvb; lk.lvb = b'from a'")
    assert a("zeros") == bytes(64)
    assert b("lk.acquire(timeout=0.1)") is False
    b.begin("lk.acquire(mode=Mode.PR, timeout=20), lk.lvb")
    assert told(a)
    a("lk.release()")
    assert b.result() == (True, b"from a".ljust(64, b"\0"))
    assert a("lk.acquire(mode=Mode.PR, timeout=20), lk.lvb") == (True, b"from a".ljust(64, b"\0"))
    b.begin("lk.release(), lk.acquire(timeout=20)")
    assert told(a)
    a("lk.release()")
    assert b.result() == (None, True)
    b("lk.lvb = b'from b'; lk.release()")
    assert a("lk.acquire(timeout=20) and lk.lvb").startswith(b"from b")


def test_processes_of_a_node_exclude_each_other(dlmfs_nodes: Two, prompt: Prompts) -> None:
    a, b, c = prompt(dlmfs_nodes[0]), prompt(dlmfs_nodes[0]), prompt(dlmfs_nodes[1])
    a("lk.acquire(); lk.lvb = b'from a'")
    assert b("lk.acquire(timeout=0.1)") is False
    assert b("lk.acquire(mode=Mode.PR, timeout=0.1)") is False
    b.begin("lk.acquire(timeout=20), lk.lvb[:6]")
    a("lk.release()")
    assert b.result() == (True, b"from a")
    c.begin("lk.acquire(timeout=20), lk.lvb[:6]")
    assert told(b)
    b("lk.lvb = b'from b'; lk.release()")
    assert c.result() == (True, b"from b")


def test_readers_of_both_nodes_stand_in_the_way_of_writers(
    dlmfs_nodes: Two, prompt: Prompts
) -> None:
    """Both nodes have PR and want EX: in the lock manager below, a deadlock of conversions."""
    readers = [prompt(node) for node in dlmfs_nodes]
    writers = [prompt(node) for node in dlmfs_nodes]
    for reader in readers:
        assert reader("lk.acquire(mode=Mode.PR, timeout=20)") is True
    for writer in writers:
        writer.begin("lk.acquire(timeout=30) and lk.release()")
    # The one whose conversion closes the circle is refused, so it may be in nobody's way.
    assert any(told(reader) for reader in readers)
    for reader in readers:
        reader("lk.release()")
    for writer in writers:
        assert writer.result(40) is None


def test_a_wait_that_was_given_up(dlmfs_nodes: Two, prompt: Prompts, domain: str) -> None:
    a, b = map(prompt, dlmfs_nodes)
    a("lk.acquire()")
    for _ in range(3):
        assert b("lk.acquire(timeout=0.05)") is False
    assert b(OPENERS) == 1  # it goes on to wait, as nothing can end that, for whoever comes next
    assert told(a)
    a("lk.release()")
    # It has let go what it has got.
    assert a("lk.acquire(timeout=20)") is True
    a("lk.release()")
    b("with lk: lk.lvb = b'from b'")
    assert a("lk.acquire(timeout=20) and lk.lvb").startswith(b"from b")
    assert b("lk.acquire(timeout=0.05)") is False
    b("ls.close()")  # also while something waits
    a("lk.release(); ls.close()")
    wait_until(
        b, f"{domain!r} not in os.listdir('/run/dlm')"
    )  # what was left over has removed its files


def test_poll(dlmfs_nodes: Two, prompt: Prompts) -> None:
    """The holder has POLLIN, lets go, and the other side is granted; many times over."""
    a, b = map(prompt, dlmfs_nodes)
    a("lk.acquire()")
    assert a("select.select([fd, ls.stack.fileno()], [], [], 0)[0]") == []
    for _ in range(5):
        for holder, other in ((a, b), (b, a)):
            other.begin("lk.acquire(timeout=20)")
            assert told(holder)
            holder("lk.release()")
            assert other.result() is True
            assert other("select.select([fd], [], [], 0)[0], lk.blocked") == ([], None)


def test_join_that_does_not_come_back(dlmfs_nodes: Two, cluster_stack: str, domain: str) -> None:
    if cluster_stack == "o2cb":
        return  # it is the kernel's own: there is nothing to stop
    node = dlmfs_nodes[1]
    with Prompt(node) as a:
        node.run("kill -STOP $(cat /run/lab-controld)")
        try:
            a("begin = time.monotonic()")
            with pytest.raises(
                Raised, match=r"timed out; with dlm_controld, check `dlm_tool status`"
            ):
                a(f"pydlm.connect({domain!r}, {STACK!r}, timeout=1)")
            assert a("time.monotonic() - begin") < 5
        finally:
            node.run("kill -CONT $(cat /run/lab-controld)")
        a(f"pydlm.connect({domain!r}, {STACK!r}).close()")


def test_versions(dlmfs_nodes: Two, domain: str) -> None:
    with Prompt(dlmfs_nodes[0]) as a, Prompt(dlmfs_nodes[1]) as b:
        for each in (a, b):
            each("from pydlm.stackglue.protocol import Version, negotiate")
            each("from pydlm.stacks.dlmfs import DlmfsStack")
            each(f"s = DlmfsStack.connect({domain!r}, '/run/dlm')")
            assert each("s.negotiates") is True
        assert a("tuple(negotiate(s, Version(1, 3)))") == (1, 3)
        assert b("tuple(negotiate(s, Version(1, 7)))") == (1, 3)
        with pytest.raises(Raised, match=r"speak version 1\.3 .* and this pydlm 2\.0"):
            b("negotiate(s, Version(2, 0))")


def test_versions_when_nodes_die(dlmfs_nodes: Two, cluster_stack: str, domain: str) -> None:
    def connect(prompt: Prompt) -> None:
        # Which waits until a dead one is known to be dead, and its locks are recovered.
        prompt(f"connected.append(pydlm.connect({domain!r}, {STACK!r}))", timeout=100)

    def prompt(node: Node) -> Prompt:
        new = prompts.enter_context(Prompt(node))
        new("connected = []")
        return new

    def boot(node: Node) -> Prompt:
        node.boot()
        node.run(dlmfs(cluster_stack))
        return prompt(node)

    here, there = dlmfs_nodes
    with ExitStack() as prompts:
        alone, here1 = prompt(there), prompt(here)
        connect(alone)
        there.kill()
        # The block may be invalid. Who comes next begins; others on either node agree with it.
        connect(here1)
        connect(here1)
        there2 = boot(there)
        connect(there2)
        here.kill()
        # Who was in beside the first one goes on, and who comes back finds what is spoken.
        connect(there2)
        here2 = boot(here)
        connect(here2)


def test_libo2dlm(dlmfs_nodes: Two, prompt: Prompts, domain: str, tmp_path: Path) -> None:
    """The real one and pydlm see each other's locks, wishes and blocks."""
    program = tmp_path / "client"
    flags = ["-lo2dlm", "-lcom_err", "-ldl"]
    done = subprocess.run(
        ["gcc", "-O2", "-o", str(program), str(CLIENT), *flags], capture_output=True, text=True
    )
    if done.returncode:
        reason = f"libo2dlm cannot be linked (Debian: ocfs2-tools-dev, comerr-dev): {done.stderr}"
        if os.environ.get("PYDLM_TEST_ALL"):
            pytest.fail(reason)
        pytest.skip(reason)
    here, there = dlmfs_nodes
    a, b = prompt(here), prompt(there)
    client = here.begin(here.here(str(program)), None)

    def ask(words: str) -> str:
        client.send(words + "\n")
        return client.line().removeprefix("ok").strip()

    assert ask(f"initialize /run/dlm {domain}") == ""
    waited = ask("lock_with_bast r EX")
    assert ask(f"poll {waited} 0") == "0"
    assert ask(f"write_lvb r {b'from libo2dlm'.hex()}") == "13"
    assert a(f"open('/run/dlm/{domain}/r', 'rb').read(13)") == b"from libo2dlm"  # same node
    b.begin("lk.acquire(timeout=20), lk.lvb[:13]")
    assert ask(f"poll {waited} 20000") == "1"
    assert ask(f"process_bast {waited}") == "r"
    assert ask("unlock r") == ""
    assert b.result() == (True, b"from libo2dlm")
    b("lk.lvb = b'from pydlm'")
    client.send("lock r PR\n")
    assert told(b)
    b("lk.release()")
    assert client.line() == "ok"
    assert ask("read_lvb r 10") == b"from pydlm".hex()
    assert b("lk.acquire(timeout=0.1)") is False
    assert ask("unlock r") == ""
    assert b("lk.acquire(timeout=20)") is True
    b("lk.release(); ls.close()")
    a("ls.close()")
    assert ask("destroy") == ""
    client.end()
    assert client.wait() == 0


def test_libo2dlms_calls_in_python(
    dlmfs_nodes: Two, cluster_stack: str, prompt: Prompts, domain: str
) -> None:
    """`pydlm.o2dlm` on the kernel's own files."""
    a, b = map(prompt, dlmfs_nodes)
    for node in (a, b):
        node("from pydlm import o2dlm; EXMODE = o2dlm.O2DLM_LEVEL_EXMODE")
        node(f"ctxt = o2dlm.initialize('/run/dlm', {domain + 'o'!r}); heard = []")
    assert a("o2dlm.supports_bast(), o2dlm.supports_stackglue()") == (True, True)
    assert a("sorted(ctxt.capabilities)") == ["bast", "stackglue"]
    a("fd = o2dlm.lock_with_bast(ctxt, 'l', 0, EXMODE, heard.append, 'wanted')")
    assert a("o2dlm.write_lvb(ctxt, 'l', b'from a')") == 6
    if cluster_stack == "o2cb":  # elsewhere it would hang
        with pytest.raises(Raised, match="cannot be had at once"):
            b("o2dlm.lock(ctxt, 'l', o2dlm.O2DLM_TRYLOCK, EXMODE)")
    b.begin("o2dlm.lock(ctxt, 'l', 0, EXMODE); got = o2dlm.read_lvb(ctxt, 'l', 6)")
    assert a("select.select([fd], [], [], 20)[0] == [fd]") is True
    a("o2dlm.process_bast(ctxt, fd)")
    assert a("heard") == ["wanted"]
    a("o2dlm.unlock(ctxt, 'l')")
    b.result()
    assert b("got") == b"from a"
    with pytest.raises(Raised, match="holds the lock"):
        b("o2dlm.drop_lock(ctxt, 'l')")
    b("o2dlm.unlock(ctxt, 'l'); o2dlm.drop_lock(ctxt, 'l'); o2dlm.destroy(ctxt)")
    a("o2dlm.destroy(ctxt)")


def test_torture(dlmfs_nodes: Two, cluster_stack: str) -> None:
    """lvb_torture: two nodes count up in one block, and none sees a wrong value."""
    words = [sys.executable, "-m", "pydlm.cli", "torture", "--stack", STACK]
    words += ["--iterations", "1000", "--json"]
    for node in dlmfs_nodes:
        directory = f"PYDLM_LAB_RUN={shlex.quote(str(node.lab.directory))}"
        there = [sys.executable, "-m", "tests.lab", "python", str(node.number), "-m", "pydlm.cli"]
        words += ["--on", f"env {directory} {shlex.join(there)}"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=140)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["wrong"] is None
    assert result["checks"] == 4000
    assert result["contended"]


def test_node_that_dies_holding_exclusively(
    dlmfs_nodes: Two, cluster_stack: str, prompt: Prompts
) -> None:
    a, b = map(prompt, dlmfs_nodes)
    a("lk.acquire(); lk.lvb = b'before'; lk.release()")
    b("lk.acquire(timeout=20); lk.lvb = b'never published'")
    a.begin("lk.acquire(timeout=90)")
    assert told(b)
    dlmfs_nodes[1].kill()
    assert a.result(100) is True
    if cluster_stack == "o2cb":
        # It knows no validity. What the dead one may have changed is all zeros, never old bytes.
        assert a("lk.lvb") == bytes(64)
        return
    assert a("lk.lvb_valid") is False
    with pytest.raises(Raised, match="LVBInvalid"):
        a("lk.lvb")
    a("lk.lvb = b'after'; lk.release()")
    # The kernel goes on to say so on this node, as long as no other has had the lock.
    dlmfs_nodes[1].boot()
    dlmfs_nodes[1].run(dlmfs(cluster_stack))
    c = prompt(dlmfs_nodes[1])
    assert c("lk.acquire(mode=Mode.PR, timeout=20), lk.lvb") == (True, b"after".ljust(64, b"\0"))
    c("lk.release()")
    assert a("lk.acquire(timeout=20), lk.lvb_valid, lk.lvb[:5]") == (True, True, b"after")


def test_what_is_missing(lab: Lab, node2: Node) -> None:
    node2.kill()
    node2.boot()
    with Prompt(node2) as a:
        for stack, message in (
            ("dlmfs:/run/none", "cannot open /run/none"),
            ("dlmfs:/run", "/run is on no dlmfs; mount one there"),
        ):
            with pytest.raises(Raised, match=f"StackUnavailable: {message}"):
                a(f"pydlm.connect('x', {stack!r})")
        node2.run("modprobe ocfs2_dlmfs && mkdir -p /run/dlm && mount -t ocfs2_dlmfs no /run/dlm")
        try:
            with pytest.raises(Raised, match="StackUnavailable: o2cb has no node here"):
                a(f"pydlm.connect('x', {STACK!r})")
            # As dlm_controld comes up; the lab's guest/dlmfs mends it.
            node2.run("modprobe ocfs2_stack_user && echo pcmk > /sys/fs/ocfs2/cluster_stack")
            with pytest.raises(Raised, match=r"cannot join the domain .* so take the name away"):
                a(f"pydlm.connect('x', {STACK!r})")
        finally:
            node2.kill()
