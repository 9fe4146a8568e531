"""`pydlm host`: the lockspaces of this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pydlm.cli.terminal import AsJson, on_stdout, verbatim, write_json
from pydlm.errors import DlmError
from pydlm.stacks.host.admin import list_lockspaces, open_view, remove_lockspace

__all__ = ["Directory", "app"]

app = typer.Typer(help="The lockspaces of this machine.", no_args_is_help=True)

#: The option that says where the lockspaces are.
Directory = Annotated[
    Path | None,
    typer.Option("--dir", help="Where they are, if not in the default place."),
]


def _describe(name: str, directory: Path | None) -> dict[str, Any]:
    try:
        view = open_view(name, directory)
    except DlmError as error:
        return {"name": name, "error": str(error)}
    return {
        "name": name,
        "processes": [pid for pid, _ in view.processes()],
        **view.usage(),
        "lvb_len": view.lvb_len,
    }


@app.command("ls")
def list_(directory: Directory = None, as_json: AsJson = False) -> None:
    """List the lockspaces, who is in them, and how full they are."""
    found = [_describe(name, directory) for name in list_lockspaces(directory)]
    if as_json:
        write_json(found)
        return
    table = Table("lockspace", "processes", "resources", "locks", "capacity", "lvb")
    for one in found:
        if "error" in one:
            table.add_row(verbatim(one["name"]), verbatim(one["error"]))
            continue
        table.add_row(
            verbatim(one["name"]),
            " ".join(map(str, one["processes"])),
            *(f"{one[key]:,}" for key in ("resources", "locks", "capacity")),
            f"{one['lvb_len']} bytes",
        )
    on_stdout().print(table)


@app.command()
def rm(
    lockspace: str,
    directory: Directory = None,
    force: Annotated[bool, typer.Option(help="Also while processes are in it.")] = False,
) -> None:
    """Remove a lockspace that nobody uses."""
    remove_lockspace(lockspace, directory, force=force)
