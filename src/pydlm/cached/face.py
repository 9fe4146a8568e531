"""What can be seen of a cached lock, and its lock value block: for threads and tasks alike."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any, NoReturn

from pydlm._core import Gate, Mailbox
from pydlm.blocking.arguments import block_value
from pydlm.cached.kept import Kept
from pydlm.cached.values import Codec, pair_of
from pydlm.contract import Stack
from pydlm.errors import (
    BadArgument,
    Busy,
    Closed,
    Forked,
    LockTimeout,
    NotHeld,
    Unsupported,
    WouldBlock,
)
from pydlm.types import Mode

__all__ = ["Face"]


class Face(Gate):
    """A cached lock but for what waits."""

    def __init__(
        self,
        stack: Stack,
        left: Callable[[Any], object] | Mailbox,
        name: bytes,
        on_drop: Callable[[Any, Mode], object] | None,
        exclusion: bool | None,
        codec: Codec | None,
    ) -> None:
        super().__init__(exclusion is None or exclusion, left)
        self._stack = stack
        self._kept = Kept(self, name, stack, on_drop)
        self._on_drop = on_drop
        self._codec = codec
        self._functions = None if codec is None else pair_of(codec, stack.lvb_len)

    def __repr__(self) -> str:
        machine = self._kept.machine
        return (
            f"<{'closed ' if machine.closed else ''}pydlm.{type(self).__name__} {self.name!r} "
            f"{self.level}, {self.shared_uses} shared and {self.exclusive_uses} exclusive uses, "
            f"at {id(self):#x}>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"cannot copy or pickle {type(self).__name__!r}: it is one of its kind")

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
        """The strictest mode that others want and have not been given yet, or None.

        It may be stale: nobody tells when those who wanted it have given up. Then it stays until
        the lock has been let go for them.
        """
        return self._kept.machine.blocking or None

    # The lock value block.

    @property
    def lvb(self) -> bytes:
        """The lock value block, `lvb_len` bytes; readable in a use and in on_drop, else NotHeld.

        Raises LVBInvalid if whoever was changing it died. Set it in an exclusive use, or
        in on_drop while the level is EX, to at most `lvb_len` bytes, padded with zeros; this node
        sees it at once, others when the lock is let go.
        """
        self._check_held(Mode.PR, "read in a use")
        return self._kept.block.read(self._kept.name, "in an exclusive use")

    @lvb.setter
    def lvb(self, value: bytes, /) -> None:
        raw = block_value(value, self._stack.lvb_len)
        self._check_held(Mode.EX, "written in an exclusive use")
        self._kept.block.written = raw

    @property
    def lvb_valid(self) -> bool:
        """Whether the lock value block may be believed."""
        self._check_held(Mode.PR, "read in a use")
        return self._kept.block.is_valid()

    @property
    def value(self) -> Any:
        """What the lock value block stands for, by the lock's `codec`; else as `lvb`."""
        return self._converters()[1](self.lvb)

    @value.setter
    def value(self, value: Any, /) -> None:
        self.lvb = self._converters()[0](value)

    # How it works inside.

    def _check_options(self, on_drop: Any, exclusion: bool | None, codec: Codec | None) -> None:
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
        if "lvb" not in self._stack.capabilities:
            raise Unsupported(f"the stack {self._stack.name!r} keeps no lock value blocks")
        if self._kept.machine.gone:
            raise Closed("the cached lock is closed")
        used = self.exclusive_uses or (mode < Mode.EX and self.shared_uses)
        if self.level < mode or not (used or self._runs_on_drop()):
            raise NotHeld(f"the lock value block can be {what} or in on_drop only; see level")

    def _not_had(
        self, exclusive: bool, blocking: bool, timeout: float, *, own: bool, expired: bool
    ) -> Exception:
        """Return what to raise where no use could be had; `own`: in the lock's own on_drop."""
        what = (
            f"the cached lock {self.name!r} could not be had {'alone' if exclusive else 'shared'}"
        )
        if blocking and own:
            return Busy(f"{what} in its own on_drop: it would wait for itself")
        if expired or blocking:
            return LockTimeout(f"{what} within {timeout} seconds")
        return WouldBlock(f"{what} at once")

    def _runs_on_drop(self) -> bool:
        """Return whether the lock's on_drop runs now."""
        raise NotImplementedError

    def _converters(self) -> tuple[Callable[[Any], bytes], Callable[[bytes], Any]]:
        if self._functions is None:
            raise BadArgument("the cached lock has no codec; give one to Lockspace.cached")
        return self._functions
