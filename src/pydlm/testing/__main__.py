"""``python -m pydlm.testing replay FILE... --stack NAME``, or ``--dlmfs MOUNT...``.

On fs/dlm, scenarios of several nodes need a command for each that runs
``python -m pydlm.testing agent`` there: ``--on COMMAND --on COMMAND``. Those in which a node dies
need ``--kill`` and ``--boot`` too, with ``{node}`` in place of its number.

``python -m pydlm.testing conformance --stack NAME`` checks what every stack owes to programs.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Sequence

from pydlm.errors import StackUnavailable
from pydlm.testing import dlmfs
from pydlm.testing.agent import AgentGone, serve
from pydlm.testing.cluster import Commands
from pydlm.testing.conformance import conform
from pydlm.testing.recording import RecordingError, load
from pydlm.testing.replay import Result, replay, summarize
from pydlm.testing.worlds import Worlds, worlds

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return 0, 1 if a scenario failed, 2 if something could not be used."""
    parser = argparse.ArgumentParser(prog="python -m pydlm.testing", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser(
        "replay", help="play recordings of fs/dlm on a stack and compare what comes back"
    )
    command.add_argument("files", nargs="+", metavar="FILE", help="plain, .gz, .xz, or - for stdin")
    command.add_argument(
        "--stack",
        default="local",
        metavar="NAME",
        help="a stack's name, 'model', or 'model-kernel' (default: local)",
    )
    command.add_argument(
        "--dlmfs",
        nargs="+",
        metavar="MOUNT",
        help="play recordings of ocfs2_dlmfs on these mounts, one for each node",
    )
    command.add_argument(
        "--on",
        action="append",
        default=[],
        metavar="COMMAND",
        help="runs an agent on the next node",
    )
    command.add_argument("--kill", default="", metavar="COMMAND", help="lets node {node} die")
    command.add_argument("--boot", default="", metavar="COMMAND", help="boots node {node} again")
    command.add_argument(
        "--every", type=int, default=1, metavar="N", help="play each Nth scenario only"
    )
    command.add_argument(
        "--verbose", action="store_true", help="also list what deviates, and by which rule"
    )
    suite = commands.add_parser("conformance", help="check that a stack does what every stack does")
    suite.add_argument(
        "--stack",
        action="append",
        metavar="NAME",
        help="one for both connections, or one for each (default: local)",
    )
    suite.add_argument("--lockspace", default="conformance", metavar="NAME")
    suite.add_argument(
        "--without", action="append", default=[], metavar="CHECK", help="leave this one out"
    )
    commands.add_parser("agent", help="drive clients on this node, for a replayer elsewhere")
    args = parser.parse_args(argv)
    if args.command == "agent":
        serve(sys.stdin.buffer, sys.stdout.buffer)
        return 0
    try:
        if args.command == "conformance":
            return _conform(args.stack or ["local"], args.lockspace, args.without)
        if args.dlmfs:
            return _replay_dlmfs(args.files, args.dlmfs, args.verbose)
        where = worlds(args.stack, Commands(args.on, args.kill, args.boot))
        return _replay(args.files, where, args.every, args.verbose)
    except (AgentGone, RecordingError, StackUnavailable) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2


def _replay(files: list[str], where: Worlds, every: int, verbose: bool) -> int:
    results: list[Result] = []
    left_out = 0
    try:
        for path in files:
            for scenario in itertools.islice(load(path), 0, None, every):
                if max(scenario.clients.values()) > where.nodes:
                    left_out += 1
                    continue
                result = replay(scenario, where)
                results.append(result)
                _tell(result, verbose)
    finally:
        where.close()
    if left_out:
        sys.stdout.write(f"{left_out} not played: they need more nodes than {where.nodes}\n")
    return _sum_up(results)


def _conform(stacks: list[str], lockspace: str, without: list[str]) -> int:
    failed = passed = 0
    for name, verdict in conform(stacks, lockspace, without):
        failed += verdict.startswith("failed")
        passed += verdict == "passed"
        sys.stdout.write(f"{name}: {verdict}\n")
        sys.stdout.flush()
    sys.stdout.write(f"{passed} passed, {failed} failed\n")
    return 1 if failed else 0


def _replay_dlmfs(files: list[str], paths: list[str], verbose: bool) -> int:
    where = dlmfs.mounts(paths)
    results: list[dlmfs.Result] = []
    left_out = 0
    for path in files:
        for scenario in dlmfs.load(path):
            if scenario.nodes > len(where):
                left_out += 1
                continue
            result = dlmfs.replay(scenario, where)
            results.append(result)
            _tell(result, verbose)
    if left_out:
        sys.stdout.write(f"{left_out} not played: they need more mounts than {len(where)}\n")
    return _sum_up(results)


def _tell(result: Result | dlmfs.Result, verbose: bool) -> None:
    if result.verdict == "failed" or (verbose and result.rule):
        rule = f" [{result.rule}]" if result.rule else ""
        sys.stdout.write(f"{result.scenario.name}: {result.differences[0]}{rule}\n")
        sys.stdout.flush()


def _sum_up(results: Sequence[Result | dlmfs.Result]) -> int:
    verdicts = [result.verdict for result in results]
    sys.stdout.write(f"{summarize(verdicts)}\n")
    return 1 if "failed" in verdicts else 0


if __name__ == "__main__":
    sys.exit(main())
