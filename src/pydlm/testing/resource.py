"""One resource of the model: its three queues, who is granted when, and who is told.

Naive on purpose: lists that are walked from the front, no counters, nothing remembered
that could be looked up. See `pydlm.testing.model` for what a client can do with it.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

from pydlm.testing.rules import LvbMove, lvb_move
from pydlm.types import ECANCEL, EUNLOCK, LockFlag, Mode, Queue, StatusFlag

if TYPE_CHECKING:
    from pydlm.testing.model import ModelClient

__all__ = ["Cast", "ModelLock", "Notice", "Resource"]


class Cast(NamedTuple):
    """A completion that its client has not taken yet."""

    status: int
    mode: Mode | None  #: granted mode after it
    flags: StatusFlag


class Notice(NamedTuple):
    """A blocking notice that its client has not taken yet."""

    mode: Mode


class ModelLock:
    """One lock, granted or not."""

    def __init__(self, lkid: int, resource: Resource, client: ModelClient) -> None:
        self.lkid = lkid
        self.resource = resource
        self.client: ModelClient | None = client  #: None: an orphan
        self.owner = client.this_node  #: client that made or adopted it, also once dead
        self.queue = Queue.NONE
        self.granted: Mode | None = None
        #: Stays set after a conversion failed with EAGAIN; `_insert_granted` still sees it.
        self.requested: Mode | None = None
        self.flags = LockFlag(0)  #: of the last lock or convert, with those of unlocks added
        self.status_flags = StatusFlag(0)
        self.told = Mode.NL  #: highest mode of a notice since the last grant
        self.buffer: bytes | None = None  #: its own copy of the lock value block, if it has one
        #: Whether `buffer` is exchanged with the resource. The buffer that a conversion brings is,
        #: from that conversion on; if the call fails, from the next one on that does not.
        self.has_lvb = False
        self.victim = False  #: the next cancel is reported as EDEADLK
        self.seq = 0  #: generation of the LVB in `buffer`
        self.pending: list[Cast | Notice] = []
        self.seen: Cast | None = None  #: the last completion its client took

    def report(self, status: int) -> None:
        """Queue a completion for the client."""
        if status == ECANCEL and self.victim:
            self.victim = False
            status = errno.EDEADLK
        self._queue_event(Cast(status, self.granted, self.status_flags))

    def notify(self, mode: Mode) -> None:
        """Queue a blocking notice, unless one directly before it says as much."""
        last = self.pending[-1] if self.pending else None
        if isinstance(last, Notice) and self.client:
            if not self.client.model.kernel:  # pydlm gives only the strictest
                self.pending[-1] = Notice(max(last.mode, mode))
                return
            # Above PR only: of PR and CW, neither says what the other does.
            if last.mode == mode or last.mode > max(mode, Mode.PR):
                return
        self._queue_event(Notice(mode))

    def _queue_event(self, event: Cast | Notice) -> None:
        if self.client is None or not self.client.alive:
            return
        # One lock's events stay together, at the place of the first of them.
        if not self.pending:
            self.client.ready.append(self)
        self.pending.append(event)


def _mode_number(mode: Mode | None) -> int:
    return -1 if mode is None else int(mode)


class Resource:
    """A name that is locked. It lives as long as it has locks."""

    def __init__(self, name: bytes, master: int) -> None:
        self.name = name
        self.master = master  #: node of who locked it first
        self.granted: list[ModelLock] = []
        self.converting: list[ModelLock] = []
        self.waiting: list[ModelLock] = []
        self.lvb: bytes | None = None  #: None: never written
        self.seq = 0  #: generation of `lvb`
        self.invalid = False

    def locks(self) -> list[ModelLock]:
        """Return all locks, by queue."""
        return [*self.granted, *self.converting, *self.waiting]

    # Verbs. Arguments have been checked, `lock.requested` and `lock.flags` are set.

    def request(self, lock: ModelLock) -> None:
        """Grant, queue or refuse a new lock."""
        if self._try(lock, now=True)[0]:
            self._grant(lock)
            lock.report(0)
        elif lock.flags & LockFlag.NOQUEUE:
            lock.report(errno.EAGAIN)
            if lock.flags & LockFlag.NOQUEUEBAST:
                self._tell_holders(lock, [*self.granted, *self.converting])
        else:
            self._move(lock, Queue.WAITING)
            self._tell_holders(lock, self.granted)

    def convert(self, lock: ModelLock) -> None:
        """Grant, queue or refuse the conversion of a granted lock."""
        granted, deadlock = self._try(lock, now=True)
        if granted:
            self._grant(lock)
            lock.report(0)
            self.grant_pending()
            return
        if deadlock and not lock.flags & LockFlag.NODLCKWT:
            lock.requested = None
            lock.report(errno.EDEADLK)
            return
        if lock.status_flags & StatusFlag.DEMOTED:
            # Its own demotion may have freed other converters, and they it.
            self._grant_converting()
            if self._allowed(lock, now=True):
                self._grant(lock)
                lock.report(0)
                self.grant_pending()
                return
        if lock.flags & LockFlag.NOQUEUE:
            lock.report(errno.EAGAIN)
            if lock.flags & LockFlag.NOQUEUEBAST:
                self._tell_holders(lock, [*self.granted, *self.converting])
        else:
            self._move(lock, Queue.CONVERT)
            self._tell_holders(lock, self.granted)

    def unlock(self, lock: ModelLock) -> None:
        """Drop a lock in whatever queue it is."""
        self._write_back(lock)
        self.remove(lock)
        lock.report(EUNLOCK)
        self.grant_pending()

    def cancel(self, lock: ModelLock) -> bool:
        """Take back what `lock` waits for. Return whether it waited."""
        waited = lock.queue is not Queue.GRANTED
        lock.requested = None
        if lock.queue is Queue.CONVERT:
            self._move(lock, Queue.GRANTED)
        elif lock.queue is Queue.WAITING:
            self.remove(lock)
        if waited:
            lock.report(ECANCEL)
            self.grant_pending()
        return waited

    # Queues.

    def _queue(self, queue: Queue) -> list[ModelLock]:
        return {
            Queue.NONE: [],
            Queue.GRANTED: self.granted,
            Queue.CONVERT: self.converting,
            Queue.WAITING: self.waiting,
        }[queue]

    def _move(self, lock: ModelLock, queue: Queue) -> None:
        if lock.queue is not Queue.NONE:
            self._queue(lock.queue).remove(lock)
        lock.queue = queue
        if queue is Queue.GRANTED:
            self._insert_granted(lock)
        elif lock.flags & LockFlag.HEADQUE:
            self._queue(queue).insert(0, lock)
        else:
            self._queue(queue).append(lock)

    def _insert_granted(self, lock: ModelLock) -> None:
        # Newest first, but behind those whose last conversion was refused in this mode or above.
        place = 0
        for other in self.granted:
            if _mode_number(other.requested) < _mode_number(lock.granted):
                break
            place += 1
        self.granted.insert(place, lock)

    def remove(self, lock: ModelLock) -> None:
        """Take a lock out of its queue without a word to anybody."""
        self._queue(lock.queue).remove(lock)
        lock.queue = Queue.NONE
        lock.granted = lock.requested = None

    # May it be granted?

    def _try(self, lock: ModelLock, *, now: bool) -> tuple[bool, bool]:
        """Return whether `lock` can be granted, and whether it never could.

        May demote it (CONVDEADLK) and may change what it asks for (ALTPR, ALTCW).
        """
        if self._allowed(lock, now=now):
            return True, False
        may_wait = not lock.flags & LockFlag.NOQUEUE
        if lock.granted is not None and may_wait and self._conversion_deadlock(lock):
            if lock.flags & LockFlag.CONVDEADLK:
                lock.granted = Mode.NL
                lock.status_flags |= StatusFlag.DEMOTED
                return False, False
            return False, True
        wanted = lock.requested
        if lock.flags & LockFlag.ALTPR and wanted is not Mode.PR:
            lock.requested = Mode.PR
        elif lock.flags & LockFlag.ALTCW and wanted is not Mode.CW:
            lock.requested = Mode.CW
        else:
            return False, False
        if self._allowed(lock, now=now):
            lock.status_flags |= StatusFlag.ALTMODE
            return True, False
        lock.requested = wanted
        return False, False

    def _allowed(self, lock: ModelLock, *, now: bool) -> bool:
        """Return whether the rules of order and compatibility let `lock` have what it asks for.

        `now`: it has just asked and is in no queue for it.
        """
        converting = lock.granted is not None
        if lock.flags & LockFlag.EXPEDITE:
            return True
        if any(_blocks(other, lock) for other in [*self.granted, *self.converting]):
            return False
        if now and converting:
            return not (lock.flags & LockFlag.QUECVT and self.converting)
        if lock.flags & LockFlag.NOORDER:
            return True
        if converting:
            return self.converting[0] is lock
        if self.converting:
            return False
        return not self.waiting if now else self.waiting[0] is lock

    def _conversion_deadlock(self, lock: ModelLock) -> bool:
        # One that is not queued yet would come last.
        queue = [*self.converting] if lock in self.converting else [*self.converting, lock]
        place = queue.index(lock)
        return any(_blocks(lock, ahead) for ahead in queue[:place]) or any(
            _blocks(lock, behind) and _blocks(behind, lock) for behind in queue[place + 1 :]
        )

    # Granting.

    def _grant(self, lock: ModelLock) -> None:
        self._exchange(lock)
        # A conversion to the mode it has leaves the lock where it is in the queue.
        if lock.granted is not lock.requested or lock.queue is not Queue.GRANTED:
            lock.granted = lock.requested
            self._move(lock, Queue.GRANTED)
        lock.requested = None
        lock.told = Mode.NL

    def grant_pending(self) -> None:
        """Grant what can be granted, converters first; then tell holders what is still wanted."""
        blocked = self._grant_converting()
        for lock in [*self.waiting]:
            if self._try(lock, now=False)[0]:
                self._grant(lock)
                lock.report(0)
            else:
                blocked.append(_wanted(lock))
        if blocked:
            high, cw = max(blocked), Mode.CW in blocked
            for holder in [*self.granted]:
                self._tell_of_highest(holder, high, cw)

    def _grant_converting(self) -> list[Mode]:
        """Grant converters until no more can be; return what the others ask for."""
        demoted_again = False
        while True:
            granted_one = demoted_one = False
            blocked: list[Mode] = []
            for lock in [*self.converting]:
                was_demoted = lock.status_flags & StatusFlag.DEMOTED
                granted, deadlock = self._try(lock, now=False)
                if granted:
                    self._grant(lock)
                    lock.report(0)
                    granted_one = True
                elif lock.status_flags & StatusFlag.DEMOTED and not was_demoted:
                    demoted_one = True
                elif deadlock:
                    if lock.flags & LockFlag.NODLCKWT and lock.told < _wanted(lock):
                        # Nobody is the victim: it is asked to give way itself.
                        lock.notify(_wanted(lock))
                        lock.told = _wanted(lock)
                else:
                    blocked.append(_wanted(lock))
            if demoted_one and not granted_one and not demoted_again:
                demoted_again = True
            elif not granted_one:
                return blocked

    # Blocking notices.

    def _tell_holders(self, lock: ModelLock, holders: list[ModelLock]) -> None:
        """Tell who keeps `lock` from what it has just asked for."""
        wanted = _wanted(lock)
        for holder in holders:
            # PR and CW exclude each other whichever was told before, so neither counts as higher.
            limit = Mode.EX if {holder.granted, wanted} == {Mode.PR, Mode.CW} else wanted
            if _blocks(holder, lock) and holder.told < limit:
                holder.notify(wanted)
                holder.told = wanted

    def _tell_of_highest(self, holder: ModelLock, high: Mode, cw: bool) -> None:
        """Tell a holder of the highest mode that waits; `cw`: some lock waits for CW."""
        if holder.granted is Mode.PR and cw:
            # PR is the higher number, but does not keep PR from anything.
            if holder.told is Mode.EX:
                return
            holder.notify(Mode.CW if high is Mode.PR else high)
        elif holder.told < high and holder.granted and not holder.granted.compatible(high):
            holder.notify(high)
        else:
            return
        holder.told = high

    # The lock value block.

    def _exchange(self, lock: ModelLock) -> None:
        """Read or write the lock value block, as a grant of `lock` does."""
        move = lvb_move(lock.granted, lock.requested)
        valblk = lock.flags & LockFlag.VALBLK
        if move is LvbMove.READ:
            # Never written: nothing to read, and nothing that could be invalid.
            if not lock.has_lvb or not valblk or self.lvb is None:
                return
            lock.buffer, lock.seq = self.lvb, self.seq
        elif move is LvbMove.WRITE:
            if lock.flags & LockFlag.IVVALBLK:
                self.invalid = True
                return
            if not lock.has_lvb or not valblk:
                return
            self._write(lock)
        if self.invalid:
            lock.status_flags |= StatusFlag.VALNOTVALID

    def _write_back(self, lock: ModelLock) -> None:
        """Write or invalidate the lock value block, as the unlock of `lock` does."""
        if lock.granted is None or lock.granted < Mode.PW:
            return
        if lock.flags & LockFlag.IVVALBLK:
            self.invalid = True
        elif lock.has_lvb and lock.flags & LockFlag.VALBLK:
            self._write(lock)

    def rebuild_lvb(self) -> None:
        """Take the LVB from the survivors' copies: the node that had it is dead (kernel only)."""
        holders = [*self.granted, *self.converting]
        copies = [k for k in holders if k.flags & LockFlag.VALBLK and k.has_lvb]
        self.lvb, self.seq, self.invalid = None, 0, False
        if not copies:
            return
        # While one of these is held nobody else writes: what it has is the last.
        safe = [lock for lock in copies if lock.granted is not None and lock.granted > Mode.CR]
        best = safe[0] if safe else max(reversed(copies), key=lambda lock: lock.seq)
        self.lvb, self.seq, self.invalid = best.buffer, best.seq, not safe

    def _write(self, lock: ModelLock) -> None:
        self.lvb = lock.buffer
        self.seq += 1
        lock.seq = self.seq
        self.invalid = False


def _wanted(lock: ModelLock) -> Mode:
    assert lock.requested is not None
    return lock.requested


def _blocks(holder: ModelLock, other: ModelLock) -> bool:
    """Return whether `holder` keeps `other` from the mode it asks for."""
    if holder is other or holder.granted is None or other.requested is None:
        return False
    return not holder.granted.compatible(other.requested)
