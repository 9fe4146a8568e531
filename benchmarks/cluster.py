"""What a lock costs on the kernel's lock managers: pydlm beside C in turns, on a node of the lab.

On fs/dlm the peer is libdlm, on ocfs2_dlmfs open and close of a file. Needs a lab that runs:
``python -m tests.lab up``. Run it from the checkout.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.lab.build import LIBRARIES, ROOT
from tests.lab.node import Lab, Node, Running, dlmfs
from tests.lab.prompt import Prompt

ROUNDS = 500
TURNS = 9
DOMAIN = "bench"

PROGRAM = """
def completed(stack):
    while not stack.dispatch():
        select.select([stack.fileno()], [], [])

def lock_and_unlock(stack):
    lkid = stack.lock(b'r', Mode.EX, LockFlag.VALBLK)
    completed(stack)
    stack.unlock(lkid, LockFlag.VALBLK)
    completed(stack)

def up_and_down(stack, lkid):
    stack.convert(lkid, Mode.EX, LockFlag.VALBLK)
    completed(stack)
    stack.convert(lkid, Mode.NL, LockFlag.VALBLK)
    completed(stack)

def acquire_and_release(lock):
    lock.acquire()
    lock.release()

def times(work, *args):
    found = []
    for _ in range(ROUNDS):
        begin = time.monotonic()
        work(*args)
        found.append((time.monotonic() - begin) * 1e6)
    return found

fsdlm = pydlm.connect('bench-py', 'fsdlm')
verbs = fsdlm.stack
handle = fsdlm.lock('handle')
kept = verbs.lock(b'kept', Mode.NL, LockFlag.VALBLK)
completed(verbs)
"""
BESIDE = {
    "fs/dlm: lock and unlock, libdlm": "times(lock_and_unlock, verbs)",
    "fs/dlm: NL to EX and back, libdlm": "times(up_and_down, verbs, kept)",
    "fs/dlm: acquire and release, libdlm's NL to EX and back": "times(acquire_and_release, handle)",
    "dlmfs: acquire and release, open and close": "times(acquire_and_release, file)",
}


def main() -> None:
    node = Lab().node(1)
    node.run(dlmfs("pcmk"))
    rows: dict[str, tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    with tempfile.TemporaryDirectory() as folder, Prompt(node) as prompt:
        prompt(f"ROUNDS = {ROUNDS}")
        prompt(PROGRAM)
        prompt(f"file = pydlm.connect({DOMAIN!r}, 'dlmfs:/run/dlm').lock('r')")
        flags = [f"-I{ROOT}/usr/include", f"-L{LIBRARIES}", "-l:libdlm.so.3"]
        libdlm = peer(node, folder, "fsdlm", *flags)
        files = peer(node, folder, "dlmfs", argument=f"/run/dlm/{DOMAIN}/peer")
        for _ in range(TURNS):
            locks, conversions = answers(libdlm), answers(libdlm, ask=False)
            theirs = locks, conversions, conversions, answers(files)
            for (what, code), beside in zip(BESIDE.items(), theirs, strict=True):
                for found, new in zip(rows[what], (prompt(code), beside), strict=True):
                    found += new
        libdlm.close()
        files.close()
    print("| what, beside C's | pydlm: median (p99) | C: median (p99) | ratio |")
    print("|---|---|---|---|")
    for what, (ours, theirs_) in rows.items():
        ratio = statistics.median(ours) / statistics.median(theirs_)
        print(f"| {what} | {shown(ours)} | {shown(theirs_)} | {ratio:.2f} |")


def peer(node: Node, folder: str, name: str, *flags: str, argument: str = "") -> Running:
    """Build a peer here and start it there."""
    program = Path(folder, name)
    source = Path(__file__).with_name(f"{name}.c")
    build = ["gcc", "-O2", "-Wall", "-Wextra", "-o", str(program), str(source), *flags]
    subprocess.run(build, check=True)
    return node.begin(node.here(str(program), *[argument][: bool(argument)]), None)


def answers(peer: Running, *, ask: bool = True) -> list[float]:
    if ask:
        peer.send(f"{ROUNDS}\n")
    return [*map(float, peer.line().split())]


def shown(times: list[float]) -> str:
    return f"{statistics.median(times):.0f} µs ({statistics.quantiles(times, n=100)[98]:.0f} µs)"


if __name__ == "__main__":
    main()
