"""`pydlm mount`: lockspaces as a file system, for the shell and for every language."""

from __future__ import annotations

import logging.handlers
import os
import signal
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from pydlm.dlmfs import Mount
from pydlm.errors import DlmError, MountFailed

__all__ = ["mount"]


class _Owner(Enum):
    NODE = "node"
    OPEN = "open"


class _Creators(Enum):
    OWNER = "owner"
    GROUP = "group"
    ANYONE = "anyone"


_Serve = Callable[[Callable[[], object]], None]


def mount(
    mount_point: Annotated[Path, typer.Argument(help="An empty directory.")],
    stack: Annotated[
        str | None,
        typer.Option(help="The stack below, NAME or NAME:LOCATOR; else $PYDLM_STACK, or local."),
    ] = None,
    owner: Annotated[
        _Owner,
        typer.Option(
            help="Who owns a lock: the node, so that processes of this mount share it and it is "
            "kept until another node asks; or each open file, which excludes all others.",
        ),
    ] = _Owner.NODE,
    domains: Annotated[
        _Creators,
        typer.Option(
            help="Who may create domains: who mounts, the group too, or anyone.",
        ),
    ] = _Creators.OWNER,
    allow_other: Annotated[
        bool, typer.Option("--allow-other", help="Other users may use the mount.")
    ] = False,
    background: Annotated[
        bool,
        typer.Option(
            "--background/--foreground",
            help="Return once it is mounted; or serve here until a signal or fusermount3 -u.",
        ),
    ] = False,
) -> None:
    """Mount a stack as a file system: directories are lockspaces, open files are held locks."""

    def serve(ready: Callable[[], object]) -> None:
        mounted = Mount(
            mount_point,
            stack,
            owner=owner.value,
            creators=domains.value,
            allow_other=allow_other,
            ready=ready,
        )
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: mounted.stop())
        mounted.serve()

    if background:
        _serve_in_background(serve)
    else:
        serve(lambda: None)


def _serve_in_background(serve: _Serve) -> None:
    """Return once a child says that it serves; raise what it says otherwise."""
    ours, its = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(ours)
        status = 1  # whatever happens, the child does not return into its parent's code
        try:
            status = _be_daemon(serve, its)
        finally:
            os._exit(status)
    os.close(its)
    with open(ours, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    if said == _READY:
        return
    os.waitpid(pid, 0)
    raise MountFailed(said or "the process that was to serve the mount has died; try --foreground")


_READY = "ready"


def _be_daemon(serve: _Serve, pipe: int) -> int:
    """Serve; return the exit status."""
    told = False

    def tell(what: str) -> None:
        nonlocal told
        if not told:
            told = True
            os.write(pipe, what.encode())
            os.close(pipe)

    def ready() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        os.close(null)
        tell(_READY)

    # What the caller has open is not ours to keep: a lock of another mount, a pipe's end.
    os.closerange(3, pipe)
    os.closerange(pipe + 1, os.sysconf("SC_OPEN_MAX"))
    os.setsid()
    if os.path.exists("/dev/log"):
        logging.getLogger().addHandler(logging.handlers.SysLogHandler("/dev/log"))
    try:
        serve(ready)
    except DlmError as error:
        tell(str(error))
        return 2
    return 0
