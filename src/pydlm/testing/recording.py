"""Read recordings of fs/dlm: JSON Lines, one scenario a line; see ``recordings/README.md``."""

from __future__ import annotations

import gzip
import json
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar, cast

from pydlm.types import LockFlag, Mode, StatusFlag

__all__ = [
    "OPS",
    "Event",
    "Fields",
    "Outcome",
    "RecordingError",
    "Scenario",
    "Step",
    "load",
    "objects",
    "shipped",
]

#: Every operation, and which fields of a step it cannot do without.
OPS = {
    "lock": ("client", "lock", "mode"),
    "convert": ("client", "lock", "mode"),
    "unlock": ("client", "lock"),
    "cancel": ("client", "lock"),
    "forceunlock": ("client", "lock"),
    "deadlock_cancel": ("client", "lock"),
    "purge": ("client", "pid_of"),
    "forge": ("client", "lock", "of"),
    "kill_client": ("client",),
    "kill_node": ("node",),
}

_T = TypeVar("_T")


class RecordingError(Exception):
    """A file that cannot be read, or is not a recording. Says where."""


class Event(NamedTuple):
    """What a client was told: a completion, or a blocking notice (`mode` set, the rest not)."""

    client: str
    lock: str
    kind: str  #: "ast" or "bast"
    mode: Mode | None  #: ast: granted, where the status is 0. bast: what is blocked
    status: int = 0
    flags: StatusFlag = StatusFlag(0)
    lvb: bytes | None = None


class Outcome(NamedTuple):
    """What a step did: what the call returned, and what each client was told, in its order."""

    rc: int
    errno: int | None
    events: dict[str, list[Event]]


class Step(NamedTuple):
    """One call, or one death."""

    op: str
    client: str
    lock: str
    node: int
    resource: bytes
    literal: bool  #: `resource` is the name itself, not one that is made unique
    mode: int
    flags: LockFlag
    lvb: bytes | None
    of: str  #: forge: a lock or a number. purge: a client
    outcome: Outcome


class Scenario(NamedTuple):
    """Steps on fresh resources by fresh clients."""

    name: str
    category: str
    lvb_len: int
    clients: dict[str, int]  #: and the node each is on
    steps: list[Step]

    @property
    def literal(self) -> bool:
        """Whether it uses resource names that cannot be changed."""
        return any(step.literal for step in self.steps)


def load(path: str) -> Iterator[Scenario]:
    """Read a recording: plain, ``.gz``, ``.xz``, or ``-`` for standard input.

    Raises RecordingError with file, line and what is wrong.
    """
    for fields in objects(path):
        yield _scenario(fields)


def objects(path: str) -> Iterator[Fields]:
    """Read a file of JSON Lines, as `load` does."""
    try:
        with _open(path) as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    where = f"{path}:{number}"
                    try:
                        data = json.loads(line)
                    except ValueError as error:
                        raise RecordingError(f"{where}: not JSON: {error}") from None
                    yield Fields(data, where)
    except (OSError, EOFError, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise RecordingError(f"{path}: cannot be read: {reason}") from None


def shipped(manager: str = "fsdlm") -> list[str]:
    """Return the files of recordings that come with pydlm: of ``fsdlm``, or of ``dlmfs``."""
    folder = Path(__file__).parent / "recordings" / manager
    return sorted(str(path) for path in folder.glob("*.jsonl.xz"))


def _open(path: str) -> IO[bytes]:
    if path == "-":
        return sys.stdin.buffer
    if path.endswith(".gz"):
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if path.endswith(".xz"):
        return lzma.open(path, "rb")
    return open(path, "rb")


def _scenario(fields: Fields) -> Scenario:
    where = fields.where
    name = fields.get("name", str)
    clients = fields.get("clients", dict)
    if not all(isinstance(node, int) for node in clients.values()):
        raise RecordingError(f"{where}: {name}: 'clients' must give each client's node")
    steps: list[Step] = []
    for number, step in enumerate(fields.get("steps", list), 1):
        steps.append(_step(Fields(step, f"{where}: {name}: step {number}"), clients))
    lvb_len = fields.get("lvblen", int)
    if lvb_len <= 0:
        raise RecordingError(f"{where}: {name}: 'lvblen' must be positive")
    return Scenario(name, fields.get("category", str, ""), lvb_len, clients, steps)


class Fields:
    """One JSON object, read field by field with an error that says which and where."""

    def __init__(self, data: Any, where: str) -> None:
        if not isinstance(data, dict):
            raise RecordingError(f"{where}: not a JSON object")
        self.data = data
        self.where = where

    def fail(self, what: str) -> RecordingError:
        """Return an error that says what is wrong with the object."""
        return RecordingError(f"{self.where}: {what}")

    def get(self, key: str, kind: type[_T], default: _T | None = None) -> _T:
        """Return a field of this kind, or the default where there is none."""
        value = self.data.get(key, default)
        if value is None and key not in self.data:
            raise self.fail(f"{key!r} is missing")
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self.fail(f"{key!r} must be {kind.__name__}, not {value!r}")
        return value

    def bytes(self, key: str) -> bytes | None:
        """Return a field of hexadecimal digits."""
        value = self.data.get(key)
        if value is None:
            return None
        try:
            return bytes.fromhex(value)
        except (TypeError, ValueError):
            raise self.fail(f"{key!r} must be hexadecimal, not {value!r}") from None

    def flags(self, key: str, kind: type[LockFlag | StatusFlag]) -> int:
        """Return a field of names of flags."""
        total = 0
        for word in self.get(key, list, []):
            if not isinstance(word, str) or word not in kind.__members__:
                raise self.fail(f"{key!r}: no such flag: {word!r}")
            total |= kind[word]
        return total

    def mode(self, key: str) -> Mode:
        """Return a field that names a mode."""
        word = self.data.get(key)
        if not isinstance(word, str) or word not in Mode.__members__:
            raise self.fail(f"{key!r} must be a mode, not {word!r}")
        return Mode[word]


def _step(fields: Fields, clients: dict[str, int]) -> Step:
    op = fields.get("op", str)
    if op not in OPS:
        raise fields.fail(f"unknown op {op!r}")
    for key in OPS[op]:
        if key not in fields.data:
            raise fields.fail(f"{op} without {key!r}")
    client = fields.get("client", str, "")
    if "client" in OPS[op] and client not in clients:
        raise fields.fail(f"no such client: {client!r}")
    resource = fields.bytes("res_hex")
    literal = resource is not None
    if op == "lock" and resource is None:
        resource = fields.get("res", str).encode()
    mode: int = 0
    if "mode" in OPS[op]:
        number = fields.data["mode"]
        is_number = isinstance(number, int) and not isinstance(number, bool)
        mode = number if is_number else fields.mode("mode")
    of = fields.get("pid_of" if op == "purge" else "of", str, "")
    if op == "purge" and of not in clients:
        raise fields.fail(f"no such client: {of!r}")
    rc = fields.get("rc", int)
    errno = None if fields.data.get("errno") is None else fields.get("errno", int)
    events: dict[str, list[Event]] = {}
    for item in fields.get("events", list):
        event = _event(Fields(item, fields.where), clients)
        events.setdefault(event.client, []).append(event)
    return Step(
        op,
        client,
        fields.get("lock", str, ""),
        fields.get("node", int, 0),
        resource or b"",
        literal,
        mode,
        LockFlag(fields.flags("flags", LockFlag)),
        fields.bytes("lvb"),
        of,
        Outcome(rc, errno, events),
    )


def _event(fields: Fields, clients: dict[str, int]) -> Event:
    client, lock = fields.get("client", str), fields.get("lock", str)
    if client not in clients:
        raise fields.fail(f"event of no such client: {client!r}")
    kind = fields.get("type", str)
    if kind == "bast":
        return Event(client, lock, kind, fields.mode("mode"))
    if kind != "ast":
        raise fields.fail(f"unknown event {kind!r}")
    status = fields.get("status", int)
    granted = fields.mode("granted") if status == 0 else None
    flags = StatusFlag(fields.flags("sb_flags", StatusFlag))
    return Event(client, lock, kind, granted, status, flags, fields.bytes("lvb"))
