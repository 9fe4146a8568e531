"""Checks of a stack's own verbs, and of what it says it cannot do."""

from __future__ import annotations

from functools import partial

from pydlm.errors import BadArgument, Closed, NoSuchLock, Unsupported
from pydlm.testing.conformance.ground import Ground, check, expect, expect_error
from pydlm.types import EUNLOCK, LockFlag, Mode

__all__: list[str] = []


@check()
def _completions(g: Ground) -> None:
    """Each request ends with one completion, which says how."""
    lkid = g.take(g.a, name := g.name(), Mode.EX, LockFlag(0))
    status = g.a.stack.lock_status(lkid)
    expect((status.lkid, status.name, status.granted), (lkid, name, Mode.EX), "lock_status")
    g.a.stack.unlock(lkid)
    expect(g.completion(g.a, lkid).status, EUNLOCK, "the status of an unlock")
    expect_error(NoSuchLock, lambda: g.a.stack.unlock(lkid), "unlock of a lock that is gone")


@check()
def _names(g: Ground) -> None:
    """Names that cannot be are refused."""
    for name in (b"", b"x" * 65):
        expect_error(BadArgument, partial(g.a.lock, name), f"the name {name[:2]!r}...")
    long = partial(g.a.stack.lock, b"x" * 65, Mode.EX)
    expect_error(BadArgument, long, "a request for too long a name")


@check()
def _closed(g: Ground) -> None:
    """Who leaves gives up all it had, and can do nothing more."""
    name = g.name()
    third, keeps = g.connect(0), g.b.lock(name)
    lock = third.lock(name)
    lock.acquire()
    call = g.waiting(keeps, keeps.acquire)
    third.close()
    third.close()
    expect(call.result(), True, "acquire of what somebody had who left")
    keeps.release()
    for what in (lambda: third.lock(name), lock.acquire, third.dispatch, third.fileno):
        expect_error(Closed, what, "a call after close")


@check("persistent")
def _orphan(g: Ground) -> None:
    """A persistent lock outlives its client, excludes others, and can be adopted."""
    name = g.name()
    third = g.connect(0)
    g.take(third, name, Mode.EX, LockFlag.PERSISTENT)
    third.close()
    other = g.b.lock(name)
    expect(other.acquire(timeout=0.05), False, "EX beside an orphan")
    lkid = g.a.stack.lock(name, Mode.EX, LockFlag.ORPHAN)
    g.a.stack.unlock(lkid)
    expect(g.completion(g.a, lkid).status, EUNLOCK, "the status of an adopted lock's unlock")
    expect(other.acquire(timeout=20), True, "EX after it")
    other.release()


@check("fencing")
def _tokens(g: Ground) -> None:
    """Each grant has a higher token than the one before."""
    name, seen = g.name(), list[int]()
    locks = g.locks(name)
    for lock in locks * 2:
        with lock:
            seen.append(lock.token)
    expect(seen, sorted(set(seen)), "tokens")


@check("dump")
def _dump(g: Ground) -> None:
    """The locks of all connections are listed."""
    with g.a.lock(name := g.name()), g.b.lock(g.name()):
        expect([status.granted for status in g.b.dump(name)], [Mode.EX], "the list of locks")


def _lacking(capability: str) -> None:
    def lacking(g: Ground) -> None:
        lock = g.a.lock(g.name())
        calls = {
            "modes6": lambda: lock.acquire(mode=Mode.CW),
            "convert": lambda: lock.acquire() and lock.convert(Mode.PR),
            "trylock": lambda: lock.acquire(blocking=False),
            "fencing": lambda: lock.token,
            "dump": lambda: list(g.a.dump()),
            "persistent": lambda: g.a.stack.purge(0),
        }
        expect_error(Unsupported, calls[capability], f"a call that needs {capability!r}")
        lock.close()

    lacking.__name__ = f"no_{capability}"
    check(lacks=capability)(lacking)


for _word in ("modes6", "convert", "trylock", "fencing", "dump", "persistent"):
    _lacking(_word)
