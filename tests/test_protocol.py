"""The version of the locking protocol: mixed versions agree on the lower minor, or refuse."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.verbs import Verbs

from pydlm import Mode, StackUnavailable, stackglue
from pydlm.stackglue.protocol import VERSION_LOCK, Version, negotiate
from pydlm.stacks.local import LocalStack
from pydlm.types import LockFlag

Join = Callable[[int, int], Version]


@pytest.fixture
def nodes() -> Iterator[list[Verbs]]:
    made: list[Verbs] = []
    yield made
    for stack in made:
        stack.disconnect()


@pytest.fixture
def join(nodes: list[Verbs]) -> Join:
    """Connect another node with that version; return the one agreed on."""

    def join(major: int, minor: int) -> Version:
        stack = Verbs()
        nodes.append(stack)
        return negotiate(stack, Version(major, minor), 20)  # type: ignore[arg-type]

    return join


def test_the_first_one_says(join: Join) -> None:
    assert join(1, 3) == (1, 3)
    assert join(1, 3) == (1, 3)


def test_a_stack_that_cannot_convert(nodes: list[Verbs]) -> None:
    """Who is first lets go between writing and staying: another one may come in between."""

    class Slow(Verbs):
        def unlock(self, *args: Any, **kwargs: Any) -> None:
            super().unlock(*args, **kwargs)
            if len(nodes) == 1:
                nodes.append(Verbs("convert"))
                assert negotiate(nodes[1], Version(1, 2), 20) == (1, 2)  # type: ignore[arg-type]

    # The block is forgotten with the last lock.
    anchor = LocalStack.connect("tests")
    anchor.lock(VERSION_LOCK, Mode.NL, LockFlag.VALBLK)
    nodes.append(Slow("convert"))
    assert negotiate(nodes[0], Version(1, 5), 20) == (1, 2)  # type: ignore[arg-type]
    nodes.append(Verbs())
    assert negotiate(nodes[2], Version(1, 9), 20) == (1, 2)  # type: ignore[arg-type]
    anchor.disconnect()


def test_a_stack_that_cannot_try(nodes: list[Verbs]) -> None:
    """Nobody knows whether he is alone: they take turns."""

    def join(minor: int) -> Version:
        nodes.append(Verbs("convert", "trylock"))
        return negotiate(nodes[-1], Version(1, minor), 20)  # type: ignore[arg-type]

    # The block is forgotten with the last lock.
    anchor = LocalStack.connect("tests")
    anchor.lock(VERSION_LOCK, Mode.NL, LockFlag.VALBLK)
    found: list[Version] = []
    joining = [threading.Thread(target=lambda n=n: found.append(join(n))) for n in (4, 4, 4)]
    for thread in joining:
        thread.start()
    for thread in joining:
        thread.join()
    assert found == [(1, 4)] * 3
    assert join(6) == (1, 4)
    with pytest.raises(StackUnavailable, match=r"speak version 1\.4 .* and this pydlm 1\.3"):
        join(3)
    assert join(5) == (1, 4), "whoever was refused is in nobody's way"
    anchor.disconnect()


def test_one_that_died_alone_where_none_can_try(nodes: list[Verbs]) -> None:
    """An invalid block may remain so on the node that writes it: the next block says it."""
    anchor = LocalStack.connect("tests")
    for name in (VERSION_LOCK, VERSION_LOCK + b"-2"):
        anchor.lock(name, Mode.NL, LockFlag.VALBLK)
    dying = LocalStack.connect("tests")
    lkid = dying.lock(VERSION_LOCK, Mode.EX, LockFlag.VALBLK)
    dying.dispatch()
    dying.convert(lkid, Mode.EX, LockFlag.VALBLK, lvb=b"pydlm\x01\x09")
    dying.abandon()
    for minor in (2, 7):
        nodes.append(Verbs("convert", "trylock"))
        assert negotiate(nodes[-1], Version(1, minor), 20) == (1, 2)  # type: ignore[arg-type]
    held = {s.name for s in anchor.dump() if s.granted is Mode.PR}
    assert held == {VERSION_LOCK, VERSION_LOCK + b"-2"}
    anchor.disconnect()


def test_a_block_that_seems_valid_again_when_further_nodes_die(nodes: list[Verbs]) -> None:
    anchor = LocalStack.connect("tests")
    for name, said in ((VERSION_LOCK, b"pydlm\x01\x09"), (VERSION_LOCK + b"-2", b"pydlm\x01\x02")):
        lkid = anchor.lock(name, Mode.EX, LockFlag.VALBLK)
        anchor.dispatch()
        anchor.convert(lkid, Mode.PR, LockFlag.VALBLK, lvb=said)
    nodes.append(Verbs("convert", "trylock"))
    assert negotiate(nodes[-1], Version(1, 9), 20) == (1, 2)  # type: ignore[arg-type]
    anchor.disconnect()


def test_who_comes_later_goes_down_to_the_lower_minor(join: Join) -> None:
    assert join(1, 3) == (1, 3)
    assert join(1, 7) == (1, 3)


@pytest.mark.parametrize(
    ("running", "own", "who"),
    [
        ((1, 3), (1, 2), "it"),
        ((2, 0), (1, 9), "it"),
        ((1, 9), (2, 0), "the others"),
    ],
)
def test_who_cannot_stays_out(
    join: Join, running: tuple[int, int], own: tuple[int, int], who: str
) -> None:
    join(*running)
    with pytest.raises(StackUnavailable) as caught:
        join(*own)
    assert str(caught.value) == (
        f"the nodes of this lockspace speak version {running[0]}.{running[1]} of pydlm's locking "
        f"protocol, and this pydlm {own[0]}.{own[1]}: upgrade {who}, or stop them first"
    )


def test_when_all_have_left_anybody_may_begin(join: Join, nodes: list[Verbs]) -> None:
    join(2, 5)
    anchor = LocalStack.connect("tests")  # the lockspace, and so the block, stays
    anchor.lock(VERSION_LOCK, Mode.NL, LockFlag.VALBLK)
    nodes.pop().disconnect()
    assert join(1, 1) == (1, 1)
    anchor.disconnect()


def test_one_that_died_while_it_wrote(join: Join, nodes: list[Verbs]) -> None:
    """Whoever waits behind it begins again, as the block says nothing."""
    dying = LocalStack.connect("tests")
    lkid = dying.lock(VERSION_LOCK, Mode.EX, LockFlag.VALBLK)
    found: list[Version] = []
    waiter = threading.Thread(target=lambda: found.append(join(1, 4)))
    waiter.start()
    while not any(s.requested is Mode.PR for s in dying.dump(VERSION_LOCK)):
        assert waiter.is_alive()
    # Written before, or nothing would become invalid.
    dying.dispatch()
    dying.convert(lkid, Mode.EX, LockFlag.VALBLK, lvb=b"pydlm\x01\x09")
    dying.abandon()
    waiter.join(20)
    assert found == [(1, 4)]


def test_a_block_that_is_lost_with_a_node(nodes: list[Verbs], join: Join) -> None:
    """On o2cb it is all zeros then, though others are in."""
    assert join(1, 3) == join(1, 4) == (1, 3)
    for node in nodes:
        (lkid,) = (s.lkid for s in node.dump(VERSION_LOCK) if s.client == node.this_node)
        node.convert(lkid, Mode.NL)
    loss = LocalStack.connect("tests")
    lkid = loss.lock(VERSION_LOCK, Mode.EX, LockFlag.VALBLK)
    loss.dispatch()
    loss.convert(lkid, Mode.PR, LockFlag.VALBLK, lvb=bytes(32))
    assert join(1, 3) == join(1, 6) == (1, 3)
    for version in (Version(2, 0), Version(1, 2)):
        nodes.append(Verbs())
        with pytest.raises(
            StackUnavailable, match=r"somebody is in .* \d.\d, knows of: upgrade it"
        ):
            negotiate(nodes[-1], version, 0.2)  # type: ignore[arg-type]
    loss.disconnect()


class Keeping(Verbs):
    """Its node keeps what was let go, as on dlmfs: here only of what was tried."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = LocalStack.connect("tests")
        self.kept: dict[bytes, int] = {}

    def unlock(self, lkid: int, *args: Any, **kwargs: Any) -> None:
        name = self.lock_status(lkid).name
        super().unlock(lkid, *args, **kwargs)
        if b"-1." in name:
            self.kept[name] = self.kernel.lock(name, Mode.EX)

    def forget(self, name: bytes) -> None:
        self.kernel.unlock(self.kept.pop(name))

    def disconnect(self) -> None:
        super().disconnect()
        self.kernel.disconnect()


def test_who_listened_is_not_heard(nodes: list[Verbs], join: Join) -> None:
    join(1, 3)
    (lkid,) = (s.lkid for s in nodes[0].dump(VERSION_LOCK))
    nodes[0].convert(lkid, Mode.EX)
    nodes[0].convert(lkid, Mode.PR, LockFlag.VALBLK, lvb=bytes(32))
    for _ in range(2):
        nodes.append(Keeping())
        assert negotiate(nodes[-1], Version(1, 5), 20) == (1, 3)  # type: ignore[arg-type]


def test_what_the_lock_manager_refuses(nodes: list[Verbs]) -> None:
    """It is neither taken for others, nor for the turn."""

    class Full(Verbs):
        def dispatch(self, limit: int = 0) -> Any:
            return [c._replace(status=errno.ENOMEM) for c in super().dispatch(limit)]

    for lacking in ((), ("convert", "trylock")):
        nodes.append(Full(*lacking))
        with pytest.raises(StackUnavailable, match="cannot be looked up: Cannot allocate memory"):
            negotiate(nodes[-1], timeout=20)  # type: ignore[arg-type]


def test_a_node_that_hangs_is_not_waited_for_for_ever(nodes: list[Verbs]) -> None:
    hanging = LocalStack.connect("tests")
    hanging.lock(VERSION_LOCK, Mode.EX, LockFlag.VALBLK)
    nodes.append(Verbs())
    with pytest.raises(StackUnavailable, match="no answer about the version"):
        negotiate(nodes[0], timeout=0.05)  # type: ignore[arg-type]
    hanging.disconnect()


def test_connect_asks_where_it_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other(Verbs):
        negotiates = True

        @classmethod
        def connect(cls, lockspace: str, locator: str) -> Other:
            return cls()

    monkeypatch.setattr(stackglue.registry, "find_stack", lambda name: Other)
    stack = stackglue.connect_stack("other", "tests")
    held = {s.name for s in stack.dump() if s.granted is Mode.PR}
    assert held == {VERSION_LOCK, b"pydlm-protocol-1.0"}
    stack.disconnect()
