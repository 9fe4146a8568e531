"""What the subcommands share: where they write, and what they write it as."""

from __future__ import annotations

import json
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from pydlm.errors import DlmError

__all__ = [
    "AsJson",
    "common_options",
    "complain",
    "on_stderr",
    "on_stdout",
    "pydlm_version",
    "verbatim",
    "write_json",
]

#: The option that every command with a table has.
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def pydlm_version() -> str:
    """Return the version of the installed distribution."""
    try:
        return version("pydlm-locks")
    except PackageNotFoundError:
        return "(not installed, run from source)"


def on_stdout() -> Console:
    """Return the console for results."""
    # What is not seen on a screen may be searched by line, so nothing is cut to fit one.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 240)


def on_stderr() -> Console:
    """Return the console for progress and complaints."""
    return Console(stderr=True, highlight=False)


def complain(error: DlmError) -> None:
    """Say what went wrong, in one line."""
    message = " ".join(str(error).split())
    on_stderr().print(f"pydlm: {message}", style="red", markup=False, soft_wrap=True)


def verbatim(text: str) -> Text:
    """Return text of others as it may be shown: nothing in it is markup, or moves the cursor."""
    return Text(
        "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    )


def write_json(value: Any) -> None:
    """Print a result for programs."""
    on_stdout().out(json.dumps(value, indent=2))


def _print_version(wanted: bool) -> None:
    if wanted:
        on_stdout().out(f"pydlm {pydlm_version()}")
        raise typer.Exit


def common_options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version, and end."
        ),
    ] = False,
) -> None:
    """A distributed lock manager: try it, measure it, torture it."""
