"""`pydlm exec-o2dlm`: run a program linked with libo2dlm on a pydlm mount."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Annotated

import typer

from pydlm.cli.terminal import complain
from pydlm.errors import DlmError
from pydlm.o2dlm.preload import check_program, find_program, preload_environment

__all__ = ["exec_o2dlm"]


def exec_o2dlm(
    program: Annotated[str, typer.Argument(help="The program, found as a shell would.")],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="Its arguments, options too.", metavar="ARGUMENT")
    ] = None,
) -> None:
    """Run a C program linked with libo2dlm on a pydlm mount.

    The program, which is not changed, takes this process over, with a library preloaded that makes
    the mount look like the kernel's ocfs2_dlmfs. The exit status is the program's; 127 if there is
    none, 126 if it cannot be run.
    """
    try:
        path = find_program(program)
        check_program(path)
        environment = preload_environment(os.environ)
        # What Python ignores, a program would go on ignoring.
        for name in ("SIGPIPE", "SIGXFSZ"):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
        sys.stdout.flush()
        try:
            os.execve(path, [program, *(arguments or ())], environment)
        except OSError as error:
            raise DlmError(
                f"cannot run {str(path)!r}: {os.strerror(error.errno or 0)}", errno=error.errno
            ) from error
    except DlmError as error:
        complain(error)
        raise typer.Exit(127 if error.errno == errno.ENOENT else 126) from error
