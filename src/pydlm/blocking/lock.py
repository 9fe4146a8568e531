"""The handle: a lock as the user sees it."""

from __future__ import annotations

import contextlib
import warnings
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, final

from pydlm.blocking.arguments import (
    block_value,
    deadline_of,
    held_mode,
    refuse_mode,
    seconds_of,
)
from pydlm.blocking.held import Held
from pydlm.blocking.machine import Machine, Phase, may_wait
from pydlm.blocking.reader import EventFd, Wait
from pydlm.contract import Lock
from pydlm.errors import Busy, Cancelled, Closed, DeadlockError, DlmError, Forked, NotHeld
from pydlm.types import LockFlag, Mode

if TYPE_CHECKING:
    from typing_extensions import Self

    from pydlm.blocking.connection import BlockingLocks

__all__ = ["StackLock"]


@final
class StackLock(Machine, Lock):
    """A lock on one resource, as :class:`pydlm.contract.Lock` documents it.

    It belongs to the handle: whoever has the handle may release it, in whatever thread.
    Acquiring it again through the same handle waits, first come, first served.

    An exception that a signal handler raises inside of `acquire`, `__enter__` or `convert` leaves
    nothing behind: what was asked for is taken back, what was granted is given back. Inside of
    `release` or `__exit__` the lock is released, or, where the exception came before the first
    step, held as before: `locked` says which. All this as far as the stack's own verbs, should they
    be written in Python, either have taken effect when they raise or have not.
    """

    __slots__ = ()

    def __init__(self, locks: BlockingLocks, name: bytes) -> None:
        super().__init__(locks, name)
        if locks.keeps_null:
            w = Wait()
            with locks.guard:
                locks.check_live()
                # NL is compatible with all, and EXPEDITE passes whoever waits: granted at once.
                self._request(w, Phase.RELEASING, Mode.NL, LockFlag.EXPEDITE)
            self._see_through(w, None)
            self._had(w, Mode.NL)

    def __init_subclass__(cls) -> NoReturn:
        raise TypeError("a StackLock is no base class; wrap it instead")

    def __del__(self) -> None:
        # One whose __init__ was not finished has no phase.
        if getattr(self, "_phase", Phase.SHUT) is Phase.SHUT or not self._conn.alive:
            return
        locks = self._conn
        held = self._granted > Mode.NL
        if self._lkid:
            urgent = held or self._asked is not None
            locks.discard(self._lkid, *self._last_words(), urgent=urgent)
        if held:
            warnings.warn(
                f"{self!r} was held when its last reference went; it has been released",
                ResourceWarning,
                stacklevel=2,
            )

    def __repr__(self) -> str:
        if self._phase is Phase.SHUT or not self._conn.alive:
            return f"<closed pydlm.Lock object at {id(self):#x}>"
        return (
            f"<{'locked' if self.locked() else 'unlocked'} pydlm.Lock object "
            f"{self._name!r} {self._granted.name} at {id(self):#x}>"
        )

    # Taking and giving up.

    def acquire(self, blocking: bool = True, timeout: float = -1, *, mode: Mode = Mode.EX) -> bool:
        """Take the lock; return whether it could be had in time."""
        refuse_mode(blocking, timeout)
        terms = self._terms(mode, blocking, timeout)
        w = Wait(acquiring=True)
        try:
            return self._take(w, *terms)
        except BaseException as error:
            self._leave(w, error)
            raise

    def _take(
        self, w: Wait, mode: Mode, flags: LockFlag, blocking: bool, deadline: float | None
    ) -> bool:
        """Acquire, for one who has to `_leave` by whatever is raised before it has returned."""
        if not self._use(w, mode, flags, blocking, deadline):
            return False
        self._see_through(w, deadline)
        return self._had(w, mode)

    def _use(
        self, w: Wait, mode: Mode, flags: LockFlag, blocking: bool, deadline: float | None
    ) -> bool:
        """Make the request when it is our turn to use the handle; False: not in time."""
        with self._conn.guard:
            self._check_open()
            if self._phase is Phase.IDLE:
                self._request(w, Phase.ASKING, mode, flags)
                return True
            if not blocking:
                return False
            self._line.append(w)
        self._conn.wait(w, deadline)
        with self._conn.guard:
            self._check_open()
            if w not in self._line:
                raise Cancelled("the wait was cancelled")
            called = self._phase is Phase.TURN and self._line[0] is w
            if called:
                self._phase, self._waiter = Phase.ASKING, w
            self._line.remove(w)
            if called:
                self._request(w, Phase.ASKING, mode, flags)
        return called

    def release(self) -> None:
        """Give the lock up; returns when the lock manager has confirmed it."""
        w = Wait()
        try:
            with self._conn.guard:
                self._check_open()
                if self._phase is Phase.CONVERTING:
                    raise Busy("release of a lock that is being converted; cancel() that first")
                if self._phase is not Phase.HELD:
                    raise NotHeld("release unlocked lock")
                self._request(w, Phase.RELEASING, Mode.NL)
            self._see_through(w, None)
        except BaseException as error:
            self._leave(w, error)
            raise
        self._had(w, Mode.NL)

    def convert(self, mode: Mode, blocking: bool = True, timeout: float = -1) -> bool:
        """Change the mode in place; return whether it could be had in time."""
        mode, flags, _, deadline = self._terms(mode, blocking, timeout)
        self._require("convert", "change the mode of a lock in place")
        w = Wait()
        try:
            with self._conn.guard:
                self._check_open()
                if self._phase in (Phase.ASKING, Phase.CONVERTING):
                    raise Busy("a conversion of this lock is under way")
                if self._phase is not Phase.HELD:
                    raise NotHeld("convert of a lock that is not held; acquire it in that mode")
                if may_wait(self._granted, mode):
                    w.before = self._granted
                self._request(w, Phase.CONVERTING, mode, flags)
            self._see_through(w, deadline)
            return self._had(w, mode)
        except BaseException as error:
            self._leave(w, error)
            raise

    def cancel(self) -> bool:
        """End all waits through this handle with Cancelled; return whether there were any."""
        with self._conn.guard:
            self._check_open()
            self._conn.pump()
            waits = self._dismiss()
            if self._phase in (Phase.ASKING, Phase.CONVERTING) and self._waiter is not None:
                self._require("cancel", "take back a request")
                self._waiter.dismissed = waits = True
                self._take_back()
        return waits

    def held(self, mode: Mode = Mode.EX, blocking: bool = True, timeout: float = -1) -> Held:
        """Return a context manager that holds the lock in `mode`."""
        return Held(self, held_mode(mode), bool(blocking), seconds_of(timeout))

    def __enter__(self) -> Self:
        # Not by `acquire`: an exception that strikes when that has returned would leave it held.
        w = Wait(acquiring=True)
        try:
            self._take(w, Mode.EX, LockFlag(0), True, None)
            return self
        except BaseException as error:
            self._leave(w, error)
            raise

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        # Why the body was left matters more than that somebody else has ended the hold.
        with contextlib.suppress(*(() if exc_type is None else (Closed, Forked, NotHeld))):
            self.release()

    def close(self) -> None:
        """Unlock, and end all waits through this handle with Closed. Idempotent.

        Should the stack fail to unlock it, that is raised, and the next call tries it again.
        """
        locks = self._conn
        if not locks.alive:
            self._phase = Phase.SHUT
            return
        if self._phase is Phase.SHUT and not self._lkid:
            return
        w = Wait()
        with contextlib.suppress(DlmError):  # the stack has nothing more to say of it
            with locks.guard:
                try:
                    locks.pump()  # it may have been granted, and be written back
                finally:
                    self._unlock_for_good(w)
                locks.pump()
            locks.wait(w, None)

    # What it is like now.

    @property
    def blocked(self) -> Mode | None:
        """The strictest mode that somebody has come to wait for because of this lock, or None.

        It stays until the lock is granted anew, though whoever waited may have gone.
        """
        self._require("bast", "tell whom a lock keeps waiting")
        with self._conn.guard:
            self._check_open()
            self._conn.pump()
            return self._blocked

    def locked(self) -> bool:
        """Return whether the lock is held through this handle."""
        return self._phase in (Phase.HELD, Phase.CONVERTING) and self._conn.alive

    def fileno(self) -> int:
        """Return an eventfd that is readable as long as `blocked` is not None.

        Made on first use, owned by the lock, gone with it. From the first one on, a thread of
        the connection reads the stack's events while no other does. Raises OSError where the
        process may have no more descriptors; the lock is unharmed.
        """
        self._require("bast", "tell whom a lock keeps waiting")
        with self._conn.guard:
            self._check_open()
            if self._fd is None:
                self._conn.pump()
                fd = EventFd()
                fd.show(self._blocked is not None)
                self._fd = fd
            self._conn.start_helper()
            return self._fd.fileno()

    # The lock value block.

    @property
    def lvb(self) -> bytes:
        """The lock value block, bytes of constant length; see the protocol."""
        with self._conn.guard:
            self._check_held(Mode.CR, "read")
            return self._block.read(self._name, "in EX")

    @lvb.setter
    def lvb(self, value: bytes, /) -> None:
        with self._conn.guard:
            written = block_value(value, self._conn.stack.lvb_len)
            self._check_held(Mode.PW, "written in PW or EX")
            self._block.written = written

    @property
    def lvb_valid(self) -> bool:
        """Whether the lock value block may be believed."""
        with self._conn.guard:
            self._check_held(Mode.CR, "read")
            return self._block.is_valid()

    # How it works inside.

    def _usable(self) -> Mode:
        return Mode.NL if self._phase is Phase.RELEASING else self._granted

    def _terms(
        self, mode: Mode, blocking: bool, timeout: float
    ) -> tuple[Mode, LockFlag, bool, float | None]:
        """Return what a request is made with, checked: mode, flags, blocking, deadline."""
        mode = held_mode(mode)
        deadline = deadline_of(blocking, timeout)
        flags = self._flags(mode, blocking, limited=deadline is not None)
        return mode, flags, blocking, deadline

    def _deadlock(self, mode: Mode) -> DeadlockError:
        with self._conn.guard:
            return super()._deadlock(mode)
