"""What Python adds to libo2dlm's calls: contexts, errors, threads; and that places agree."""

from __future__ import annotations

import contextlib
import copy
import errno
import os
import pickle
import re
import select
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.o2dlm.conftest import Mounts, lacking
from tests.o2dlm.nodes import PATIENCE

import pydlm
from pydlm import o2dlm
from pydlm.o2dlm import (
    O2DLM_LEVEL_EXMODE,
    O2DLM_LEVEL_PRMODE,
    O2DLM_TRYLOCK,
    Context,
    ErrorCode,
    O2dlmError,
    capabilities,
)
from pydlm.stackglue import registry
from pydlm.stacks.local import LocalStack

EX, PR, TRY = O2DLM_LEVEL_EXMODE, O2DLM_LEVEL_PRMODE, O2DLM_TRYLOCK

pytestmark = pytest.mark.timeout(60)


def code_of(call: Callable[..., object], *arguments: object) -> ErrorCode:
    with pytest.raises(O2dlmError) as raised:
        call(*arguments)
    return raised.value.code


@pytest.fixture(params=["local", "host", "mount"])
def where(request: pytest.FixtureRequest, host: Path) -> Callable[[int], str]:
    """The place of the node of a number."""
    if request.param == "local":
        return lambda number: "local"
    if request.param == "host":
        return lambda number: f"host:{host}"
    mounted = request.getfixturevalue("mounted")
    return lambda number: str(mounted(number).path)


@pytest.fixture
def joined(where: Callable[[int], str], domain: str) -> Iterator[list[Context]]:
    """A context on each of two nodes."""
    with ExitStack() as ends:
        yield [ends.enter_context(o2dlm.initialize(where(n), domain)) for n in (1, 2)]


# Numbers and errors.


def test_numbers_are_those_of_the_headers() -> None:
    header = Path("/usr/include/o2dlm/o2dlm_err.h")
    if not header.exists():
        lacking("there is no o2dlm/o2dlm_err.h (Debian: ocfs2-tools-dev)")
    found = dict(re.findall(r"#define (O2DLM_ET_\w+)\s+\((-\d+)L\)", header.read_text()))
    assert len(found) == len(ErrorCode)
    assert found == {name: str(int(getattr(o2dlm, name))) for name in found}
    text = header.with_name("o2dlm.h").read_text()
    for name in ("O2DLM_LOCK_ID_MAX_LEN", "O2DLM_DOMAIN_MAX_LEN", "O2DLM_TRYLOCK"):
        (value,) = re.findall(rf"#define {name}\s+(\w+)", text)
        assert int(value, 0) == getattr(o2dlm, name)
    first, second = re.findall(r"^\s(O2DLM_LEVEL_\w+)", text, re.MULTILINE)
    assert (getattr(o2dlm, first), getattr(o2dlm, second)) == (0, 1)


def test_errors_are_pydlms_and_say_why(joined: list[Context]) -> None:
    a, b = joined
    a.lock("x", 0, EX)
    with pytest.raises(pydlm.DlmError) as raised:
        b.lock("x", TRY, PR)
    error = raised.value
    assert isinstance(error, O2dlmError)
    assert error.code is o2dlm.O2DLM_ET_TRYLOCK_FAILED
    assert error.errno == errno.ETXTBSY
    assert "O2DLM_ET_TRYLOCK_FAILED" in str(error)
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (again.code, again.errno, str(again)) == (error.code, error.errno, str(error))


def test_what_the_system_said_is_kept(joined: list[Context]) -> None:
    joined[0].lock("x", 0, PR)
    with pytest.raises(O2dlmError) as raised:
        joined[0].write_lvb("x", b"1")
    assert raised.value.code is ErrorCode.LVB_WRITE
    assert raised.value.errno == errno.EBADF
    assert isinstance(raised.value.__cause__, OSError)


def test_what_is_no_place(tmp_path: Path) -> None:
    for place in ("", 5, b"/dlm", "a\0b"):
        assert code_of(o2dlm.initialize, place, "d") is ErrorCode.INVALID_ARGS
    for name in ("", "a\0b"):
        assert code_of(o2dlm.initialize, "local", name) is ErrorCode.INVALID_ARGS
    assert code_of(o2dlm.initialize, tmp_path, "d") is ErrorCode.NO_FS
    assert code_of(o2dlm.initialize, "./host", "d") is ErrorCode.OPEN_DLM_DIR
    assert code_of(o2dlm.initialize, "host:relative/dir", "d") is not None
    assert code_of(o2dlm.initialize, "local", "d/d") is ErrorCode.DOMAIN_CREATE
    # As in libo2dlm, no path means the kernel's fs/dlm.
    assert code_of(o2dlm.initialize, None, "d") is ErrorCode.SERVICE_UNAVAILABLE


def test_what_the_kernel_can_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parameter = tmp_path / "capabilities"
    monkeypatch.setattr(capabilities, "CAPABILITIES_FILE", str(parameter))
    assert not o2dlm.supports_bast() and not o2dlm.supports_stackglue()
    for text, bast, glue in (
        ("bast stackglue", True, True),
        ("bast\n", True, False),
        ("bastion stackglue", False, True),
        ("", False, False),
    ):
        parameter.write_text(text)
        assert (o2dlm.supports_bast(), o2dlm.supports_stackglue()) == (bast, glue)
    parameter.unlink()
    parameter.mkdir()
    assert code_of(o2dlm.supports_bast) is ErrorCode.SERVICE_UNAVAILABLE


def test_what_places_can_do(where: Callable[[int], str], joined: list[Context]) -> None:
    for at in (where(1), joined[0]):
        assert o2dlm.supports_bast(at) and o2dlm.supports_stackglue(at)
    assert code_of(o2dlm.supports_bast, "/proc") is ErrorCode.NO_FS


# Contexts.


def test_functions_are_the_methods(joined: list[Context]) -> None:
    a, b = joined
    o2dlm.lock(a, "x", 0, EX)
    assert o2dlm.write_lvb(a, "x", b"12") == 2
    assert o2dlm.read_lvb(a, "x", 2) == b"12"
    o2dlm.unlock(a, "x")
    o2dlm.drop_lock(a, "x")
    told: list[str] = []
    fd = o2dlm.lock_with_bast(b, "x", 0, PR, told.append, "x")
    o2dlm.process_bast(b, fd)
    assert told == ["x"]


def test_a_destroyed_context_is_refused(where: Callable[[int], str], domain: str) -> None:
    with o2dlm.initialize(where(1), domain) as context:
        context.lock("x", 0, EX)
    o2dlm.process_bast(context, 5)
    for call in (
        lambda: context.lock("x", 0, EX),
        lambda: context.lock_with_bast("x", 0, EX, print),
        lambda: context.unlock("x"),
        lambda: context.drop_lock("x"),
        lambda: context.read_lvb("x"),
        lambda: context.write_lvb("x", b""),
        context.destroy,
        context.__enter__,
    ):
        assert code_of(call) is ErrorCode.INVALID_ARGS
    with pytest.raises(TypeError, match="initialize another"):
        pickle.dumps(context)
    assert "destroyed" in repr(context)


def test_wrong_arguments(joined: list[Context]) -> None:
    a, _ = joined
    assert code_of(a.lock_with_bast, "x", 0, EX, None) is ErrorCode.INVALID_ARGS
    assert code_of(a.lock, "a\0b", 0, EX) is ErrorCode.INVALID_LOCK_NAME
    assert code_of(a.lock, "\ud800", 0, EX) is ErrorCode.INVALID_LOCK_NAME
    assert code_of(a.lock, "", 0, EX) is ErrorCode.LOCKING
    a.lock(b"\xff", 0, EX)
    assert code_of(a.read_lvb, b"\xff", 0) is ErrorCode.INVALID_ARGS
    a.unlock(b"\xff")


def test_a_function_that_raises(joined: list[Context]) -> None:
    def raises(argument: object) -> None:
        raise KeyError(argument)

    fd = joined[0].lock_with_bast("x", 0, EX, raises, "why")
    with pytest.raises(KeyError, match="why"):
        joined[0].process_bast(fd)
    joined[0].unlock("x")


def test_nothing_is_left_of_a_lock_without_descriptor(
    joined: list[Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = joined
    a.lock("kept", 0, EX)
    held = type(a._find(b"kept"))

    def none_left(_: object) -> int:
        raise O2dlmError(ErrorCode.INTERNAL_FAILURE, "no more descriptors")

    with monkeypatch.context() as patch:
        patch.setattr(held, "fileno", none_left)
        code = code_of(a.lock_with_bast, "x", 0, EX, print)
    assert code is ErrorCode.INTERNAL_FAILURE
    assert code_of(a.unlock, "x") is ErrorCode.UNKNOWN_LOCK
    b.lock("x", 0, EX)


class NoBast(LocalStack):
    """A stack that tells no holder that its lock is wanted."""

    capabilities = LocalStack.capabilities - {"bast"}


def test_a_stack_that_cannot(monkeypatch: pytest.MonkeyPatch, domain: str) -> None:
    monkeypatch.setitem(registry._BUILT_IN, "nobast", (__name__, "NoBast"))
    assert not o2dlm.supports_bast("nobast") and o2dlm.supports_stackglue("nobast")
    with o2dlm.initialize("nobast", domain) as context:
        code = code_of(context.lock_with_bast, "x", 0, EX, print)
        assert code is ErrorCode.BAST_UNSUPPORTED
        # What keeps a lock has to be told when to let go.
        with pytest.raises(O2dlmError, match="bast") as raised:
            context.lock("x", 0, EX)
        assert raised.value.code is ErrorCode.SERVICE_UNAVAILABLE


def test_a_child_has_nothing_of_its_parents_context(host: Path, domain: str) -> None:
    with (
        o2dlm.initialize(f"host:{host}", domain) as context,
        o2dlm.initialize(f"host:{host}", domain) as other,
    ):
        context.lock("x", 0, EX)

        def codes() -> list[str]:
            calls = (
                lambda: context.lock("y", 0, EX),
                lambda: context.read_lvb("x"),
                lambda: context.write_lvb("x", b"1"),
                lambda: context.unlock("x"),
            )
            return [code_of(call).name for call in calls]

        ours, its = os.pipe()
        pid = os.fork()
        if not pid:
            with contextlib.suppress(BaseException):
                os.write(its, " ".join(codes()).encode())
            os._exit(0)
        os.close(its)
        with open(ours) as pipe:
            said = pipe.read().split()
        os.waitpid(pid, 0)
        assert said == ["LOCKING", "LVB_READ", "LVB_WRITE", "FAILED_UNLOCKS"]
        assert code_of(other.lock, "x", TRY, PR) is ErrorCode.TRYLOCK_FAILED


# Waiting.


@pytest.mark.parametrize("how", ["select", "poll", "epoll", "epoll edge"])
def test_every_way_to_wait(joined: list[Context], how: str) -> None:
    a, b = joined
    fd = a.lock_with_bast("x", 0, EX, a.unlock, "x")
    waiter = threading.Thread(target=b.lock, args=("x", 0, PR))
    with ExitStack() as ends:
        if how.startswith("epoll"):
            epoll = ends.enter_context(select.epoll())
            epoll.register(fd, select.EPOLLIN | (select.EPOLLET if "edge" in how else 0))
        waiter.start()
        if how == "select":
            assert select.select([fd], [], [], PATIENCE)[0] == [fd]
        elif how == "poll":
            poll = select.poll()
            poll.register(fd, select.POLLIN)
            assert poll.poll(PATIENCE * 1000) == [(fd, select.POLLIN)]
        else:
            assert epoll.poll(PATIENCE) == [(fd, select.EPOLLIN)]
    a.process_bast(fd)
    waiter.join(PATIENCE)
    assert not waiter.is_alive()
    assert code_of(a.lock, "x", TRY, EX) is ErrorCode.TRYLOCK_FAILED


def test_a_name_that_another_thread_waits_for(joined: list[Context]) -> None:
    a, b = joined
    fd = a.lock_with_bast("x", 0, EX, a.unlock, "x")
    waiter = threading.Thread(target=b.lock, args=("x", 0, EX))
    waiter.start()
    assert select.select([fd], [], [], PATIENCE)[0]
    assert code_of(b.lock, "x", 0, PR) is ErrorCode.RECURSIVE_LOCK
    assert code_of(b.unlock, "x") is ErrorCode.UNKNOWN_LOCK
    assert code_of(b.drop_lock, "x") is ErrorCode.BUSY_LOCK
    a.process_bast(fd)
    waiter.join(PATIENCE)
    b.unlock("x")


class Struck(Exception):
    """What the signal handler raises."""


def test_a_signal_ends_the_wait_and_leaves_nothing(joined: list[Context]) -> None:
    a, b = joined
    fd = a.lock_with_bast("x", 0, EX, a.unlock, "x")

    def strike(*_: object) -> None:
        raise Struck

    before = signal.signal(signal.SIGUSR1, strike)
    main = threading.get_ident()

    def when_it_waits() -> None:
        assert select.select([fd], [], [], PATIENCE)[0]
        signal.pthread_kill(main, signal.SIGUSR1)

    thread = threading.Thread(target=when_it_waits)
    thread.start()
    try:
        with pytest.raises(Struck):
            b.lock("x", 0, EX)
    finally:
        thread.join()
        signal.signal(signal.SIGUSR1, before)
    assert code_of(b.unlock, "x") is ErrorCode.UNKNOWN_LOCK
    a.unlock("x")
    b.lock("x", 0, EX)
    assert code_of(a.lock, "x", TRY, EX) is ErrorCode.TRYLOCK_FAILED


# Places agree.


def test_a_stack_and_a_mount_over_it_share_locks(mounted: Mounts, host: Path, domain: str) -> None:
    with (
        o2dlm.initialize(mounted(1).path, domain) as files,
        o2dlm.initialize(f"host:{host}", domain) as direct,
        pydlm.connect(domain, f"host:{host}") as ls,
    ):
        fd = files.lock_with_bast("x", 0, EX, files.unlock, "x")
        files.write_lvb("x", b"from a file")
        waiter = threading.Thread(target=direct.lock, args=("x", 0, EX))
        waiter.start()
        assert select.select([fd], [], [], PATIENCE)[0]
        files.process_bast(fd)
        waiter.join(PATIENCE)
        assert direct.read_lvb("x", 11) == b"from a file"
        direct.write_lvb("x", b"from a stack")
        direct.unlock("x")
        with ls.lock("x") as raw:
            assert raw.lvb[:12] == b"from a stack"
        files.lock("x", 0, PR)
        assert files.read_lvb("x", 12) == b"from a stack"


def test_clients_that_come_and_go_at_once(where: Callable[[int], str], domain: str) -> None:
    """Who joins while the last one removes the domain makes it again."""
    failed: list[BaseException] = []

    def come_and_go() -> None:
        try:
            for _ in range(40):
                with o2dlm.initialize(where(1), domain) as context:
                    context.lock("x", 0, PR)
        except BaseException as error:
            failed.append(error)

    where(1)
    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
