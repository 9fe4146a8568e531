"""`pydlm demo`: a holder is asked to let go, and sees it through a file descriptor."""

from __future__ import annotations

import select
import threading
import time
from typing import Final

from rich.console import Console

from pydlm.cli.terminal import on_stdout
from pydlm.contract import Lock
from pydlm.lockspace import Lockspace, connect
from pydlm.types import Mode

__all__ = ["demo"]

_NAME: Final = "config"
_READING: Final = 0.7  # seconds for a line, where somebody reads it as it comes
_PATIENCE: Final = 10.0  # seconds after which something is broken


class _Story:
    """What the two nodes say. Lines come one at a time, from whichever thread."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._pause = _READING if console.is_terminal else 0.0

    def say(self, node: Lockspace, text: str) -> None:
        colour = ("cyan", "magenta")[node.node % 2]
        self._console.print(f"[bold {colour}]node {node.node}[/]  {text}")
        time.sleep(self._pause)


def demo() -> None:
    """Show how a holder is asked to let go: its lock becomes readable, as a socket does.

    Two nodes, each a connection of its own and a thread of its own.
    """
    story = _Story(on_stdout())
    with connect("pydlm-demo") as one, connect("pydlm-demo") as other:
        held = one.lock(_NAME)
        held.acquire()
        held.lvb = b"v1"
        story.say(one, f"takes {_NAME!r} in EX and keeps it, for it has work cached under it")
        readable, _, _ = select.select([held], [], [], 0)
        story.say(one, f"select says {'readable' if readable else 'nothing'}: nobody wants it")
        contender = threading.Thread(target=_contend, args=(story, other))
        contender.start()
        try:
            _hold_until_asked(story, one, held)
        finally:
            held.close()
            contender.join()
    on_stdout().print("[bold]So a lock can be kept for as long as nobody else needs it.[/]")


def _hold_until_asked(story: _Story, ls: Lockspace, held: Lock) -> None:
    readable, _, _ = select.select([held], [], [], _PATIENCE)
    if not readable:
        story.say(ls, "[red]was never asked[/]")
        return
    if held.blocked is not None:
        story.say(ls, f"its file descriptor is readable: somebody wants {held.blocked.name}")
    for lock in ls.dump(_NAME):
        if lock.requested is not None:
            story.say(ls, f"sees who: node {lock.client} waits for {lock.requested.name}")
    held.lvb = b"v2"
    story.say(ls, "writes 'v2' into the lock value block, and lets go")
    held.release()


def _contend(story: _Story, ls: Lockspace) -> None:
    wanted = ls.lock(_NAME)
    story.say(ls, f"asks for {_NAME!r} in PR, and waits")
    with wanted.held(Mode.PR, timeout=_PATIENCE):
        value = wanted.lvb.rstrip(b"\0").decode()
        story.say(ls, f"has it, and reads {value!r} from the lock value block")
