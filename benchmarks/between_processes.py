#!/usr/bin/env python3
"""What people lock with between processes or tasks, beside pydlm's host stack.

    python benchmarks/between_processes.py [--rounds N]

Uncontended acquire+release of one lock, in nanoseconds: pydlm's raw lock, and its cached lock used
shared, as a service would that reads what it has cached under it. aiorwlock (one process),
filelock, redis-py with a local Redis, and psycopg with a local PostgreSQL, both over Unix sockets,
are measured where they are installed; the servers are started here and stopped again.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import importlib.util
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pydlm
from pydlm.cli.bench.host.partner import meeting_place
from pydlm.cli.bench.sampling import Plan, Program, compare, sampled

PAIR = "l.acquire(); l.release()"
#: The slow ones are measured by fewer operations.
FEW = Plan(samples=10, batch=100)


class Missing(Exception):
    """What a peer needs is not here."""


def needs(module: str, program: str | None = None, *places: str) -> str:
    if importlib.util.find_spec(module) is None:
        raise Missing(f"no Python package {module}")
    found = program and shutil.which(program, path=os.pathsep.join([os.environ["PATH"], *places]))
    if program and not found:
        raise Missing(f"no program {program}")
    return found or ""


def until(ready: Callable[[], Any], seconds: float = 20.0) -> Any:
    """Return what `ready` returns, once it does not raise."""
    end = time.monotonic() + seconds
    while True:
        try:
            return ready()
        except Exception as error:
            if time.monotonic() > end:
                raise Missing(f"it does not start: {error}") from error
            time.sleep(0.05)


def flock(cleanup: ExitStack, place: Path) -> Program:
    file = cleanup.enter_context((place / "flock").open("w"))
    names = {"flock": fcntl.flock, "f": file.fileno(), "EX": fcntl.LOCK_EX, "UN": fcntl.LOCK_UN}
    return sampled(Plan(), "flock(f, EX); flock(f, UN)", **names)


def standard(*_: object) -> Program:
    return sampled(Plan(), PAIR, l=multiprocessing.Lock())


def filelock(_: ExitStack, place: Path) -> Program:
    needs("filelock")
    from filelock import FileLock

    return sampled(FEW, PAIR, l=FileLock(place / "filelock"))


def aiorwlock(*_: object) -> Program:
    needs("aiorwlock")
    from aiorwlock import RWLock

    async def sample() -> float:
        reader = RWLock().reader_lock
        begin = time.perf_counter_ns()
        for _ in range(FEW.batch):
            async with reader:
                pass
        return (time.perf_counter_ns() - begin) / FEW.batch

    return lambda: [asyncio.run(sample()) for _ in range(FEW.samples)]


def redis(cleanup: ExitStack, place: Path) -> Program:
    server = needs("redis", "redis-server")
    from redis import Redis

    socket = place / "redis"
    options = ["--port", "0", "--unixsocket", socket, "--save", "", "--appendonly", "no"]
    process = subprocess.Popen([server, *options], stdout=subprocess.DEVNULL, cwd=place)
    cleanup.callback(process.wait)
    cleanup.callback(process.terminate)
    client = Redis(unix_socket_path=str(socket))
    cleanup.callback(client.close)
    until(client.ping)
    return sampled(FEW, PAIR, l=client.lock("peers"))


def postgres(cleanup: ExitStack, place: Path) -> Program:
    debian = [str(path) for path in sorted(Path("/usr/lib/postgresql").glob("*/bin"))]
    initdb = needs("psycopg", "initdb", *debian)
    import psycopg

    # The server refuses to be root.
    user = "postgres" if os.geteuid() == 0 else None
    data = place / "data"
    data.mkdir()
    if user:
        place.chmod(0o755)
        shutil.chown(data, user)
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    quiet |= {"user": user, "cwd": data}
    subprocess.run([initdb, "-D", data, "-U", "bench", "-A", "trust", "-N"], check=True, **quiet)
    server = Path(initdb).with_name("postgres")
    process = subprocess.Popen([server, "-D", data, "-k", data, "-c", "listen_addresses="], **quiet)
    cleanup.callback(process.wait)
    cleanup.callback(process.terminate)
    link = until(
        lambda: psycopg.connect(f"host={data} user=bench dbname=postgres", autocommit=True)
    )
    cleanup.callback(link.close)
    statement = 'run("SELECT pg_advisory_lock(1)"); run("SELECT pg_advisory_unlock(1)")'
    return sampled(FEW, statement, run=link.cursor().execute)


PEERS: dict[str, Callable[[ExitStack, Path], Program]] = {
    "multiprocessing.Lock": standard,
    "fcntl.flock": flock,
    "aiorwlock, shared, one process": aiorwlock,
    "filelock": filelock,
    "redis-py Lock, local Redis": redis,
    "PostgreSQL advisory lock, local": postgres,
}


def measured(rounds: int) -> Iterator[str]:
    for name, make in PEERS.items():
        with ExitStack() as cleanup:
            place = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="pydlm-peers-")))
            stack = cleanup.enter_context(meeting_place())
            ls = cleanup.enter_context(pydlm.connect("peers", stack=stack))
            shared = ls.cached("cached").shared()
            with shared:
                pass  # from now on it is kept
            try:
                peer = make(cleanup, place)
            except Missing as missing:
                yield f"{name:32} not measured: {missing}"
                continue
            raw = compare(rounds, sampled(Plan(), PAIR, l=ls.lock("peers")), peer)
            kept = compare(rounds, sampled(Plan(), "with s:\n    pass", s=shared), peer)
            yield (
                f"{name:32} {raw.ours.median:8.1f} {kept.ours.median:8.1f} {raw.peer.median:11.1f} "
                f"{raw.peer.p99:11.1f} {1 / raw.ratio:8.1f} {1 / kept.ratio:8.1f}"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=Plan.rounds)
    rounds = parser.parse_args().rounds
    heads = ("raw ns", "cached", "peer ns", "its p99", "to raw", "to cached")
    print("{:32} {:>8} {:>8} {:>11} {:>11} {:>8} {:>8}".format("", *heads))
    for line in measured(rounds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
