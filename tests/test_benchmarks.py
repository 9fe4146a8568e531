"""Every benchmark runs and measures what it says. None of these looks at how long it took."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from multiprocessing import resource_tracker
from pathlib import Path

import pytest

from pydlm.cli.bench.catalogue import BENCHMARKS
from pydlm.cli.bench.environment import environment
from pydlm.cli.bench.row import Row, compared
from pydlm.cli.bench.sampling import Figures, Plan, compare, loop, quantile, sampled

TINY = Plan(rounds=2, samples=2, batch=20, few=30, many=2000, quiet=2, crowd=20, wakeups=3)
SCRIPTS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", autouse=True)
def tracker() -> None:
    """Start what multiprocessing keeps for good once it was used."""
    resource_tracker.ensure_running()


@pytest.mark.parametrize("name", BENCHMARKS)
def test_benchmark_yields_sane_rows(name: str) -> None:
    rows = list(BENCHMARKS[name](TINY))
    assert rows
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert row.what
        for figures in filter(None, (row.ours, row.peer)):
            assert 0 < figures.median <= figures.p99 < math.inf
        if row.peer is None:
            assert row.ratio is None and not row.ratios
        else:
            assert row.peer_name
            assert row.ratio is not None and row.ratio > 0
            assert len(row.ratios) == TINY.rounds
        assert (row.met is None) == (row.at_most is None)
        json.dumps(row.as_dict())


def test_every_target_of_the_table_is_measured() -> None:
    """The targets as they were given; a benchmark cannot drop its own."""
    rows = {row.name: row for name in BENCHMARKS for row in BENCHMARKS[name](TINY)}
    targets = {
        name: (row.at_most, row.target_is) for name, row in rows.items() if row.at_most is not None
    }
    assert targets == {
        "acquire": (1.0, "ratio"),
        "with": (1.0, "ratio"),
        "shared": (1.2, "ratio"),
        "shared.with": (1.2, "ratio"),
        "cached.shared": (1.0, "ratio"),
        "cached.exclusive": (1.0, "ratio"),
        "cached.reused": (1.0, "ratio"),
        "aio.cached.shared": (1.0, "ratio"),
        "aio.cached.exclusive": (1.0, "ratio"),
        "fresh": (2000.0, "value"),
        "handover": (1.2, "ratio"),
        "handover.handles": (1.2, "ratio"),
        "notice": (1.5, "ratio"),
        "million.in_turn": (1.5, "ratio"),
        "million.random": (1.5, "ratio"),
        "million.new": (1.5, "ratio"),
        "memory": (320.0, "value"),
        "crowd.holders": (2.0, "ratio"),
        "crowd.waiters": (2.0, "ratio"),
        "host.with": (0.6, "ratio"),
        "host.acquire": (2.0, "ratio"),
        "host.local": (1.15, "ratio"),
        "host.handover": (1.3, "ratio"),
        "host.notice": (2.0, "ratio"),
        "host.scale": (0.556, "ratio"),  # 1.8 times the throughput
    }


def test_rounds_alternate_and_ratios_are_of_one_round() -> None:
    ran = []

    def ours() -> list[float]:
        ran.append("ours")
        return [2.0, 4.0, 6.0]

    def peer() -> list[float]:
        ran.append("peer")
        return [1.0, 2.0, 3.0]

    found = compare(2, ours, peer)
    assert ran[2:] == ["ours", "peer", "peer", "ours"]  # the first two are for warming up
    assert found.ratios == [2.0, 2.0]
    assert found.ratio == 2.0
    assert found.ours == Figures(4.0, 6.0)


def test_a_loop_runs_as_often_as_asked() -> None:
    calls: list[None] = []
    timed = loop("add(None)", add=calls.append)
    assert timed(30) > 0
    assert len(calls) == 30


def test_a_loop_takes_whole_statements() -> None:
    entered = []

    class Counting:
        def __enter__(self) -> None:
            entered.append(self)

        def __exit__(self, *_: object) -> None:
            pass

    assert len(sampled(Plan(samples=3, batch=20), "with l:\n    pass", l=Counting())()) == 3
    assert len(entered) == 60


def test_quantile() -> None:
    assert quantile([5.0, 1.0, 3.0], 0.99) == 5.0
    assert quantile([float(i) for i in range(1000)], 0.99) == 990.0
    assert quantile([7.0], 0.5) == 7.0


def test_met() -> None:
    comparison = compare(1, lambda: [3.0], lambda: [2.0])
    assert compared("n", "w", comparison, "p", at_most=1.5).met is True
    assert compared("n", "w", comparison, "p", at_most=1.4).met is False
    assert compared("n", "w", comparison, "p", at_most=3.0, target_is="value").met is True
    assert compared("n", "w", comparison, "p").met is None
    assert Row("n", "w", Figures(321.0, 321.0), at_most=320.0, target_is="value").met is False


def test_environment_is_complete() -> None:
    found = environment()
    assert set(found) == {"python", "kernel", "cpu", "cores"}
    assert all(found.values())


def script(name: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, SCRIPTS / name, *arguments],
        env=os.environ | variables,
        capture_output=True,
        text=True,
    )


def test_peers_runs() -> None:
    done = script("peers.py", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    assert "threading.Lock" in done.stdout and "fcntl.flock" in done.stdout


@pytest.mark.slow
def test_locks_between_processes() -> None:
    done = script("between_processes.py", "--rounds", "1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == [
        "multiprocessing.Lock",
        "fcntl.flock",
        "aiorwlock,",
        "filelock",
        "redis-py",
        "PostgreSQL",
    ]
    for line in lines:
        assert "not measured: no " in line or float(line.split()[-1]) > 0


def test_results_as_markdown() -> None:
    rows = [row.as_dict() for name in ("with", "memory") for row in BENCHMARKS[name](TINY)]
    found = {"environment": {"pydlm": "0", **environment()}, "rounds": 2, "rows": rows}
    done = subprocess.run(
        [sys.executable, SCRIPTS / "markdown.py"],
        input=json.dumps(found),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(table) == 2 + len(rows)
    assert {line.count("|") for line in table} == {9}


def test_callgrind_says_what_is_missing(tmp_path: Path) -> None:
    done = script("callgrind.py", "acquire", PATH=str(tmp_path))
    assert done.returncode == 1
    assert "valgrind is not installed" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_callgrind_counts_the_same_twice() -> None:
    first, second = (script("callgrind.py", "nothing", "threading.acquire") for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert "threading.acquire" in first.stdout
    assert first.stdout == second.stdout
