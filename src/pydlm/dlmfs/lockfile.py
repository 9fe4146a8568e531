"""A lock's file, and those who have it open or wait for that."""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections.abc import Callable

from pydlm.cached.actions import Outcome
from pydlm.cached.kept import Kept
from pydlm.dlmfs.domain import Domain, Uses, Wait
from pydlm.dlmfs.fuse import PollHandle, Request
from pydlm.errors import Closed, DlmError, LockLost
from pydlm.types import Mode

__all__ = ["LockFile", "NodeOwned", "OpenFile", "OpenOwned", "Watched"]


class Watched(Kept):
    """A lock. Those who sleep on its open files wake when it gets into somebody's way, or out."""

    def __init__(self, domain: Domain, name: bytes) -> None:
        self.uses = Uses()
        super().__init__(self.uses, name, domain.stack, None)
        self.open_files: set[OpenFile] = set()
        self._seen = (False, False)

    @property
    def is_blocking(self) -> bool:
        """Whether somebody elsewhere wants it."""
        return self.machine.blocking > Mode.NL

    @property
    def is_lost(self) -> bool:
        """Whether the lock manager has lost it."""
        return self.machine.error is not None

    def show_blocked(self) -> None:
        """Called after each step."""
        now = (self.is_blocking, self.is_lost)
        if now != self._seen:
            self._seen = now
            for opened in self.open_files:
                opened.wake()


class OpenFile:
    """An open file description: what dup(2) and fork(2) share."""

    __slots__ = ("appended", "exclusive", "file", "kept", "sleeper")

    def __init__(self, file: LockFile, kept: Watched, exclusive: bool) -> None:
        self.file = file
        self.kept = kept
        self.exclusive = exclusive
        #: Whoever sleeps in poll on it.
        self.sleeper: PollHandle | None = None
        self.appended = 0  #: where O_APPEND writes next

    def read(self) -> bytes:
        """Return the lock value block; nothing if it is invalid. Raises LockLost."""
        self._check_live()
        block = self.kept.block
        return block.written if block.written is not None else block.value if block.valid else b""

    def write(self, data: bytes, offset: int) -> int:
        """Change the block from `offset` on; return how many bytes fitted. Raises LockLost."""
        whole = self.read() or bytes(self.file.domain.size)
        end = min(offset + len(data), len(whole))
        self.kept.block.written = whole[:offset] + data[: end - offset] + whole[end:]
        return end - offset

    def sleep(self, sleeper: PollHandle) -> None:
        """Somebody sleeps in poll until something changes; one for the file stands for all."""
        if self.sleeper is not None:
            self.sleeper.destroy()
        self.sleeper = sleeper

    def wake(self) -> None:
        """Have those who sleep in poll look again."""
        if self.sleeper is not None:
            self.sleeper.notify()

    def close(self) -> None:
        """Its last descriptor is closed."""
        if self.sleeper is not None:
            self.sleeper.destroy()
        self.file.close(self)

    def _check_live(self) -> None:
        if self.kept.is_lost:
            raise LockLost(f"the lock manager has lost {self.file.name!r}")


class _Opening(Wait):
    """An `open` that waits for its lock."""

    __slots__ = ("file", "kept", "request", "then")

    def __init__(
        self,
        file: LockFile,
        kept: Watched,
        request: Request,
        exclusive: bool,
        trying: bool,
        then: Callable[[OpenFile], bool],
    ) -> None:
        super().__init__(file.domain, exclusive, trying)
        self.file = file
        self.kept = kept
        self.request = request
        self.then = then

    def interrupt(self) -> None:
        """Its process has got a signal."""
        self._give_up(errno.EINTR)

    def ended(self, outcome: Outcome | BaseException) -> None:
        """It has the lock, or will not have it."""
        if self.request.answered:
            return  # interrupted: nobody waits any more
        if outcome is Outcome.DONE and not self.file.doomed:
            self.file.waits -= 1
            self.file.begin(self.kept, self.exclusive, self.then)
        elif isinstance(outcome, Closed) or outcome is Outcome.DONE:
            self._give_up(errno.EAGAIN)
        elif isinstance(outcome, DlmError) and not isinstance(outcome, LockLost):
            self._give_up(outcome.errno or errno.EIO)
        elif isinstance(outcome, BaseException):
            self._give_up(errno.EIO)
        else:
            self._give_up(errno.ETXTBSY)

    def _give_up(self, number: int) -> None:
        self.request.fail(number)
        self.file.domain.step(self.kept, self.kept.machine.abandon(self))
        self.file.gave_up(self.kept)


class LockFile(ABC):
    """What a file does to its lock. Derived: by who owns it."""

    def __init__(self, domain: Domain, name: bytes) -> None:
        self.domain = domain
        self.name = name
        self.opens = 0  #: open files
        self.waits = 0  #: opens that have not been answered
        self._unlink: Request | None = None
        self._unlinked: Callable[[], object] | None = None

    @abstractmethod
    def _lock(self) -> Watched:
        """Return the lock that an open is to use."""

    @abstractmethod
    def _unused(self, kept: Watched) -> None:
        """A use of a lock that `_lock` returned has ended, or will not begin."""

    @abstractmethod
    def _rest(self) -> Watched | None:
        """Return the lock that is kept while the file is not open."""

    @property
    def doomed(self) -> bool:
        """Whether somebody is about to unlink it."""
        return self._unlink is not None

    def open(
        self,
        request: Request,
        exclusive: bool,
        trying: bool,
        then: Callable[[OpenFile], bool],
    ) -> None:
        """Take the lock. `then` answers the request, and returns whether that has arrived.

        Where the lock is not to be had, the request gets EAGAIN (the file goes away), ETXTBSY (not
        at once, with `trying`), EINTR, or what the stack says.
        """
        if self.doomed:
            request.fail(errno.EAGAIN)
            return
        kept = self._lock()
        if kept.uses.pass_(exclusive):
            self.begin(kept, exclusive, then)
            return
        opening = _Opening(self, kept, request, exclusive, trying, then)
        self.waits += 1
        self.domain.step(kept, kept.machine.want(opening))
        self.domain.settle()
        if not request.answered:
            request.on_interrupt(opening.interrupt)

    def begin(self, kept: Watched, exclusive: bool, then: Callable[[OpenFile], bool]) -> None:
        """An open has the lock."""
        opened = OpenFile(self, kept, exclusive)
        kept.open_files.add(opened)
        self.opens += 1
        if not then(opened):
            opened.close()

    def close(self, opened: OpenFile) -> None:
        """An open file is no more."""
        kept = opened.kept
        kept.open_files.remove(opened)
        self.opens -= 1
        if kept.uses.leave(opened.exclusive):
            self.domain.step(kept, kept.machine.ended())
            self.domain.settle()
        self._unused(kept)

    def gave_up(self, kept: Watched) -> None:
        """An open has not had the lock."""
        self.waits -= 1
        self._unused(kept)
        if self.doomed and not self.waits:
            self._destroy()
        self.domain.settle()

    def unlink(self, request: Request, then: Callable[[], object]) -> None:
        """Destroy the lock, then call `then` and answer: EBUSY while it is open.

        Who waits to open it goes on waiting, in vain; so long does this wait too.
        """
        if self.opens or self.doomed:
            request.fail(errno.EBUSY)
            return
        self._unlink, self._unlinked = request, then
        if self.waits:
            request.on_interrupt(self._spare)
        else:
            self._destroy()
            self.domain.settle()

    # How it works inside.

    def _new_lock(self) -> Watched:
        """Return a lock that is about to be attached."""
        kept = Watched(self.domain, self.name)
        self.domain.step(kept, kept.machine.attach(Wait(self.domain)))
        return kept

    def _spare(self) -> None:
        """Whoever wanted to unlink it has got a signal."""
        if self.waits and self._unlink is not None:  # else it is being done already
            request, self._unlink = self._unlink, None
            request.fail(errno.EINTR)

    def _destroy(self) -> None:
        kept = self._rest()
        if kept is None or kept.machine.gone:
            self.destroyed()
        else:
            self.domain.step(kept, kept.machine.close(_Destroyed(self)))

    def destroyed(self) -> None:
        """There is no lock any more."""
        request, then = self._unlink, self._unlinked
        assert request is not None and then is not None
        then()
        request.done()


class _Destroyed(Wait):
    """The unlock of a file that is unlinked."""

    __slots__ = ("_file",)

    def __init__(self, file: LockFile) -> None:
        super().__init__(file.domain)
        self._file = file

    def ended(self, _outcome: Outcome | BaseException) -> None:
        self._file.destroyed()


class NodeOwned(LockFile):
    """The node owns the lock, and keeps it when nobody uses it: as ocfs2_dlmfs."""

    def __init__(self, domain: Domain, name: bytes) -> None:
        super().__init__(domain, name)
        self._kept: Watched | None = None

    def _lock(self) -> Watched:
        if self._kept is None or self._kept.machine.closed:
            self._kept = self._new_lock()
        return self._kept

    def _unused(self, kept: Watched) -> None:
        pass

    def _rest(self) -> Watched | None:
        return self._kept


class OpenOwned(LockFile):
    """Each open file owns a lock of its own. One more, in NL, keeps the lock value block alive."""

    def __init__(self, domain: Domain, name: bytes) -> None:
        super().__init__(domain, name)
        self._anchor: Watched | None = None

    def _lock(self) -> Watched:
        if self._anchor is None or self._anchor.machine.closed:
            self._anchor = self._new_lock()
        return self._new_lock()

    def _unused(self, kept: Watched) -> None:
        if not kept.machine.closed:
            self.domain.step(kept, kept.machine.close(Wait(self.domain)))
            self.domain.settle()

    def _rest(self) -> Watched | None:
        return self._anchor
