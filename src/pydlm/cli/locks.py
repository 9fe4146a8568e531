"""`pydlm locks`: who holds what, and who waits for whom."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from pydlm._core import start_time
from pydlm.cli.host import Directory
from pydlm.cli.terminal import AsJson, on_stdout, verbatim, write_json
from pydlm.stacks.host.admin import open_view
from pydlm.types import LockStatus, Mode, Queue

__all__ = ["locks"]

_Seen = list[tuple[LockStatus, int, int]]


def _command(pid: int, started: int) -> str:
    """Return a process's command line; nothing if it is gone, and its pid another's."""
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return ""
    if start_time(pid) != started:
        return ""
    return raw.replace(b"\0", b" ").decode(errors="backslashreplace").strip()


def _clock(seconds: float | None) -> str:
    try:
        return "" if seconds is None else time.strftime("%H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "?"  # the lockspace is damaged


def _began(ticks: int) -> float:
    """Return a process's start as seconds of the Unix epoch."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + ticks / os.sysconf("SC_CLK_TCK")


def _waits_for(status: LockStatus, locks: _Seen) -> list[int]:
    """Return the lkids that keep a lock waiting: incompatible holders, and those before it."""
    if status.requested is None:
        return []
    blockers = []
    ahead = True
    for other, _, _ in locks:
        if other.lkid == status.lkid:
            ahead = False
            continue
        held = other.granted is not None and not other.granted.compatible(status.requested)
        same_queue = other.queue is status.queue and ahead
        converts = other.queue is Queue.CONVERT and status.queue is Queue.WAITING
        if held or same_queue or converts:
            blockers.append(other.lkid)
    return blockers


def _name(mode: Mode | None) -> str | None:
    return None if mode is None else mode.name


def _rows(resources: list[tuple[bytes, bool, _Seen]]) -> list[dict[str, Any]]:
    now = time.clock_gettime(time.CLOCK_MONOTONIC)
    return [
        {
            "resource": name.decode(errors="backslashreplace"),
            "lvb_valid": valid,
            "locks": [
                {
                    "lkid": status.lkid,
                    "queue": status.queue.name.lower(),
                    "granted": _name(status.granted),
                    "requested": _name(status.requested),
                    "token": status.token,
                    "node": status.client,
                    "pid": pid,
                    "thread": status.owner & 0xFFFFFFFF,
                    "command": _command(pid, started) if pid else "",
                    "started": _began(started) if pid else None,
                    "age": max(0.0, round(now - status.since, 2)),
                    "waits_for": _waits_for(status, locks),
                }
                for status, pid, started in locks
            ],
        }
        for name, valid, locks in resources
    ]


def locks(
    lockspace: str,
    resource: Annotated[str | None, typer.Argument(help="One resource; else all.")] = None,
    directory: Directory = None,
    as_json: AsJson = False,
) -> None:
    """Show the locks of a lockspace of this machine, without stopping anybody."""
    view = open_view(lockspace, directory)
    rows = _rows(view.resources(None if resource is None else os.fsencode(resource)))
    if as_json:
        write_json(rows)
        return
    table = Table(
        "resource",
        "queue",
        "mode",
        "wants",
        "pid",
        "command",
        "started",
        "age",
        "lock",
        "waits for",
    )
    for row in rows:
        title = row["resource"] + ("" if row["lvb_valid"] else " (lvb invalid)")
        for lock in row["locks"]:
            table.add_row(
                verbatim(title),
                lock["queue"],
                lock["granted"] or "",
                lock["requested"] or "",
                str(lock["pid"] or "(gone)"),
                verbatim(lock["command"][:40]),
                _clock(lock["started"]),
                f"{lock['age']:.2f} s",
                f"{lock['lkid']:x}",
                " ".join(f"{lkid:x}" for lkid in lock["waits_for"]),
            )
            title = ""
        table.add_section()
    on_stdout().print(table)
