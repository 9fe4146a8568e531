"""What a lock costs on fs/dlm, in the lab: pydlm beside C on libdlm, in turns, on one node.

Needs a lab that runs: ``python -m tests.lab up``. Run it from the checkout.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.lab.build import LIBRARIES, ROOT
from tests.lab.node import Lab
from tests.lab.prompt import Prompt

ROUNDS = 1000
TURNS = 9

VERBS = """
def verbs(n):
    s = ls.stack
    begin = time.monotonic()
    for _ in range(n):
        lkid = s.lock(b'r', Mode.EX, LockFlag.VALBLK)
        while not s.dispatch(): pass
        s.unlock(lkid, LockFlag.VALBLK)
        while not s.dispatch(): pass
    middle = time.monotonic()
    lkid = s.lock(b'r', Mode.NL, LockFlag.VALBLK)
    while not s.dispatch(): pass
    for _ in range(n):
        s.convert(lkid, Mode.EX, LockFlag.VALBLK)
        while not s.dispatch(): pass
        s.convert(lkid, Mode.NL, LockFlag.VALBLK)
        while not s.dispatch(): pass
    end = time.monotonic()
    s.unlock(lkid)
    while not s.dispatch(): pass
    return middle - begin, end - middle
"""
HANDLE = """
def handle(n):
    lk = ls.lock('h')
    begin = time.monotonic()
    for _ in range(n):
        lk.acquire()
        lk.release()
    took = time.monotonic() - begin
    lk.close()
    return took
"""


def main() -> None:
    node = Lab().node(1)
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "peer"
        source = Path(__file__).with_name("fsdlm.c")
        build = ["gcc", "-O2", "-Wall", "-Wextra", f"-I{ROOT}/usr/include", "-o", str(program)]
        subprocess.run([*build, str(source), f"-L{LIBRARIES}", "-l:libdlm.so.3"], check=True)
        peer = node.begin(node.here(str(program)), None)
        rows: dict[str, list[float]] = {}
        with Prompt(node) as prompt:
            prompt("ls = pydlm.connect('bench-py', 'fsdlm')")
            prompt(VERBS)
            prompt(HANDLE)
            for _ in range(TURNS):
                peer.send(f"{ROUNDS}\n")
                lock_c, convert_c = map(float, peer.line().split())
                lock_py, convert_py = prompt(f"verbs({ROUNDS})")
                for what, took in (
                    ("C, lock and unlock", lock_c),
                    ("pydlm's verbs, lock and unlock", lock_py),
                    ("C, NL to EX and back", convert_c),
                    ("pydlm's verbs, NL to EX and back", convert_py),
                    ("pydlm's handle, acquire and release", prompt(f"handle({ROUNDS})")),
                ):
                    rows.setdefault(what, []).append(took / ROUNDS * 1e6)
        peer.close()
    for what, times in rows.items():
        print(f"{what:38} median {statistics.median(times):5.0f} µs   best {min(times):5.0f} µs")


if __name__ == "__main__":
    main()
