"""Domains and their files, without a mount."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import pytest

from pydlm.cached.actions import Outcome
from pydlm.dlmfs.domain import Domain, Uses, Wait, lockspace_name
from pydlm.dlmfs.lockfile import Watched
from pydlm.errors import LockLost, StackUnavailable, Unsupported
from pydlm.stacks.local import LocalStack
from pydlm.types import Event


class Breaking(LocalStack):
    """Its connection breaks when it is told to, as one over a network does."""

    broken = False

    def dispatch(self, limit: int = 0) -> Sequence[Event]:
        if self.broken:
            raise StackUnavailable("the connection is broken")
        return super().dispatch(limit)


class Told(Wait):
    """Remembers what it was told."""

    outcome: Outcome | BaseException | None = None

    def ended(self, outcome: Outcome | BaseException) -> None:
        assert self.outcome is None
        self.outcome = outcome


@pytest.fixture
def domain() -> Iterator[Domain]:
    made = Domain(Breaking.connect("dlmfs-domain"))
    yield made
    made.let_go()
    made.stack.disconnect()


def attached(domain: Domain, name: bytes = b"l") -> Watched:
    kept = Watched(domain, name)
    domain.step(kept, kept.machine.attach(Wait(domain)))
    domain.settle()
    return kept


def wanted(domain: Domain, kept: Watched, *, exclusive: bool, trying: bool = False) -> Told:
    told = Told(domain, exclusive, trying)
    domain.step(kept, kept.machine.want(told))
    domain.settle()
    return told


def test_a_stack_that_fails_loses_the_locks_of_its_domain_only(
    domain: Domain, caplog: pytest.LogCaptureFixture
) -> None:
    other = Domain(LocalStack.connect("dlmfs-domain"))
    kept, theirs = attached(domain), attached(other)
    assert wanted(domain, kept, exclusive=True).outcome is Outcome.DONE
    second = attached(domain, b"m")
    assert wanted(other, attached(other, b"m"), exclusive=True).outcome is Outcome.DONE
    waits = wanted(domain, second, exclusive=True)
    assert waits.outcome is None
    Breaking.broken = True
    try:
        with caplog.at_level(logging.ERROR, logger="pydlm"):
            domain.settle()
            domain.settle()
    finally:
        Breaking.broken = False
    assert domain.failure is not None and caplog.text.count("are lost") == 1
    assert kept.is_lost and isinstance(waits.outcome, LockLost)
    late = wanted(domain, kept, exclusive=False)
    assert isinstance(late.outcome, LockLost)
    assert wanted(other, theirs, exclusive=False, trying=True).outcome is Outcome.NOT_AT_ONCE
    other.let_go()
    other.stack.disconnect()


def test_letting_go_publishes_and_ends_waits(domain: Domain) -> None:
    other = Domain(LocalStack.connect("dlmfs-domain"))
    kept, theirs = attached(domain), attached(other)
    assert wanted(domain, kept, exclusive=True).outcome is Outcome.DONE
    kept.block.written = b"value".ljust(64, b"\0")
    kept.uses.leave(True)
    held = wanted(other, attached(other, b"m"), exclusive=True)
    assert held.outcome is Outcome.DONE
    waits = wanted(domain, attached(domain, b"m"), exclusive=True)
    domain.let_go()
    assert isinstance(waits.outcome, Exception)
    assert wanted(other, theirs, exclusive=False).outcome is Outcome.DONE
    assert theirs.block.valid and theirs.block.value.startswith(b"value")
    other.let_go()
    other.stack.disconnect()


def test_uses_are_counted() -> None:
    uses = Uses()
    assert not uses.pass_(False)
    uses.allow(True, False, True)
    assert uses.pass_(False) and uses.pass_(False) and not uses.pass_(True)
    assert (uses.leave(False), uses.leave(False)) == (False, True)
    uses.admit(True)
    uses.allow(True, True, False)
    assert not uses.leave(True) and uses.exclusive_uses == 0


def test_names_of_lockspaces() -> None:
    assert [lockspace_name(n) for n in (b"d", b".d", b"%2Ed", b"a.b%", "é".encode())] == [
        "d",
        "%2Ed",
        "%252Ed",
        "a.b%",
        "é",
    ]
    with pytest.raises(UnicodeDecodeError):
        lockspace_name(b"\xff")


def test_a_stack_that_cannot_keep_locks() -> None:
    class Poor(LocalStack):
        capabilities = frozenset({"lvb"})

    stack = Poor.connect("dlmfs-domain")
    with pytest.raises(Unsupported, match="bast"):
        Domain(stack)
    stack.disconnect()
