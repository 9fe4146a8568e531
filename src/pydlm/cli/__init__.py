"""The command `pydlm`: which subcommands there are. What each does is in a module of its name."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from pydlm.cli import terminal
from pydlm.cli.bench import bench
from pydlm.cli.demo import demo
from pydlm.cli.exec_o2dlm import exec_o2dlm
from pydlm.cli.host import app as host
from pydlm.cli.locks import locks
from pydlm.cli.mount import mount
from pydlm.cli.torture import torture
from pydlm.errors import DlmError

__all__ = ["app", "main"]

app = typer.Typer(
    help="A distributed lock manager: try it, measure it, torture it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.callback()(terminal.common_options)
for _command in (torture, bench, demo, locks, mount):
    app.command()(_command)
# All that follows the program is the program's.
app.command(
    "exec-o2dlm",
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True},
)(exec_o2dlm)
app.add_typer(host, name="host")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; the exit status is 2 if pydlm raised an error, and it is one line."""
    try:
        app(args=arguments, prog_name="pydlm")
    except DlmError as error:
        terminal.complain(error)
        sys.exit(2)
