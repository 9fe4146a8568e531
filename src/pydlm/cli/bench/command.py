"""`pydlm bench`: its options, its progress and its table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

import typer
from rich.table import Table

from pydlm.cli.bench.catalogue import BENCHMARKS
from pydlm.cli.bench.environment import environment
from pydlm.cli.bench.row import Row
from pydlm.cli.bench.sampling import Figures, Plan
from pydlm.cli.terminal import AsJson, on_stderr, on_stdout, pydlm_version, write_json
from pydlm.errors import StackUnavailable, Unsupported

__all__ = ["bench"]


def _known(names: list[str]) -> list[str]:
    for name in names:
        if name not in BENCHMARKS:
            raise typer.BadParameter(f"{name!r} is none of: {', '.join(BENCHMARKS)}")
    return names


def bench(
    rounds: Annotated[
        int, typer.Option(min=1, help="Rounds; each measures pydlm and the peer in turn.")
    ] = Plan.rounds,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            callback=lambda names: _known(names or []),
            help=f"Measure only this; may be repeated. One of: {', '.join(BENCHMARKS)}.",
        ),
    ] = None,
    json: AsJson = False,
) -> None:
    """Measure what pydlm's operations cost, each beside a peer of the standard library.

    The ratio is the median of the rounds' ratios, not the ratio of the medians.
    """
    plan = replace(Plan(), rounds=rounds)
    rows: list[Row] = []
    with on_stderr().status("") as status:
        for name in only or BENCHMARKS:
            status.update(f"measuring: {name}")
            try:
                rows += BENCHMARKS[name](plan)
            except (Unsupported, StackUnavailable) as error:
                on_stderr().print(f"{name}: not measured: {error}")
    where = {"pydlm": pydlm_version(), **environment()}
    if json:
        write_json(
            {"environment": where, "rounds": rounds, "rows": [row.as_dict() for row in rows]}
        )
    else:
        for key, value in where.items():
            on_stdout().print(f"[bold]{key}[/]  {value}")
        on_stdout().print(_table(rows))


def _table(rows: Sequence[Row]) -> Table:
    table = Table(show_lines=True)
    table.add_column("what\n[dim]beside", ratio=1)
    table.add_column("pydlm\n[dim]p99", justify="right", no_wrap=True)
    table.add_column("peer\n[dim]p99", justify="right", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("target", justify="right", no_wrap=True)
    table.add_column("met", no_wrap=True)
    for row in rows:
        below = row.peer_name or row.note
        table.add_row(
            f"{row.what}\n[dim]{below}[/]" if below else row.what,
            _cell(row.ours, row.unit),
            _cell(row.peer, row.unit),
            f"{row.ratio:.2f}" if row.ratio is not None else "",
            _target(row),
            {True: "[green]yes[/]", False: "[red]no[/]", None: ""}[row.met],
        )
    return table


def _cell(figures: Figures | None, unit: str) -> str:
    if figures is None:
        return ""
    if unit == "bytes":
        return _amount(figures.median, unit)
    return f"{_amount(figures.median, unit)}\n[dim]{_amount(figures.p99, unit)}[/]"


def _target(row: Row) -> str:
    if row.at_most is None:
        return ""
    if row.target_is == "ratio":
        return f"≤ {row.at_most:.2f}"
    return f"≤ {_amount(row.at_most, row.unit)}"


def _amount(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value:.0f} B"
    return f"{value:.1f} ns" if value < 1000 else f"{value / 1000:.2f} µs"
