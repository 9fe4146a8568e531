"""`pydlm torture --kill`: shows a storm and tells how it went."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pydlm.cli.terminal import on_stderr, on_stdout, write_json
from pydlm.cli.torture.storm import Storm, StormResult
from pydlm.errors import Unsupported
from pydlm.stacks.host.admin import remove_lockspace

__all__ = ["torture_with_deaths"]


def torture_with_deaths(
    stack: str, nodes: int, kills: int, seconds: float | None, *, as_json: bool
) -> None:
    """Run a storm; exit status 1 if a value was wrong or something was left behind."""
    name, _, directory = stack.partition(":")
    if name != "host":
        raise Unsupported(f"nodes that are processes need the host stack, not {stack!r}")
    lockspace = f"pydlm-storm-{os.getpid()}"
    storm = Storm(lockspace, stack, nodes)
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} killed"),
        TimeElapsedColumn(),
        console=on_stderr(),
        transient=True,
        auto_refresh=False,  # no thread: the nodes are forks of this process
    )
    with progress:
        task = progress.add_task(f"{nodes} processes", total=kills)

        def tell(done: int) -> None:
            progress.update(task, completed=done, refresh=done % 16 == 0)

        try:
            result = storm.run(kills, seconds, tell)
        finally:
            remove_lockspace(lockspace, Path(directory) if directory else None, force=True)
    if as_json:
        write_json({"stack": stack, "nodes": nodes, **_as_dict(result)})
    else:
        _print_table(result)
    if result.wrong or any(result.leaked.values()):
        what = result.wrong or f"left behind: {result.leaked}"
        on_stderr().print(f"wrong: {what}", style="bold red", markup=False, soft_wrap=True)
        raise typer.Exit(1)


def _as_dict(result: StormResult) -> dict[str, Any]:
    wrong = None if result.wrong is None else result.wrong._asdict()
    return {**result._asdict(), "wrong": wrong}


def _print_table(result: StormResult) -> None:
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("processes killed", f"{result.kills:,}")
    table.add_row("locks taken and checked", f"{result.rounds:,}")
    table.add_row("blocks found invalid, rebuilt", f"{result.rebuilt:,}")
    table.add_row("slowest notice of a death", f"{result.slowest_notice * 1000:.1f} ms")
    table.add_row("seconds", f"{result.seconds:.1f}")
    table.add_row("locks left behind", str(result.leaked["locks"]))
    table.add_row("slots lost", "[red]yes[/]" if result.leaked["slots"] else "[green]no[/]")
    table.add_row("wrong values", "[red]1[/]" if result.wrong else "[green]0[/]")
    on_stdout().print(table)
