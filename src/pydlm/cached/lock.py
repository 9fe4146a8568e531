"""The cached lock as the user sees it."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from time import monotonic
from typing import TYPE_CHECKING, Any, NoReturn

from pydlm._core import Gate
from pydlm.blocking.arguments import block_value
from pydlm.blocking.reader import EventFd
from pydlm.cached.actions import Outcome
from pydlm.cached.kept import Kept, ThreadWaiter
from pydlm.cached.values import Codec, pair_of
from pydlm.errors import (
    BadArgument,
    Busy,
    Closed,
    Forked,
    LockTimeout,
    LVBInvalid,
    NotHeld,
    Unsupported,
    WouldBlock,
)
from pydlm.types import Mode

if TYPE_CHECKING:
    from pydlm.cached.keeper import Keeper

__all__ = ["CachedLock", "OnDrop"]


class CachedLock(Gate):
    """A lock that the connection keeps, though nobody uses it, until somebody else asks.

    ``with lock.shared():`` and ``with lock.exclusive():`` use it. While the level that is kept
    suffices, that asks nobody: others get the lock when the uses in their way have ended.
    Uses belong to no thread, and are not reentrant. Made by :meth:`pydlm.Lockspace.cached`.
    """

    def __init__(
        self,
        keeper: Keeper,
        name: bytes,
        on_drop: OnDrop | None,
        exclusion: bool,
        codec: Codec | None,
    ) -> None:
        super().__init__(exclusion, keeper.post)
        self._keeper = keeper
        self._kept = Kept(self, name, keeper.stack, on_drop)
        self._on_drop = on_drop
        self._codec = codec
        self._functions = None if codec is None else pair_of(codec, keeper.stack.lvb_len)

    def __repr__(self) -> str:
        machine = self._kept.machine
        return (
            f"<{'closed ' if machine.closed else ''}pydlm.CachedLock {self.name!r} "
            f"{self.level}, {self.shared_uses} shared and {self.exclusive_uses} exclusive uses, "
            f"at {id(self):#x}>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot copy or pickle {type(self).__name__!r}: it is one of its kind")

    # What it is like now.

    @property
    def name(self) -> bytes:
        """The resource's name."""
        return self._kept.name

    @property
    def level(self) -> Mode:
        """What the connection keeps now, used or not: NL, PR or EX."""
        return self._kept.machine.level

    @property
    def blocked(self) -> Mode | None:
        """The strictest mode that others want and have not been given yet, or None."""
        return self._kept.machine.blocking or None

    def fileno(self) -> int:
        """Return a descriptor that is readable as long as `blocked` is not None.

        Made on first use, owned by the lock. Raises OSError where there are no more descriptors.
        """
        self._check_live()
        kept = self._kept
        if kept.machine.closed:
            raise Closed("the cached lock is closed")
        descriptor = kept.descriptor
        if descriptor is None:
            descriptor = kept.descriptor = EventFd()
            self._keeper.ask(kept, kept.machine.ended)  # after which it is shown
        return descriptor.fileno()

    # The lock value block.

    @property
    def lvb(self) -> bytes:
        """The lock value block, `lvb_len` bytes; readable in a use and in on_drop, else NotHeld.

        Raises LVBInvalid if whoever was changing it died. Set it in an exclusive use, or
        in on_drop while the level is EX, to at most `lvb_len` bytes, padded with zeros; this node
        sees it at once, others when the lock is let go.
        """
        self._check_held(Mode.PR, "read in a use")
        block = self._kept.block
        if (written := block.written) is not None:
            return written
        if block.valid:
            return block.value
        raise LVBInvalid(
            f"the lock value block of {self.name!r} is invalid: whoever was changing it died; "
            "rebuild what it stands for and write it in an exclusive use"
        )

    @lvb.setter
    def lvb(self, value: bytes, /) -> None:
        raw = block_value(value, self._keeper.stack.lvb_len)
        self._check_held(Mode.EX, "written in an exclusive use")
        self._kept.block.written = raw

    @property
    def lvb_valid(self) -> bool:
        """Whether the lock value block may be believed."""
        self._check_held(Mode.PR, "read in a use")
        return self._kept.block.written is not None or self._kept.block.valid

    @property
    def value(self) -> Any:
        """What the lock value block stands for, by the lock's `codec`; else as `lvb`."""
        return self._converters()[1](self.lvb)

    @value.setter
    def value(self, value: Any, /) -> None:
        self.lvb = self._converters()[0](value)

    # Letting go.

    def drop(self) -> None:
        """Let go now, back to NL, as if somebody else wanted EX.

        Returns when that is through, on_drop included. While a use is under way it returns at
        once, and the lock is let go when the last one ends; so also in on_drop.
        """
        self._check_live()
        self._await(self._kept.machine.let_go)

    def close(self) -> None:
        """Let go for good. New and waiting uses raise Closed. Idempotent.

        Returns when the lock is gone, on_drop included. Uses that are under way go on: then it
        returns at once, and the lock is let go when the last one ends.
        """
        if self.forked or self._kept.machine.error is not None:
            return
        self._keeper.forget(self)
        try:
            self._await(self._kept.machine.close)
        except Closed:
            return

    # How it works inside.

    def _check_options(self, on_drop: OnDrop | None, exclusion: bool, codec: Codec | None) -> None:
        """Raise BadArgument unless the lock is as somebody else now asks for it."""
        for what, wanted, found in (
            ("on_drop", on_drop, self._on_drop),
            ("exclusion", exclusion, self.exclusion),
            ("codec", codec, self._codec),
        ):
            if wanted is not None and wanted != found:
                raise BadArgument(
                    f"the cached lock on {self.name!r} is open with {what} {found!r}, "
                    f"not {wanted!r}; leave {what} out, or close it first"
                )

    def _start(self) -> None:
        """Make the lock on the stack. Raises LockspaceFull, Closed."""
        self._await(self._kept.machine.attach)

    def _await(self, step: Callable[[ThreadWaiter], Any]) -> None:
        waiter = ThreadWaiter()
        self._keeper.ask(self._kept, step, waiter)
        if not self._keeper.is_own_thread():
            waiter.wait()

    def _begin(self, exclusive: bool, blocking: bool, timeout: float) -> None:
        """Take a use that the gate is not open to."""
        self._check_live()
        in_on_drop = self._runs_on_drop() and self._keeper.is_own_thread()
        waiter = ThreadWaiter(exclusive, trying=not blocking or in_on_drop)
        machine, ask = self._kept.machine, self._keeper.ask
        deadline = monotonic() + timeout
        try:
            ask(self._kept, machine.want, waiter)
            outcome = waiter.wait(None if timeout == -1 else deadline - monotonic())
            if outcome is None:
                ask(self._kept, machine.expire, waiter)
                outcome = waiter.wait()
        except BaseException:
            # Also where a signal handler raises: whatever the keeper has done for us is undone.
            self._keeper.post((self._kept, machine.abandon, (waiter,)))
            raise
        if outcome is Outcome.DONE:
            return
        what = (
            f"the cached lock {self.name!r} could not be had {'alone' if exclusive else 'shared'}"
        )
        if outcome is Outcome.EXPIRED:
            raise LockTimeout(f"{what} within {timeout} seconds")
        if blocking:
            raise Busy(f"{what} in its own on_drop: it would wait for itself")
        raise WouldBlock(f"{what} at once")

    def _check_live(self) -> None:
        if self.forked:
            raise Forked(
                "the cached lock belongs to the parent process; connect again in the child"
            )
        machine = self._kept.machine
        if machine.error is not None:
            raise copy(machine.error)

    def _check_held(self, mode: Mode, what: str) -> None:
        self._check_live()
        if "lvb" not in self._keeper.stack.capabilities:
            raise Unsupported(f"the stack {self._keeper.stack.name!r} keeps no lock value blocks")
        used = self.exclusive_uses or (mode < Mode.EX and self.shared_uses)
        if self.level < mode or not (used or self._runs_on_drop()):
            raise NotHeld(f"the lock value block can be {what} or in on_drop only; see level")

    def _runs_on_drop(self) -> bool:
        return self._keeper.callbacks.running is self._kept

    def _converters(self) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
        if self._functions is None:
            raise BadArgument("the cached lock has no codec; give one to Lockspace.cached")
        return self._functions


#: Called with the lock and the level that it is about to fall to, NL or PR.
OnDrop = Callable[[CachedLock, Mode], object]
