"""A lab by hand.

    python -m tests.lab up [COUNT]             build what is missing, boot 1 or 2 nodes
    python -m tests.lab exec NODE COMMAND...   run a shell command there, also interactively
    python -m tests.lab python NODE ARGS...    run this interpreter there, with this checkout
    python -m tests.lab dlmfs NODE STACK       mount ocfs2_dlmfs on /run/dlm there; STACK is pcmk,
                                               on fs/dlm, or o2cb, on a disk that all share
    python -m tests.lab kill NODE              pull its plug
    python -m tests.lab boot NODE              boot it again
    python -m tests.lab down                   pull all plugs

Node N is 10.77.0.N. In a node, /host is this machine's file system, and `chroot /host` runs its
programs. Built things are in $PYDLM_LAB (default ~/.cache/pydlm-lab), consoles in `run` there or
in $PYDLM_LAB_RUN, of which each stands for a lab of its own.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Sequence

from tests.lab.machines import Failed
from tests.lab.node import Lab, Node, dlmfs


def main(arguments: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    lab = Lab()
    match arguments:
        case ["up", *rest] if len(rest) < 2:
            if lab.runs():
                raise Failed("a lab runs already; `down` ends it")
            lab.start(int(rest[0]) if rest else 1, subprocess.DEVNULL)
            lab.tell("boot", nodes=[])
        case ["exec", node, *command] if command:
            return _attached(lab.node(int(node)), " ".join(command))
        case ["python", node, *command]:
            there = lab.node(int(node))
            return _attached(there, there.here(sys.executable, *command))
        case ["dlmfs", node, "pcmk" | "o2cb" as cluster_stack]:
            return _attached(lab.node(int(node)), dlmfs(cluster_stack))
        case ["kill", node]:
            lab.node(int(node)).kill()
        case ["boot", node]:
            lab.node(int(node)).boot()
        case ["down"]:
            lab.tell("down")
        case _:
            sys.stderr.write(__doc__ or "")
            return 2
    return 0


def _attached(node: Node, command: str) -> int:
    """Run a command with this process's standard input, output and errors."""
    running = node.begin(command, None)

    def pass_input() -> None:
        for line in sys.stdin:
            running.send(line)
        running.end()

    threading.Thread(target=pass_input, daemon=True).start()
    while running.status is None:
        running.take(None)
        sys.stdout.write(running.out)
        sys.stderr.write(running.err)
        running.out = running.err = ""
        sys.stdout.flush()
        sys.stderr.flush()
    return running.status


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except (Failed, OSError) as error:
        sys.exit(f"error: {error}")
