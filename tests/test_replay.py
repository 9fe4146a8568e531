"""The replay command: what it prints, what it returns, and that it lets nothing through."""

from __future__ import annotations

import copy
import gzip
import io
import json
import lzma
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pydlm.testing.__main__ import main
from pydlm.testing.deviations import RULES
from pydlm.testing.recording import Outcome, RecordingError, load, shipped
from pydlm.testing.replay import replay
from pydlm.testing.worlds import ModelWorlds, worlds

#: What pydlm does otherwise than the kernel, by rule. Nothing joins this list by itself.
DEVIATING = {
    "lkid": {
        "error-cancel-of-other-client",
        "error-lkid-reused",
        "error-unlock-of-other-client",
        "flag-unlock-FORCEUNLOCK",
        "flag-unlock-VALBLK",
    },
    "empty-resource": {
        "random-00115",
        "random-00176",
        "random-00728",
        "random-01908",
        "random2n-00115",
    },
    "master-death": {
        "death-m2-holder-CW-lvb",
        "death-m2-holder-EX-waiter-PR",
        "death-m2-holder-NL-lvb",
        "death-m2-holder-PR-lvb",
        "death-m2-holder-PW-lvb",
        "death-m2-invalid-before-death",
        "death-m2-only-CR-survives",
        "death-m2-only-NL-survives",
    },
}

Json = dict[str, Any]


def step(op: str, client: str = "A", **fields: Any) -> Json:
    """A step of a recording that is still without its outcome."""
    return {"client": client, "op": op, "rc": 0, "errno": None, "events": [], **fields}


def ask(client: str, lock: str, mode: str, *flags: str, op: str = "lock", **more: Any) -> Json:
    resource = {"res": "r"} if op == "lock" else {}
    return step(op, client, lock=lock, mode=mode, flags=list(flags), **resource, **more)


def drop(client: str, lock: str, *flags: str, **more: Any) -> Json:
    return step("unlock", client, lock=lock, flags=list(flags), **more)


def record(name: str, clients: dict[str, int], *steps: Json) -> Json:
    """Make a recording of what the model in kernel mode does."""
    scenario = {"name": name, "clients": clients, "lvblen": 32, "steps": list(steps)}
    path = Path(f"/dev/fd/{name}")  # only for messages
    outcomes = play(scenario, path)
    for recorded, outcome in zip(steps, outcomes, strict=True):
        recorded["rc"], recorded["errno"] = outcome.rc, outcome.errno
        recorded["events"] = [
            {
                "client": event.client,
                "lock": event.lock,
                "type": event.kind,
                **(
                    {"mode": event.mode.name}
                    if event.kind == "bast" and event.mode is not None
                    else {
                        "status": event.status,
                        "sb_flags": [flag.name for flag in type(event.flags) if flag & event.flags],
                        "lvb": None if event.lvb is None else event.lvb.hex(),
                        **({} if event.mode is None else {"granted": event.mode.name}),
                    }
                ),
            }
            for events in outcome.events.values()
            for event in events
        ]
    return scenario


def play(scenario: Json, path: Path) -> list[Outcome]:
    from pydlm.testing.recording import Fields, _scenario
    from pydlm.testing.replay import _play

    return _play(_scenario(Fields(scenario, str(path))), ModelWorlds(kernel=True))


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    def write(*scenarios: Json, name: str = "recording.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(scenario) + "\n" for scenario in scenarios))
        return str(path)

    return write


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, list[str], str]:
    """Run the command; return its status, its lines, and what it complained of."""
    status = main(["replay", "--stack", "model-kernel", *argv])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err


@pytest.fixture
def contest() -> Json:
    """Two clients, a notice, a value block."""
    return record(
        "contest",
        {"A": 1, "B": 1},
        ask("A", "a1", "EX", "VALBLK"),
        ask("B", "b1", "PR", "VALBLK"),
        drop("A", "a1", "VALBLK", lvb="0f"),
        ask("B", "b1", "NL", op="convert"),
        drop("B", "b1"),
        drop("B", "b1"),
    )


def test_passes(capsys: pytest.CaptureFixture[str], file: Any, contest: Json) -> None:
    assert run(capsys, file(contest)) == (0, ["1 passed, 0 failed, 0 deviate"], "")


def test_the_recording_is_what_one_expects(contest: Json) -> None:
    granted = contest["steps"][2]["events"]
    assert [(event["lock"], event["status"]) for event in granted] == [("a1", 65538), ("b1", 0)]
    assert granted[1]["lvb"] == "0f".ljust(64, "0")
    assert contest["steps"][5]["errno"] == 2


TAMPERINGS: dict[str, tuple[Callable[[list[Json]], Any], str]] = {
    "rc": (
        lambda s: s[3].update(rc=-1, errno=16),
        "contest: step 4 (B convert b1): expected error EBUSY, got success",
    ),
    "errno": (
        lambda s: s[5].update(errno=22),
        "contest: step 6 (B unlock b1): expected error EINVAL, got error ENOENT",
    ),
    "a bast is missing": (
        lambda s: s[1].update(events=[]),
        "contest: step 2 (B lock b1): expected no further event for A, got A: bast a1 PR",
    ),
    "another mode in a bast": (
        lambda s: s[1]["events"][0].update(mode="PW"),
        "contest: step 2 (B lock b1): expected A: bast a1 PW, got A: bast a1 PR",
    ),
    "an ast too many": (
        lambda s: s[1]["events"].extend(s[4]["events"]),
        "contest: step 2 (B lock b1): expected B: ast b1 EUNLOCK no lvb, "
        "got no further event for B",
    ),
    "status": (
        lambda s: s[2]["events"][0].update(status=0x10001),
        "contest: step 3 (A unlock a1): expected A: ast a1 ECANCEL no lvb, "
        "got A: ast a1 EUNLOCK no lvb",
    ),
    "granted mode": (
        lambda s: s[3]["events"][0].update(granted="CR"),
        "contest: step 4 (B convert b1): expected B: ast b1 OK CR lvb " + "0" * 64 + ", "
        "got B: ast b1 OK NL lvb " + "0" * 64,
    ),
    "status flag": (
        lambda s: s[3]["events"][0].update(sb_flags=["DEMOTED"]),
        "contest: step 4 (B convert b1): expected B: ast b1 OK NL DEMOTED lvb " + "0" * 64 + ", "
        "got B: ast b1 OK NL lvb " + "0" * 64,
    ),
    "a byte of the value block": (
        lambda s: s[2]["events"][1].update(lvb="0f".ljust(62, "0") + "01"),
        "contest: step 3 (A unlock a1): expected B: ast b1 OK PR lvb 0f" + "0" * 60 + "01, "
        "got B: ast b1 OK PR lvb 0f" + "0" * 62,
    ),
    "no value block": (
        lambda s: s[2]["events"][1].update(lvb=None),
        "contest: step 3 (A unlock a1): expected B: ast b1 OK PR no lvb, "
        "got B: ast b1 OK PR lvb 0f" + "0" * 62,
    ),
    "another lock": (
        lambda s: s[4]["events"][0].update(lock="b2"),
        "contest: step 5 (B unlock b1): expected B: ast b2 EUNLOCK no lvb, "
        "got B: ast b1 EUNLOCK no lvb",
    ),
}


@pytest.mark.parametrize("what", TAMPERINGS)
def test_tampered_recording_fails(
    what: str, capsys: pytest.CaptureFixture[str], file: Any, contest: Json
) -> None:
    tamper, message = TAMPERINGS[what]
    tampered = copy.deepcopy(contest)
    tamper(tampered["steps"])
    status, lines, err = run(capsys, file(contest, tampered))
    assert (status, err) == (1, "")
    assert lines == [message, "1 passed, 1 failed, 0 deviate"]


def test_order_of_one_clients_events_counts(capsys: pytest.CaptureFixture[str], file: Any) -> None:
    scenario = record(
        "order",
        {"A": 1, "B": 1},
        ask("A", "a1", "PR"),
        ask("A", "a2", "PR"),
        ask("B", "b1", "EX"),
    )
    assert run(capsys, file(scenario))[0] == 0
    scenario["steps"][2]["events"].reverse()
    assert run(capsys, file(scenario))[0] == 1


def test_only_the_first_difference_is_printed(
    capsys: pytest.CaptureFixture[str], file: Any, contest: Json
) -> None:
    for one in contest["steps"]:
        one["events"] = []
    _, lines, _ = run(capsys, file(contest))
    assert len(lines) == 2
    assert lines[0].startswith("contest: step 1 ")


def test_recordings_are_never_written(file: Any, contest: Json) -> None:
    path = Path(file(contest))
    path.chmod(0o400)
    before = path.read_bytes()
    main(["replay", "--stack", "model", str(path)])
    assert path.read_bytes() == before


def test_reads_compressed_files_and_stdin(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    file: Any,
    contest: Json,
    tmp_path: Path,
) -> None:
    plain = Path(file(contest))
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "r.jsonl.xz").write_bytes(lzma.compress(plain.read_bytes()))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(plain.read_bytes())))
    paths = [str(plain), str(tmp_path / "r.jsonl.gz"), str(tmp_path / "r.jsonl.xz"), "-"]
    assert run(capsys, *paths) == (0, ["4 passed, 0 failed, 0 deviate"], "")


def without(key: str) -> Callable[[Json], Any]:
    return lambda scenario: scenario.pop(key)


def first(**fields: Any) -> Callable[[Json], Any]:
    return lambda scenario: scenario["steps"][0].update(fields)


MALFORMED: dict[str, tuple[Callable[[Json], Any], str]] = {
    "no name": (without("name"), "'name' is missing"),
    "no steps": (without("steps"), "'steps' is missing"),
    "no lvblen": (without("lvblen"), "'lvblen' is missing"),
    "bad lvblen": (lambda s: s.update(lvblen=0), "contest: 'lvblen' must be positive"),
    "bad clients": (
        lambda s: s.update(clients={"A": "x", "B": 1}),
        "contest: 'clients' must give each client's node",
    ),
    "unknown op": (first(op="frobnicate"), "contest: step 1: unknown op 'frobnicate'"),
    "no op": (lambda s: s["steps"][0].pop("op"), "contest: step 1: 'op' is missing"),
    "no mode": (lambda s: s["steps"][0].pop("mode"), "contest: step 1: lock without 'mode'"),
    "bad mode": (first(mode="XX"), "contest: step 1: 'mode' must be a mode, not 'XX'"),
    "bad flag": (first(flags=["NOSUCH"]), "contest: step 1: 'flags': no such flag: 'NOSUCH'"),
    "bad lvb": (first(lvb="zz"), "contest: step 1: 'lvb' must be hexadecimal, not 'zz'"),
    "unknown client": (first(client="Z"), "contest: step 1: no such client: 'Z'"),
    "rc of no number": (first(rc="0"), "contest: step 1: 'rc' must be int, not '0'"),
    "events of no list": (first(events=3), "contest: step 1: 'events' must be list, not 3"),
    "event of no object": (first(events=[3]), "contest: step 1: not a JSON object"),
    "unknown event": (
        first(events=[{"client": "A", "lock": "a1", "type": "x"}]),
        "contest: step 1: unknown event 'x'",
    ),
    "event of nobody": (
        first(events=[{"client": "Z", "lock": "a1", "type": "bast", "mode": "EX"}]),
        "contest: step 1: event of no such client: 'Z'",
    ),
}


@pytest.mark.parametrize("what", MALFORMED)
def test_malformed_recording_is_refused(
    what: str, capsys: pytest.CaptureFixture[str], file: Any, contest: Json
) -> None:
    spoil, message = MALFORMED[what]
    spoiled = copy.deepcopy(contest)
    spoil(spoiled)
    path = file(contest, spoiled)
    status, lines, err = run(capsys, path)
    assert (status, lines) == (2, [])
    assert err == f"error: {path}:2: {message}\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "1: not JSON"), ("\n[]\n", "2: not a JSON object"), ('"x"', "1: not a JSON object")],
)
def test_what_is_no_recording_is_refused(
    text: str, message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(text)
    status, _, err = run(capsys, str(path))
    assert status == 2
    assert err.startswith(f"error: {path}:{message}")


def test_unreadable_files_are_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, contest: Json
) -> None:
    missing = tmp_path / "missing.jsonl"
    assert run(capsys, str(missing)) == (
        2,
        [],
        f"error: {missing}: cannot be read: No such file or directory\n",
    )
    cut = tmp_path / "cut.jsonl.xz"
    cut.write_bytes(lzma.compress(json.dumps(contest).encode())[:-20])
    status, _, err = run(capsys, str(cut))
    assert (status, err.startswith(f"error: {cut}: cannot be read: ")) == (2, True)
    plain = tmp_path / "plain.jsonl.gz"
    plain.write_text("{}")
    status, _, err = run(capsys, str(plain))
    assert (status, err.startswith(f"error: {plain}: cannot be read: ")) == (2, True)


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([drop("A", "a9")], "step 1: a9 has not been locked"),
        ([step("kill_client"), ask("A", "a1", "EX")], "step 2: A is dead"),
        ([step("forge", lock="a1", of="x")], "step 1: no lock and no number: 'x'"),
    ],
)
def test_steps_that_make_no_sense_are_refused(
    steps: list[Json], message: str, capsys: pytest.CaptureFixture[str], file: Any
) -> None:
    scenario = {"name": "s", "clients": {"A": 1}, "lvblen": 32, "steps": steps}
    assert run(capsys, file(scenario)) == (2, [], f"error: s: {message}\n")


def test_unknown_stack_is_refused(
    capsys: pytest.CaptureFixture[str], file: Any, contest: Json
) -> None:
    status = main(["replay", "--stack", "nosuch", file(contest)])
    assert (status, "nosuch" in capsys.readouterr().err) == (2, True)


def test_runs_as_a_module(file: Any, contest: Json) -> None:
    command = [sys.executable, "-m", "pydlm.testing", "replay", "--stack", "model", file(contest)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 passed, 0 failed, 0 deviate\n", "")


def test_literal_names_numbers_as_modes_and_purge_are_played() -> None:
    scenario = record(
        "rare",
        {"A": 1, "B": 1},
        ask("A", "a1", "EX", "PERSISTENT", res_hex="ff00"),
        ask("A", "a2", "EX", res_hex="ff" * 65),
        step("lock", "B", lock="b0", res="r", mode=255, flags=[]),
        step("kill_client"),
        ask("B", "b1", "EX", res_hex="ff00"),
        step("purge", "B", pid_of="A"),
        step("deadlock_cancel", "B", lock="b1"),
    )
    assert [s["errno"] for s in scenario["steps"]] == [None, 22, 22, None, None, None, None]
    assert [event["lock"] for event in scenario["steps"][5]["events"]] == ["b1"]


# All recordings on pydlm's own stack, and what deviates.


@pytest.mark.parametrize("stack", ["model", "local"])
def test_deviates_exactly_as_declared(stack: str) -> None:
    where = worlds(stack)
    found: dict[str, set[str]] = {}
    failed = []
    verdicts: Counter[str] = Counter()
    try:
        for path in shipped():
            for scenario in load(path):
                result = replay(scenario, where)
                verdicts[result.verdict] += 1
                if result.verdict == "failed":
                    failed.append(f"{scenario.name}: {result.differences[0]}")
                elif result.rule:
                    found.setdefault(result.rule.name, set()).add(scenario.name)
    finally:
        where.close()
    assert failed == []
    assert found == DEVIATING
    assert verdicts["passed"] == 3280 - sum(map(len, DEVIATING.values()))


def test_verbose_names_the_rule(capsys: pytest.CaptureFixture[str]) -> None:
    [path] = [path for path in shipped() if "death" in path]
    assert main(["replay", "--stack", "model", path]) == 0
    assert capsys.readouterr().out == "28 passed, 0 failed, 8 deviate\n"
    assert main(["replay", "--stack", "model", "--verbose", path]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9
    assert all("[master-death: No node is the master" in line for line in lines[:-1])


def test_rules_are_few_and_say_what_they_mean() -> None:
    assert [rule.name for rule in RULES] == ["lkid", "empty-resource", "master-death", "location"]
    assert all(rule.sentence.endswith(".") for rule in RULES)


def verdict(scenario: Json, file: Any, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["replay", "--stack", "model", "--verbose", file(scenario)]) in (0, 1)
    *lines, _ = capsys.readouterr().out.splitlines()
    if not lines:
        return "passed"
    return lines[0].rpartition("[")[2].partition(":")[0] if "[" in lines[0] else "failed"


@pytest.fixture
def remote() -> Callable[[int], Json]:
    """A lock goes down after the value block was invalidated; is it at the master's node?"""

    def make(node: int) -> Json:
        scenario = record(
            "remote",
            {"A": 1, "B": node},
            ask("A", "a0", "NL", "VALBLK"),
            ask("B", "b1", "EX", "VALBLK"),
            ask("B", "b1", "CW", "IVVALBLK", op="convert"),
            ask("B", "b1", "CR", op="convert"),
            ask("A", "a1", "EX"),
        )
        assert scenario["steps"][3]["events"][0]["sb_flags"] == ["VALNOTVALID"]
        return scenario

    return make


def test_location_explains_what_the_other_node_did_alone(
    remote: Callable[[int], Json], file: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    for node, expected in ((2, "location"), (1, "failed")):
        scenario = remote(node)
        scenario["steps"][3]["events"][0]["sb_flags"] = []
        assert verdict(scenario, file, capsys) == expected


def test_a_rule_explains_only_its_own(
    remote: Callable[[int], Json], file: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    scenario = remote(2)
    scenario["steps"][3]["events"][0]["sb_flags"] = []
    scenario["steps"][4]["events"] = []  # no LVB in this: somebody must be told
    assert verdict(scenario, file, capsys) == "failed"
    scenario = remote(2)
    scenario["steps"][2]["events"][0]["granted"] = "PR"
    assert verdict(scenario, file, capsys) == "failed"


def test_deviating_recording_that_was_tampered_with_fails(
    file: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    [path] = [path for path in shipped() if "death" in path]
    scenarios = list(map(json.loads, lzma.decompress(Path(path).read_bytes()).splitlines()))
    [one] = [s for s in scenarios if s["name"] == "death-m2-only-NL-survives"]
    assert verdict(one, file, capsys) == "master-death"
    one["steps"][1]["events"][0]["lvb"] = "01" * 32  # before the death
    assert verdict(one, file, capsys) == "failed"


def test_load_is_lazy(file: Any, contest: Json) -> None:
    path = file(contest, {"name": "broken"})
    scenarios = load(path)
    assert next(scenarios).name == "contest"
    with pytest.raises(RecordingError):
        next(scenarios)
