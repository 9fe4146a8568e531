#!/usr/bin/env python3
"""What a lock costs on a mount: open+close of a cached one, and of a plain file beside it.

    python benchmarks/mount.py [--rounds N] [--stack STACK]

The plain file is on a file system that does nothing but open it, on the same binding, in a process
of its own as the mount's; both in the same run, turn by turn. A wake-up on another CPU costs more
than all the rest, and where the kernel lets a process run is its own affair: so client and servers
are bound to one CPU, then to two. Needs root, or fusermount3.
"""

from __future__ import annotations

import argparse
import errno
import os
import select
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median, quantiles

from pydlm.dlmfs.fuse import Attributes, Operations, Request, Session

_BLOCK = 250  # rounds of one before it is the other's turn
_TARGET = 1.3


class Minimal(Operations):
    """One file, which can be opened."""

    FILE = Attributes(2, stat.S_IFREG | 0o600, 1, 0, 0, 0, 0, 0, 0)
    ROOT = Attributes(1, stat.S_IFDIR | 0o700, 2, 0, 0, 0, 0, 0, 0)

    def lookup(self, request: Request, parent: int, name: bytes) -> None:
        if name == b"file":
            request.entry(self.FILE)
        else:
            request.fail(errno.ENOENT)

    def getattr(self, request: Request, ino: int) -> None:
        request.attributes(self.ROOT if ino == 1 else self.FILE)

    def open(self, request: Request, ino: int, flags: int) -> None:
        request.opened(1, direct=True)


def serve_minimal(directory: str) -> None:
    session = Session(Minimal(), ["default_permissions"])
    session.mount(directory)
    poll = select.poll()
    poll.register(session.fileno(), select.POLLIN)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        while poll.poll() and session.dispatch():
            pass
    except KeyboardInterrupt:
        pass
    session.unmount()
    session.destroy()


@contextmanager
def mounted(*command: str) -> Iterator[tuple[int, str]]:
    """Run a command with a new directory in the end; yield pid and directory once it is mounted."""
    with tempfile.TemporaryDirectory() as directory:
        process = subprocess.Popen([sys.executable, *command, directory])
        try:
            while not os.path.ismount(directory):
                if process.poll() is not None:
                    raise SystemExit(f"{command} has ended")
                time.sleep(0.01)
            yield process.pid, directory
        finally:
            process.terminate()
            process.wait(10)


def measure(path: str, rounds: int) -> list[int]:
    clock, open_, close, flags = time.perf_counter_ns, os.open, os.close, os.O_RDWR
    found = []
    for _ in range(rounds):
        before = clock()
        close(open_(path, flags))
        found.append(clock() - before)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20_000)
    parser.add_argument("--stack", default="local")
    parser.add_argument("--serve-minimal", metavar="DIRECTORY", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.serve_minimal:
        serve_minimal(chosen.serve_minimal)
        return
    with ExitStack() as cleanup:
        server, directory = cleanup.enter_context(mounted(__file__, "--serve-minimal"))
        plain = f"{directory}/file"
        mount = ("-m", "pydlm.cli", "mount", "--stack", chosen.stack)
        keeper, directory = cleanup.enter_context(mounted(*mount))
        domain = f"{directory}/pydlm-bench-{os.getpid()}"
        os.mkdir(domain)
        cleanup.callback(os.rmdir, domain)
        lock = f"{domain}/lock"
        os.close(os.open(lock, os.O_RDWR | os.O_CREAT))
        cleanup.callback(os.unlink, lock)
        cpus = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cpus[:1])
        for where, theirs in (("one CPU", cpus[:1]), ("two CPUs", cpus[1:2])):
            for pid in (server, keeper):
                os.sched_setaffinity(pid, theirs or cpus)
            report(where, compare(lock, plain, chosen.rounds))


def compare(lock: str, plain: str, rounds: int) -> dict[str, list[int]]:
    times: dict[str, list[int]] = {"cached lock": [], "plain file": []}
    paths = dict(zip(times, (lock, plain), strict=True))
    for path in paths.values():
        measure(path, _BLOCK)
    while len(times["cached lock"]) < rounds:
        for name, path in paths.items():
            times[name] += measure(path, _BLOCK)
    return times


def report(where: str, times: dict[str, list[int]]) -> None:
    lock, plain = times.values()
    print(f"open+close on {where}, {len(lock):,} rounds")
    for name, found in times.items():
        p99 = quantiles(found, n=100)[-1]
        print(f"  {name:12} {median(found) / 1000:7.1f} us  p99 {p99 / 1000:7.1f} us")
    ratio = median(lock) / median(plain)
    print(f"  ratio of the medians {ratio:.2f}; the target is {_TARGET} at most")


if __name__ == "__main__":
    main()
