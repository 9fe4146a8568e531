"""The checks of stacks: pydlm's own pass them, and a stack that does otherwise does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pydlm import Mode
from pydlm.contract import CAPABILITIES
from pydlm.stackglue import registry
from pydlm.stacks.local import LocalStack
from pydlm.testing.__main__ import main
from pydlm.testing.conformance import CHECKS, conform
from pydlm.types import LockFlag

APPLYING = 19  # to a stack that can do everything


class Verbs:
    """The local stack without native locks."""

    name = "verbs"
    lacks = frozenset({"deadlock"})  # the waiters of native locks look for them

    @classmethod
    def connect(cls, lockspace: str, locator: str, **options: Any) -> Verbs:
        return cls(LocalStack.connect(lockspace, deadlock_wait=0.1))

    def __init__(self, inner: LocalStack) -> None:
        self.inner = inner
        self.capabilities = inner.capabilities - {"native"} - self.lacks

    def __getattr__(self, verb: str) -> Any:
        return getattr(self.inner, verb)


class Forgetful(Verbs):
    """Forgets what is written to the block."""

    def unlock(self, lkid: int, flags: int = 0, *, lvb: bytes | None = None) -> None:
        self.inner.unlock(lkid, LockFlag(flags & ~LockFlag.VALBLK))

    def convert(self, lkid: int, mode: Mode, flags: int = 0, *, lvb: bytes | None = None) -> None:
        self.inner.convert(lkid, mode, LockFlag(flags & ~LockFlag.VALBLK))


class Lax(Verbs):
    """Lets everybody in."""

    def lock(self, name: bytes, mode: Mode, *args: Any, **kwargs: Any) -> int:
        return self.inner.lock(name, min(mode, Mode.PR), *args, **kwargs)

    def convert(self, lkid: int, mode: Mode, *args: Any, **kwargs: Any) -> None:
        self.inner.convert(lkid, min(mode, Mode.PR), *args, **kwargs)


class Boastful(Verbs):
    """Can list locks, and says that it cannot."""

    lacks = frozenset({"deadlock", "dump"})


def test_names_and_capabilities_are_known() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert {word for check in CHECKS for word in check.needs | check.lacks} <= set(CAPABILITIES)


@pytest.mark.parametrize("stack", ["local", "host"])
def test_own_stacks_pass_all(
    stack: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("PYDLM_HOST_DIR", str(tmp_path))
    assert main(["conformance", "--stack", stack, "--lockspace", "tests"]) == 0
    assert capsys.readouterr().out.endswith(f"\n{APPLYING} passed, 0 failed\n")


def test_locks_made_of_verbs_pass_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "find_stack", lambda name: Verbs)
    found = dict(conform(["verbs"], "tests", without=["dump"]))
    assert found.pop("dump") == "left out"
    assert set(found.values()) == {"passed", "not for it"}
    assert [*found.values()].count("passed") == APPLYING - 2


@pytest.mark.parametrize(
    ("kind", "check", "message"),
    [
        (Forgetful, "block", "the block is b'\\x00"),
        (Lax, "exclusion", "the mode held is (<Mode.PR"),
        (Boastful, "no_dump", "a call that needs 'dump' raises nothing"),
    ],
)
def test_stack_that_does_otherwise(
    kind: type[Verbs],
    check: str,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(registry, "find_stack", lambda name: kind)
    leave_out = [it.name for it in CHECKS if it.name != check]
    words = [word for name in leave_out for word in ("--without", name)]
    assert main(["conformance", "--stack", "any", *words]) == 1
    out = capsys.readouterr().out
    assert f"{check}: failed: {message}" in out
    assert out.endswith("\n0 passed, 1 failed\n")


def test_stack_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "--stack", "none"]) == 2
    assert "no stack is called 'none'" in capsys.readouterr().err
