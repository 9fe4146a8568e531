"""The context: a domain that was joined, and the locks held through it, one for each name."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pydlm.o2dlm.codes import (
    O2DLM_LOCK_ID_MAX_LEN,
    O2DLM_TRYLOCK,
    ErrorCode,
    Level,
    O2dlmError,
)
from pydlm.o2dlm.domain import Domain, HeldLock

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Context"]

#: Bytes of a lock value block on a dlmfs (USER_DLM_LVB_LEN); stacks may have other sizes.
_LVB_LEN: Final = 64


class Context:
    """A domain joined by :func:`pydlm.o2dlm.initialize`: libo2dlm's ``struct o2dlm_ctxt``.

    The calls are its methods, and functions of `pydlm.o2dlm` that take it first, as in C:
    ``ctxt.lock("a", 0, level)`` is ``o2dlm.lock(ctxt, "a", 0, level)``. Leaving a `with` block
    destroys it. A lock belongs to the context, not to a thread; each name is held once.

    All calls raise :class:`~pydlm.o2dlm.O2dlmError`; those on a destroyed context with
    INVALID_ARGS.
    """

    def __init__(self, domain: Domain, name: str) -> None:
        self._domain = domain
        self._name = name
        # Each of these changes in one step, so threads need no lock.
        self._held: dict[bytes, HeldLock | _Taking] = {}
        self._basts: dict[int, tuple[Callable[[Any], object], Any]] = {}
        self._poll_fds: dict[bytes, int] = {}
        self._destroyed = False

    def __repr__(self) -> str:
        state = "destroyed" if self._destroyed else f"{len(self._held)} locks"
        return f"<pydlm.o2dlm.Context {self._name!r} {state}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Context cannot be copied or pickled; initialize another one")

    def __enter__(self) -> Self:
        self._check_live()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        if not self._destroyed:
            self.destroy()

    @property
    def capabilities(self) -> frozenset[str]:
        """What the place below can do, in the words of ocfs2_dlmfs: `bast`, `stackglue`."""
        return self._domain.capabilities

    def lock(self, lockid: str | bytes, lockflags: int, level: int) -> None:
        """Take the lock `lockid` in `level`, and wait for it unless `lockflags` has TRYLOCK.

        Names have 1 to 31 bytes; those with a leading dot are reserved. A signal ends the wait if
        its handler raises. Raises INVALID_LOCK_NAME, INVALID_LOCK_LEVEL; RECURSIVE_LOCK if the
        context holds it already, in whatever level; TRYLOCK_FAILED, also where another node merely
        keeps what was unlocked there, which a trylock does not make it let go; LOCKING for all
        else, `errno` saying why.
        """
        self._lock(_lock_name(lockid), lockflags, level)

    def lock_with_bast(
        self,
        lockid: str | bytes,
        lockflags: int,
        level: int,
        bast_func: Callable[[Any], object],
        bast_arg: Any = None,
    ) -> int:
        """Take a lock as `lock` does; return a descriptor that tells when another node wants it.

        It is readable (POLLIN) as long as that is so, in select, poll and epoll; then call
        :meth:`process_bast`. It belongs to the lock: do not close it, and forget it with `unlock`.
        Raises BAST_UNSUPPORTED where `capabilities` lack it, INVALID_ARGS if `bast_func` cannot
        be called, and as `lock`.
        """
        if not callable(bast_func):
            raise O2dlmError(
                ErrorCode.INVALID_ARGS, f"bast_func is a callable, not {type(bast_func).__name__}"
            )
        self._check_live()
        if "bast" not in self.capabilities:
            raise O2dlmError(
                ErrorCode.BAST_UNSUPPORTED, "what is below tells no holder that its lock is wanted"
            )
        name = _lock_name(lockid)
        held = self._lock(name, lockflags, level)
        try:
            descriptor = self._poll_fds[name] = held.fileno()
            self._basts[descriptor] = (bast_func, bast_arg)
        except BaseException:
            self.unlock(name)
            raise
        return descriptor

    def unlock(self, lockid: str | bytes) -> None:
        """Give a lock up. The node may keep it until another one asks.

        Raises UNKNOWN_LOCK; FAILED_UNLOCKS on a stack that has lost it, or after a fork.
        """
        self._check_live()
        name = _encoded(lockid)
        held = self._find(name)
        if self._held.pop(name, None) is not held:
            raise _unknown(name)  # another thread was faster
        self._basts.pop(self._poll_fds.pop(name, -1), None)
        held.unlock()

    def drop_lock(self, lockid: str | bytes) -> None:
        """Have the node forget a lock that it does not hold; others may hold it.

        The lock value block goes with the last node that knows the lock. Raises BUSY_LOCK while
        this context, or on a mount any process, holds it; UNLINK if it does not exist.
        """
        self._check_live()
        name = _encoded(lockid)
        if name in self._held:
            raise O2dlmError(ErrorCode.BUSY_LOCK, f"this context holds the lock {name!r}")
        self._domain.drop(name)

    def read_lvb(self, lockid: str | bytes, length: int = _LVB_LEN) -> bytes:
        """Return the first `length` bytes of a held lock's value block, or all if it has fewer.

        Raises LVB_INVALID if whoever was changing it died; UNKNOWN_LOCK, LVB_READ; INVALID_ARGS
        for less than one byte.
        """
        self._check_live()
        held = self._find(_encoded(lockid))
        if length < 1:
            raise O2dlmError(ErrorCode.INVALID_ARGS, f"cannot read {length} bytes")
        block = held.read(length)
        if not block:
            raise O2dlmError(
                ErrorCode.LVB_INVALID,
                f"the lock value block of {lockid!r} is invalid: whoever was changing it died; "
                "rebuild what it stands for, then write it in EXMODE",
            )
        return block

    def write_lvb(self, lockid: str | bytes, lvb: bytes) -> int:
        """Put `lvb` at the beginning of the value block; return how many bytes it had room for.

        The rest of the block stays. Others see it when they get the lock. Raises UNKNOWN_LOCK;
        LVB_WRITE, with EBADF if the lock is held in PRMODE.
        """
        self._check_live()
        return self._find(_encoded(lockid)).write(bytes(lvb))

    def process_bast(self, poll_fd: int) -> None:
        """Call the function that `lock_with_bast` was given with this descriptor, in this thread.

        Does nothing for other descriptors. That somebody wants the lock is for the caller to
        know, from poll. The function may unlock. What it raises is raised here.
        """
        found = self._basts.get(poll_fd)
        if found is not None:
            bast_func, bast_arg = found
            bast_func(bast_arg)

    def destroy(self) -> None:
        """Unlock all, and leave the domain; no call is possible any more.

        On a mount, files that nobody holds are removed, then the domain, unless others are in it.
        Raises FAILED_UNLOCKS, UNLINK, DOMAIN_DIR, DOMAIN_DESTROY; it is left all the same.
        """
        self._check_live()
        self._destroyed = True
        self._basts.clear()
        failed: O2dlmError | None = None
        for name in list(self._held):
            held = self._held.pop(name)
            try:
                if not isinstance(held, _Taking):
                    held.unlock()
            except Exception as error:
                failed = O2dlmError(ErrorCode.FAILED_UNLOCKS, f"cannot unlock {name!r}: {error}")
                failed.__cause__ = error
        self._domain.leave()
        if failed is not None:
            raise failed

    # How it works inside.

    def _check_live(self) -> None:
        if self._destroyed:
            raise O2dlmError(ErrorCode.INVALID_ARGS, "the context has been destroyed")

    def _lock(self, name: bytes, lockflags: int, level: int) -> HeldLock:
        self._check_live()
        try:
            level = Level(level)
        except ValueError:
            raise O2dlmError(
                ErrorCode.INVALID_LOCK_LEVEL,
                f"{level!r} is neither O2DLM_LEVEL_PRMODE nor O2DLM_LEVEL_EXMODE",
            ) from None
        mark = _Taking()
        if self._held.setdefault(name, mark) is not mark:
            raise O2dlmError(
                ErrorCode.RECURSIVE_LOCK, f"this context holds or takes the lock {name!r} already"
            )
        try:
            held = self._domain.lock(name, level, trying=bool(lockflags & O2DLM_TRYLOCK))
        except BaseException:
            self._held.pop(name, None)
            raise
        self._held[name] = held
        if self._destroyed:  # by another thread, meanwhile
            del self._held[name]
            held.unlock()
            self._check_live()
        return held

    def _find(self, name: bytes) -> HeldLock:
        held = self._held.get(name)
        if held is None or isinstance(held, _Taking):
            raise _unknown(name)
        return held


class _Taking:
    """Stands for a lock that a thread waits for."""


def _unknown(name: bytes) -> O2dlmError:
    return O2dlmError(ErrorCode.UNKNOWN_LOCK, f"this context does not hold the lock {name!r}")


def _encoded(lockid: str | bytes) -> bytes:
    try:
        return lockid.encode() if isinstance(lockid, str) else bytes(lockid)
    except UnicodeEncodeError as error:
        raise O2dlmError(
            ErrorCode.INVALID_LOCK_NAME, f"lock name {lockid!r} cannot be encoded"
        ) from error


def _lock_name(lockid: str | bytes) -> bytes:
    """Return the name of a lock to take."""
    name = _encoded(lockid)
    if name.startswith(b".") or len(name) >= O2DLM_LOCK_ID_MAX_LEN or b"\0" in name:
        raise O2dlmError(
            ErrorCode.INVALID_LOCK_NAME,
            f"lock name {name!r} is not at most 31 bytes without NUL and a leading dot",
        )
    return name
