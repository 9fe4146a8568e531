"""A naive model of one fs/dlm lockspace: the oracle that the real core is compared with.

    model = Model()
    a, b = model.client(), model.client()
    lkid = a.lock(b"r", Mode.EX)
    b.lock(b"r", Mode.PR)
    a.dispatch()    # [Completion(...), Blocked(lkid, PR)]

`Model(kernel=True)` behaves as the recordings of the kernel do throughout. Without it, three
things are as pydlm has them: an lkid is good for the client that owns the lock and as long as
the lock lives; no node is the master of a resource, so that no node's death takes a lock value
block with it; and of a resource without locks nothing at all is kept.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydlm.errors import BadArgument, Busy, NoSuchLock, WouldBlock
from pydlm.testing import rules
from pydlm.testing.resource import Cast, ModelLock, Notice, Resource
from pydlm.testing.rules import LvbMove, lvb_move
from pydlm.types import Blocked, Completion, LockFlag, LockStatus, Mode, Queue, StatusFlag

__all__ = ["Model", "ModelClient"]


class Model:
    """One lockspace."""

    def __init__(self, lvb_len: int = 32, *, kernel: bool = False) -> None:
        self.lvb_len = lvb_len
        self.kernel = kernel
        self.clients: list[ModelClient] = []
        self.resources: dict[bytes, Resource] = {}
        self.lkids: dict[int, ModelLock] = {}
        self.orphans: list[ModelLock] = []
        self._last_lkid = 0
        self._left_invalid: set[bytes] = set()

    def client(self, node: int = 1) -> ModelClient:
        """Connect a client that runs on `node`."""
        client = ModelClient(self, len(self.clients) + 1, node)
        self.clients.append(client)
        return client

    def locks(self) -> Iterator[ModelLock]:
        """Return all locks."""
        for resource in self.resources.values():
            yield from resource.locks()

    def kill_node(self, node: int) -> None:
        """Let all clients of a node die, and the node with them: no orphan stays."""
        dead = [client for client in self.clients if client.node == node and client.alive]
        for client in dead:
            client.abandon()
        for client in dead:
            self.purge(client.this_node)
        for resource in self.resources.values():
            if self.kernel and resource.master == node:
                resource.rebuild_lvb()

    def purge(self, owner: int) -> None:
        """Drop the orphans of the dead client `owner`; 0: of all."""
        for lock in [lock for lock in self.orphans if owner in (0, lock.owner)]:
            self.orphans.remove(lock)
            self.drop(lock)

    def drop(self, lock: ModelLock) -> None:
        """Unlock as for a dead client: what it may have been writing is invalid."""
        lock.flags |= LockFlag.FORCEUNLOCK | LockFlag.IVVALBLK
        lock.resource.unlock(lock)
        self.forget(lock)

    def new_lock(self, client: ModelClient, name: bytes) -> ModelLock:
        """Make a lock that is in no queue yet."""
        if self.kernel:
            lkid = next(n for n in range(1, len(self.lkids) + 2) if n not in self.lkids)
        else:
            lkid = self._last_lkid = self._last_lkid + 1
        resource = self.resources.get(name)
        if resource is None:
            resource = self.resources[name] = Resource(name, client.node)
            resource.invalid = name in self._left_invalid
        lock = self.lkids[lkid] = ModelLock(lkid, resource, client)
        return lock

    def forget(self, lock: ModelLock) -> None:
        """Drop what is left of a lock that is in no queue, and of a resource without locks."""
        if lock.queue is not Queue.NONE:
            return
        del self.lkids[lock.lkid]
        if lock.client is not None:
            lock.client.locks.remove(lock)
        if not lock.resource.locks():
            self.resources.pop(lock.resource.name, None)
            # The kernel keeps the empty resource for some seconds: not its LVB, but this.
            self._left_invalid.discard(lock.resource.name)
            if self.kernel and lock.resource.invalid:
                self._left_invalid.add(lock.resource.name)

    def invariants(self) -> None:
        """Check what must be true between any two calls; AssertionError says what is not."""
        locks = list(self.locks())
        assert {id(lock) for lock in locks} == {id(lock) for lock in self.lkids.values()}
        for resource in self.resources.values():
            assert resource.locks(), f"{resource.name!r} without locks"
            holders = [*resource.granted, *resource.converting]
            for one in holders:
                assert one.granted is not None, f"{one.lkid} granted without a mode"
                for other in holders:
                    together = one is other or one.granted.compatible(other.granted or Mode.NL)
                    assert together, f"{one.lkid} and {other.lkid} granted together"
            for lock in resource.converting:
                assert lock.queue is Queue.CONVERT and lock.requested is not None
            for lock in resource.granted:
                assert lock.queue is Queue.GRANTED
            for lock in resource.waiting:
                assert lock.queue is Queue.WAITING
                assert lock.granted is None and lock.requested is not None
        for lock in locks:
            owned = lock in self.orphans if lock.client is None else lock in lock.client.locks
            assert owned, f"{lock.lkid} belongs to nobody"


class ModelClient:
    """One connection: the verbs of the Stack contract, those of death, and nothing else."""

    def __init__(self, model: Model, this_node: int, node: int) -> None:
        self.model = model
        self.this_node = this_node
        self.node = node
        self.alive = True
        self.locks: list[ModelLock] = []  #: oldest first
        self.ready: list[ModelLock] = []  #: those with events to take

    @property
    def lvb_len(self) -> int:
        """Bytes in a lock value block."""
        return self.model.lvb_len

    def lock(self, name: bytes, mode: int, flags: LockFlag = LockFlag(0), *, lkid: int = 0) -> int:
        """Ask for a new lock; return its lkid. With CONVERT, as `convert`; with ORPHAN, adopt."""
        if flags & LockFlag.CONVERT:
            self.convert(lkid, mode, flags)
            return lkid
        rules.check_name(name)
        wanted = rules.check_mode(mode)
        rules.check_request_flags(wanted, flags)
        if flags & LockFlag.ORPHAN:
            return self._adopt(name, wanted, flags)
        lock = self.model.new_lock(self, name)
        self.locks.append(lock)
        lock.requested, lock.flags = wanted, flags
        if flags & LockFlag.VALBLK:
            lock.buffer, lock.has_lvb = bytes(self.lvb_len), True
        lock.resource.request(lock)
        self.model.forget(lock)
        return lock.lkid

    def _adopt(self, name: bytes, mode: Mode, flags: LockFlag) -> int:
        orphans = [lock for lock in self.model.orphans if lock.resource.name == name]
        if not orphans:
            raise NoSuchLock(f"no orphan of {name!r}")
        for lock in orphans:
            if lock.granted is mode:
                self.model.orphans.remove(lock)
                self.locks.append(lock)
                lock.client, lock.owner, lock.flags = self, self.this_node, flags
                # No completion says so, but the new owner knows which mode it has got.
                lock.seen = Cast(0, lock.granted, lock.status_flags)
                return lock.lkid
        raise WouldBlock(f"orphans of {name!r}, but none in {mode!r}")

    def convert(
        self, lkid: int, mode: int, flags: LockFlag = LockFlag(0), *, lvb: bytes | None = None
    ) -> None:
        """Ask for another mode of a granted lock."""
        lock = self._find(lkid)
        # Before any other check: also a call that fails leaves its traces here.
        self._give_buffer(lock, flags, lvb)
        wanted = rules.check_mode(mode)
        rules.check_convert_flags(flags)
        if lock.queue is not Queue.GRANTED:
            raise Busy(f"lock {lkid} has a request under way")
        if flags & LockFlag.QUECVT and not rules.quecvt_allowed(lock.granted, wanted):
            raise BadArgument(f"no QUECVT from {lock.granted!r} to {wanted!r}")
        lock.requested, lock.flags, lock.status_flags = wanted, flags, StatusFlag(0)
        lock.has_lvb = lock.buffer is not None
        lock.resource.convert(lock)

    def unlock(self, lkid: int, flags: LockFlag = LockFlag(0), *, lvb: bytes | None = None) -> None:
        """Drop a lock or, with CANCEL, take back what it waits for."""
        if lkid == 0:
            raise BadArgument("lkid 0")
        lock = self._find(lkid)
        cancel = flags & LockFlag.CANCEL
        if not cancel:
            self._give_buffer(lock, LockFlag(0), lvb)
        rules.check_unlock_flags(flags)
        if cancel and lock.flags & LockFlag.CANCEL:
            raise BadArgument(f"lock {lkid} has been cancelled already")
        if flags & LockFlag.FORCEUNLOCK and lock.flags & LockFlag.FORCEUNLOCK:
            raise BadArgument(f"lock {lkid} was asked for with FORCEUNLOCK")
        if cancel:
            self._cancel(lock, flags)
            return
        lock.flags |= flags
        lock.status_flags = StatusFlag(0)
        lock.resource.unlock(lock)
        self.model.forget(lock)

    def deadlock_cancel(self, lkid: int) -> None:
        """Take back what a lock waits for, as the victim of a deadlock: EDEADLK."""
        if lkid == 0:
            raise BadArgument("lkid 0")
        lock = self._find(lkid)
        if lock.queue is not Queue.GRANTED:
            lock.victim = True
        self._cancel(lock, LockFlag(0))

    def _cancel(self, lock: ModelLock, flags: LockFlag) -> None:
        if lock.queue is Queue.GRANTED:
            return
        lock.flags |= flags
        lock.status_flags = StatusFlag(0)
        lock.resource.cancel(lock)
        self.model.forget(lock)

    def purge(self, node: int) -> None:
        """Drop the orphans that the connection `node` left behind; 0: those of all."""
        self.model.purge(node)

    def abandon(self) -> None:
        """Die without goodbye. What was PERSISTENT and granted stays, as orphans."""
        self.alive = False
        for lock in [*self.locks]:
            if lock.flags & LockFlag.PERSISTENT:
                lock.resource.cancel(lock)
                if lock.queue is Queue.GRANTED:
                    self.locks.remove(lock)
                    self.model.orphans.append(lock)
                    lock.client = None
                    lock.pending.clear()
                else:
                    self.model.forget(lock)
            else:
                self.model.drop(lock)

    def disconnect(self) -> None:
        """Leave. The kernel sees no difference to death."""
        self.abandon()

    def dispatch(self, limit: int = 0) -> list[Completion | Blocked]:
        """Return the events that wait, those of one lock together, at most `limit` (0: all)."""
        events: list[Completion | Blocked] = []
        while self.ready and not (limit and len(events) >= limit):
            lock = self.ready[0]
            raw = lock.pending.pop(0)
            if not lock.pending:
                self.ready.pop(0)
            event = _deliver(lock, raw)
            if event is not None:
                events.append(event)
        return events

    def lvb(self, lkid: int) -> bytes:
        """Return the lock's own copy of the lock value block."""
        return self._find(lkid).buffer or bytes(self.lvb_len)

    def lvb_valid(self, lkid: int) -> bool:
        """Return whether the last completion said that the lock value block is valid."""
        seen = self._find(lkid).seen
        return seen is None or not seen.flags & StatusFlag.VALNOTVALID

    def lock_status(self, lkid: int) -> LockStatus:
        """Return what is known of a lock of this client."""
        return _status(self._find(lkid))

    def dump(self, name: bytes | None = None) -> list[LockStatus]:
        """List locks of all clients, of one resource or of all."""
        return [_status(lock) for lock in self.model.locks() if name in (None, lock.resource.name)]

    def _find(self, lkid: int) -> ModelLock:
        lock = self.model.lkids.get(lkid)
        if lock is None or (lock.client is not self and not self.model.kernel):
            raise NoSuchLock(f"no lock {lkid}")
        return lock

    def _give_buffer(self, lock: ModelLock, flags: LockFlag, lvb: bytes | None) -> None:
        """Put the caller's lock value block into the lock's copy, if it has or now gets one."""
        if lvb is not None and len(lvb) > self.lvb_len:
            raise BadArgument(f"lock value block of {len(lvb)} bytes, {self.lvb_len} at most")
        if flags & LockFlag.VALBLK and lock.buffer is None:
            lock.buffer = bytes(self.lvb_len)
        if lvb is not None and lock.buffer is not None:
            lock.buffer = lvb.ljust(self.lvb_len, b"\0")


def _deliver(lock: ModelLock, event: Cast | Notice) -> Completion | Blocked | None:
    """Return what the client gets for a queued event; None if it has lost its sense."""
    seen = lock.seen
    if isinstance(event, Notice):
        if seen is not None and (seen.mode is None or seen.mode.compatible(event.mode)):
            return None
        return Blocked(lock.lkid, event.mode)
    lock.seen = event
    lvb = None
    if event.status == 0 and lvb_move(seen.mode if seen else None, event.mode) is not LvbMove.WRITE:
        lvb = lock.buffer
    return Completion(lock.lkid, event.status, event.flags, event.mode, lvb)


def _status(lock: ModelLock) -> LockStatus:
    requested = None if lock.queue is Queue.GRANTED else lock.requested
    owner = 0 if lock.client is None else lock.owner
    return LockStatus(
        lock.lkid, lock.resource.name, owner, lock.queue, lock.granted, requested, 0, 0, 0.0
    )
