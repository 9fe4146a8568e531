"""`pydlm torture`: its options, its progress bar and its result."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from time import monotonic
from typing import Annotated, Any, Final

import typer
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from pydlm.cli.terminal import AsJson, on_stderr, on_stdout, write_json
from pydlm.cli.torture.deaths import torture_with_deaths
from pydlm.cli.torture.nodes import Node, ThreadNode
from pydlm.cli.torture.orchestrator import PATIENCE, Broken, Orchestrator
from pydlm.cli.torture.player import Wrong
from pydlm.cli.torture.remote import RemoteNode, serve
from pydlm.lockspace import connect
from pydlm.stackglue import DEFAULT_STACK, STACK_VARIABLE

__all__ = ["torture"]

_DEFAULT_SECONDS: Final = 10.0
_DEFAULT_KILLS: Final = 10_000
_REFRESH_EVERY: Final = 0.1  # seconds

_INTEGER = "{:,}".format


class _Speed(ProgressColumn):
    """Iterations per second so far."""

    def render(self, task: Task) -> Text:
        iterations = task.fields["iterations"]
        return Text(f"{_INTEGER(iterations)}, {iterations / (task.elapsed or 1):,.0f}/s")


def torture(
    stack: Annotated[
        str | None, typer.Option(help="Lock stack, `name` or `name:locator`.", show_default="local")
    ] = None,
    nodes: Annotated[int, typer.Option(min=2, help="How many nodes take part.")] = 4,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="End after so many values written.")
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.0, help="End after so many seconds.", show_default="10"),
    ] = None,
    kill: Annotated[
        bool,
        typer.Option("--kill", help="Nodes are processes, and die by SIGKILL. For the host stack."),
    ] = False,
    kills: Annotated[
        int, typer.Option(min=1, help="With --kill: end after so many deaths.")
    ] = _DEFAULT_KILLS,
    on: Annotated[
        list[str] | None,
        typer.Option(
            help="How `pydlm` is run on a node of a cluster: 'ssh node1 pydlm'. Repeat it."
        ),
    ] = None,
    json: AsJson = False,
    member: Annotated[int, typer.Option(hidden=True)] = 0,
    lockspace: Annotated[str, typer.Option(hidden=True)] = "",
) -> None:
    """Count up in one lock value block from many nodes, and check every value that is read.

    Each iteration one node takes EX, checks that it finds the last value, and writes the next;
    all others take PR meanwhile and must find one of the two; then all take PR and must find the
    new one. Which node writes rotates. Ends with exit status 1 at the first wrong value.
    """
    if kill:
        if iterations is not None:
            raise typer.BadParameter("--iterations is for nodes that live; use --kills")
        torture_with_deaths(stack or "host", nodes, kills, seconds, as_json=json)
        return
    if member:
        with connect(lockspace, stack) as ls:
            serve(member, ls, sys.stdin.buffer, sys.stdout.buffer)
        return
    if iterations is None and seconds is None:
        seconds = _DEFAULT_SECONDS
    wrong: Wrong | None = None
    with ExitStack() as cleanup:
        name = f"pydlm-torture-{os.getpid()}"
        members = _remote(cleanup, name, stack, on) if on else _here(cleanup, name, stack, nodes)
        orchestrator = Orchestrator(members)
        begin = monotonic()
        try:
            for _ in _shown(orchestrator, begin, iterations, seconds):
                orchestrator.iterate()
        except Broken as broken:
            wrong = broken.wrong
        took = monotonic() - begin
    result = {
        "stack": stack or os.environ.get(STACK_VARIABLE) or DEFAULT_STACK,
        "nodes": len(members),
        "iterations": orchestrator.iterations,
        "checks": orchestrator.checks,
        "contended": orchestrator.contended,
        "seconds": took,
        "iterations_per_second": orchestrator.iterations / took,
        "wrong": None if wrong is None else wrong._asdict(),
    }
    if json:
        write_json(result)
    else:
        _print_table(result)
    if wrong is not None:
        on_stderr().print(f"wrong value: {wrong}", style="bold red", markup=False, soft_wrap=True)
        raise typer.Exit(1)


def _here(cleanup: ExitStack, name: str, stack: str | None, count: int) -> list[Node]:
    members: list[Node] = []
    for number in range(1, count + 1):
        member = ThreadNode(number, cleanup.enter_context(connect(name, stack)))
        cleanup.callback(member.stop)
        members.append(member)
    return members


def _remote(cleanup: ExitStack, name: str, stack: str | None, on: list[str]) -> list[Node]:
    if stack is None:
        raise typer.BadParameter("--on needs the --stack that all those nodes share")
    if len(on) < 2:
        raise typer.BadParameter("--on has to be there for each node, two at least")
    members: list[Node] = []
    for number, command in enumerate(on, 1):
        member = RemoteNode(number, command, stack, name)
        cleanup.callback(member.stop)
        member.joined(PATIENCE)
        members.append(member)
    return members


def _shown(
    orchestrator: Orchestrator, begin: float, iterations: int | None, seconds: float | None
) -> Iterator[None]:
    """Yield once for each iteration to run, and show how far it is."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        _Speed(),
        TimeElapsedColumn(),
        console=on_stderr(),
        transient=True,
        auto_refresh=False,  # a thread for that would take part in what it shows
    )
    with progress:
        task = progress.add_task(f"{len(orchestrator.nodes)} nodes", total=1.0, iterations=0)
        show_at = begin
        while iterations is None or orchestrator.iterations < iterations:
            now = monotonic()
            if seconds is not None and now - begin >= seconds:
                return
            if now >= show_at:
                show_at = now + _REFRESH_EVERY
                done = orchestrator.iterations
                progress.update(
                    task,
                    completed=max(
                        done / iterations if iterations else 0.0,
                        (now - begin) / seconds if seconds else 0.0,
                    ),
                    iterations=done,
                    refresh=True,
                )
            yield


def _print_table(result: dict[str, Any]) -> None:
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_row("stack", result["stack"])
    table.add_row("nodes", _INTEGER(result["nodes"]))
    table.add_row("iterations", _INTEGER(result["iterations"]))
    table.add_row("values checked", _INTEGER(result["checks"]))
    table.add_row("locks somebody waited for", _INTEGER(result["contended"]))
    table.add_row("seconds", f"{result['seconds']:.1f}")
    table.add_row("iterations per second", _INTEGER(round(result["iterations_per_second"])))
    table.add_row("wrong values", "[red]1[/]" if result["wrong"] else "[green]0[/]")
    on_stdout().print(table)
