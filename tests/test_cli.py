"""The command: what it prints, what it returns, and that the torture can fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest
import typer.testing

import pydlm
from pydlm import Mode
from pydlm.cli import app, main
from pydlm.cli.bench import command as bench_command
from pydlm.cli.bench.row import Row
from pydlm.cli.bench.sampling import Figures
from pydlm.cli.torture import command as torture_command
from pydlm.cli.torture.block import block_of, counter_of
from pydlm.cli.torture.nodes import ThreadNode
from pydlm.cli.torture.orchestrator import Broken, Orchestrator
from pydlm.cli.torture.player import Answer, Order, Player, Role
from pydlm.errors import Closed

NODES = 3


def run(*arguments: str) -> typer.testing.Result:
    return typer.testing.CliRunner().invoke(app, arguments)


def shell(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command as a shell does."""
    return subprocess.run(
        [sys.executable, "-m", "pydlm.cli", *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )


# The command itself.


def test_version() -> None:
    done = run("--version")
    assert done.exit_code == 0
    assert done.stdout.startswith("pydlm ") and done.stdout.count("\n") == 1


def test_help_names_every_subcommand() -> None:
    done = run("--help")
    assert done.exit_code == 0
    assert all(name in done.stdout for name in ("torture", "bench", "demo"))
    for name in ("torture", "bench", "demo"):
        assert run(name, "--help").exit_code == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["--stack", "nowhere"],
        ["--stack", "local:somewhere"],
    ],
)
def test_errors_of_pydlm_are_one_line_and_status_2(arguments: list[str]) -> None:
    done = shell("torture", "--iterations", "1", *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("pydlm: ") and done.stderr.count("\n") == 1


def test_the_stack_of_the_environment_counts() -> None:
    done = shell("torture", "--iterations", "1", PYDLM_STACK="nowhere")
    assert done.returncode == 2
    assert "nowhere" in done.stderr


def test_main_is_the_console_script(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("pydlm ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["torture", "--nodes", "1"],
        ["torture", "--iterations", "0"],
        ["bench", "--only", "nothing"],
        ["bench", "--rounds", "0"],
        ["nothing"],
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == 2


# Torture, when all is well.


def test_torture_prints_a_table() -> None:
    done = run("torture", "--iterations", "5", "--nodes", str(NODES))
    assert done.exit_code == 0, done.output
    assert "iterations per second" in done.stdout


def test_torture_in_json() -> None:
    done = run("torture", "--iterations", "5", "--nodes", str(NODES), "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["stack"] == "local"
    assert result["nodes"] == NODES
    assert result["iterations"] == 5
    assert result["checks"] == 5 * 2 * NODES
    assert result["wrong"] is None


def test_torture_ends_after_some_seconds() -> None:
    result = json.loads(run("torture", "--seconds", "0.1", "--json").stdout)
    assert result["iterations"] > 0
    assert 0.1 <= result["seconds"] < 30


def test_whichever_limit_comes_first_ends_it() -> None:
    result = json.loads(run("torture", "--seconds", "60", "--iterations", "2", "--json").stdout)
    assert result["iterations"] == 2


def test_nodes_do_get_into_each_others_way() -> None:
    """Otherwise it would be no torture: within 200 iterations somebody waits for somebody."""
    result = json.loads(run("torture", "--iterations", "200", "--json").stdout)
    assert result["contended"] > 0


# Torture, when something is wrong.


class Stale(Player):
    """A writer that forgets to write in iteration 4."""

    def write(self, counter: int) -> None:
        if counter != 4:
            super().write(counter)


class Ahead(Player):
    """A writer that counts up by two."""

    def write(self, counter: int) -> None:
        super().write(counter + 1 if counter == 4 else counter)


class Torn(Player):
    """A writer whose block is half of the next value and half of the last."""

    def write(self, counter: int) -> None:
        super().write(counter)
        if counter == 4:
            self.lock.lvb = block_of(4, self.size)[:32] + block_of(3, self.size)[32:]


class BackInTime(Player):
    """Readers see the value of iteration 4, then the one before."""

    def play(self, order: Order) -> Answer:
        if order == Order(5, Role.RACE):
            self.lock.acquire(mode=Mode.EX)
            self.write(3)
            self.seen = 4
            self.lock.release()
        return super().play(order)


FAULTS: dict[type[Player], tuple[int, str, str]] = {
    Stale: (4, "4", "3"),
    Ahead: (4, "4", "5"),
    Torn: (4, "4", "a block that is not whole"),
    BackInTime: (5, "4", "3"),
}


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> Callable[[type[Player]], None]:
    def use(player: type[Player]) -> None:
        monkeypatch.setattr(
            torture_command, "ThreadNode", lambda number, ls: ThreadNode(number, ls, player)
        )

    return use


@pytest.mark.parametrize("player", FAULTS)
def test_torture_finds_it_and_says_where(
    player: type[Player], faulty: Callable[[type[Player]], None]
) -> None:
    faulty(player)
    done = run("torture", "--iterations", "50", "--nodes", str(NODES), "--json")
    assert done.exit_code == 1
    wrong = json.loads(done.stdout)["wrong"]
    iteration, expected, found = FAULTS[player]
    assert wrong["iteration"] == iteration
    assert wrong["node"] in range(1, NODES + 1)
    # Who reads while the writer writes may also find the last value.
    assert expected in wrong["expected"].split(" or ")
    assert wrong["found"].startswith(found)
    assert f"node {wrong['node']}, iteration {iteration}" in done.stderr
    assert "expected" in done.stderr and "found" in done.stderr


def test_the_table_shows_the_failure_too(faulty: Callable[[type[Player]], None]) -> None:
    faulty(Stale)
    done = run("torture", "--iterations", "50")
    assert done.exit_code == 1
    assert "wrong values" in done.stdout
    assert "iteration 4" in done.stderr


def test_torture_finds_an_invalid_block() -> None:
    """A node that dies while it holds EX leaves an invalid block, and the next reader says so."""
    spaces = [pydlm.connect("torn") for _ in range(NODES)]
    nodes = [ThreadNode(number, ls) for number, ls in enumerate(spaces, 1)]
    dying = pydlm.connect("torn")
    try:
        orchestrator = Orchestrator(nodes)
        orchestrator.iterate()
        held = dying.lock("counter")
        held.acquire()
        dying.stack.abandon()  # type: ignore[attr-defined]
        with pytest.raises(Broken, match="an invalid block"):
            orchestrator.iterate()
    finally:
        for node in nodes:
            node.stop()


def test_torture_finds_a_lock_that_never_comes() -> None:
    """Somebody else holds it: the orchestrator loses patience, and can still stop the nodes."""
    with pydlm.connect("stuck") as outside:
        nodes = [ThreadNode(number, pydlm.connect("stuck")) for number in (1, 2)]
        held = outside.lock("counter")
        held.acquire()
        try:
            with pytest.raises(Broken, match=r"no answer within 0\.2 seconds"):
                Orchestrator(nodes, patience=0.2).iterate()
        finally:
            for node in nodes:
                node.stop()
        assert all(not thread.name.startswith("node ") for thread in threading.enumerate())


def test_an_error_in_a_node_reaches_the_orchestrator() -> None:
    ls = pydlm.connect("closed")
    node = ThreadNode(1, ls)
    ls.close()
    node.post(Order(1, Role.READ))
    with pytest.raises(Closed):
        node.answer(10.0)
    node.stop()


@pytest.mark.parametrize("size", [8, 16, 32, 64, 4096])
def test_a_block_tells_its_counter(size: int) -> None:
    for counter in (0, 1, 255, 256, 1 << 40):
        assert counter_of(block_of(counter, size)) == counter


def test_a_block_with_any_byte_changed_is_not_whole() -> None:
    block = block_of(7, 64)
    for i in range(64):
        changed = bytearray(block)
        changed[i] ^= 1
        assert counter_of(bytes(changed)) is None


# Bench and demo. The benchmarks themselves are in test_benchmarks.py.


@pytest.fixture
def one_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    row = Row(
        "some", "something", Figures(50.0, 1234.0), "a peer", Figures(100.0, 200.0), 0.5, (0.5,),
        at_most=1.0,
    )  # fmt: skip
    monkeypatch.setattr(bench_command, "BENCHMARKS", {"some": lambda plan: iter([row])})


@pytest.mark.usefixtures("one_benchmark")
def test_bench_prints_a_table() -> None:
    done = run("bench")
    assert done.exit_code == 0, done.output
    for piece in ("something", "a peer", "50.0 ns", "1.23 µs", "0.50", "yes", "CPython", "kernel"):
        assert piece in done.stdout


@pytest.mark.usefixtures("one_benchmark")
def test_bench_in_json() -> None:
    done = run("bench", "--rounds", "3", "--only", "some", "--json")
    assert done.exit_code == 0, done.output
    result = json.loads(done.stdout)
    assert result["rounds"] == 3
    assert {"pydlm", "python", "kernel", "cpu", "cores"} <= result["environment"].keys()
    assert [(row["name"], row["ratio"], row["met"]) for row in result["rows"]] == [
        ("some", 0.5, True)
    ]


def test_demo_tells_the_story_in_order() -> None:
    done = run("demo")
    assert done.exit_code == 0, done.output
    told = [
        "node 1  takes 'config' in EX",
        "node 1  select says nothing",
        "node 2  asks for 'config' in PR",
        "node 1  its file descriptor is readable: somebody wants PR",
        "node 1  sees who: node 2 waits for PR",
        "node 1  writes 'v2'",
        "node 2  has it, and reads 'v2'",
    ]
    places = [done.stdout.find(line) for line in told]
    assert -1 not in places and places == sorted(places)
