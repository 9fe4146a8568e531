#!/usr/bin/env python3
"""Counts the instructions of one operation, repeatably, with valgrind's callgrind.

    python benchmarks/callgrind.py                         # all programs
    python benchmarks/callgrind.py acquire --functions     # and where they go

Each program runs twice in the same interpreter under valgrind, once with few operations and once
with many; the difference, by the number of operations between, is what one costs. Start-up, imports
and the loop's set-up cancel out. It counts instructions of the whole process, the interpreter's
own among them, and says nothing about caches, waits or system calls.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FEW, MANY = 1_000, 11_000

PYDLM = "import pydlm; from pydlm import Mode; ls = pydlm.connect('callgrind'); l = ls.lock('a')\n"
WRITTEN = PYDLM + "l.acquire(); l.lvb = bytes(64); l.release(); PR = Mode.PR\n"
PLAIN = "import threading; l = threading.Lock()\n"

#: name: (what is done before, what is counted)
PROGRAMS = {
    "acquire": (WRITTEN, "l.acquire(); l.release()"),
    "with": (WRITTEN, "with l: pass"),
    "shared": (
        WRITTEN + "o = ls.lock('a'); o.acquire(mode=PR)\n",
        "l.acquire(mode=PR); l.release()",
    ),
    "fresh": (PYDLM, "n = ls.lock('fresh'); n.acquire(); n.release(); n.close()"),
    "write": (WRITTEN + "v = bytes(64)\n", "l.acquire(); l.lvb = v; l.release()"),
    "threading.acquire": (PLAIN, "l.acquire(); l.release()"),
    "threading.with": (PLAIN, "with l: pass"),
    "nothing": ("", "pass"),
}


def count(program: str, operations: int, directory: Path) -> tuple[int, Path]:
    """Run a program under callgrind; return its instructions, and the profile."""
    setup, statement = PROGRAMS[program]
    body = statement if statement.startswith("with") else statement.replace("; ", "\n        ")
    code = (
        f"from itertools import repeat\n{setup}"
        f"def run():\n    for _ in repeat(None, {operations}):\n        {body}\nrun()\n"
    )
    profile = directory / f"callgrind.out.{program}.{operations}"
    command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={profile}"]
    done = subprocess.run(
        [*command, sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": "0"},
        capture_output=True,
        text=True,
    )
    found = re.search(r"Collected : (\d+)", done.stderr)
    if done.returncode or found is None:
        sys.exit(f"{program} failed under valgrind:\n{done.stderr}")
    return int(found[1]), profile


def by_function(profile: Path) -> dict[str, int]:
    """Return the instructions by function, its own without those that it calls."""
    text = subprocess.run(
        ["callgrind_annotate", "--threshold=100", "--show-percs=no", profile],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    functions: dict[str, int] = {}
    for line in text.splitlines():
        found = re.match(r"\s*([\d,]+)\s+\S*?:(\S+)", line)
        if found:
            functions[found[2]] = functions.get(found[2], 0) + int(found[1].replace(",", ""))
    return functions


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("programs", nargs="*", metavar="PROGRAM", help=", ".join(PROGRAMS))
    parser.add_argument("--functions", action="store_true", help="also by function")
    arguments = parser.parse_args()
    unknown = set(arguments.programs) - set(PROGRAMS)
    if unknown:
        parser.error(f"no such program: {', '.join(sorted(unknown))}")
    if shutil.which("valgrind") is None:
        sys.exit("valgrind is not installed; on Debian: apt-get install valgrind")
    with tempfile.TemporaryDirectory() as directory:
        for program in arguments.programs or PROGRAMS:
            few, profile_few = count(program, FEW, Path(directory))
            many, profile_many = count(program, MANY, Path(directory))
            print(f"{program:20} {(many - few) / (MANY - FEW):8.1f} instructions", flush=True)
            if arguments.functions:
                before, after = by_function(profile_few), by_function(profile_many)
                each = {name: (after[name] - before.get(name, 0)) / (MANY - FEW) for name in after}
                for name, cost in sorted(each.items(), key=lambda item: -item[1]):
                    if cost >= 0.5:
                        print(f"{'':20} {cost:8.1f}   {name}")


if __name__ == "__main__":
    main()
