"""One request of the kernel's, which is answered exactly once, now or later."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from pydlm.dlmfs.fuse.session import Session

__all__ = ["Attributes", "Caller", "Request"]

_log = logging.getLogger("pydlm")

#: Seconds for which the kernel need not ask again: nothing changes but through it.
_FOR_EVER = 1e9


class Attributes(NamedTuple):
    """What `stat` shows. Times are nanoseconds of the epoch."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    size: int
    atime: int
    mtime: int
    ctime: int


class Caller(NamedTuple):
    """Who asks."""

    uid: int
    gid: int
    pid: int


class Request:
    """What the kernel waits for an answer to.

    Each answer returns whether it has arrived: not if the one who asked has been killed before,
    or the file system is gone. What an answered request gets again is dropped, and one that
    nobody has answered when it is forgotten is answered EIO.
    """

    __slots__ = ("_raw", "_session", "_token")

    def __init__(self, session: Session, raw: Any) -> None:
        self._session = session
        self._raw = raw
        self._token = 0

    def __del__(self) -> None:
        if self._raw is not None:
            if self._session.mounted:
                _log.error("a request of the kernel's was forgotten")
            self.fail(errno.EIO)

    @property
    def answered(self) -> bool:
        """Whether there is nothing left to answer."""
        return self._raw is None

    @property
    def caller(self) -> Caller:
        """Who asks; only before the answer."""
        context = self._session.lib.fuse_req_ctx(self._raw)
        return Caller(context.uid, context.gid, context.pid)

    def on_interrupt(self, call: Callable[[], object]) -> None:
        """Have `call` called when whoever waits for the answer gets a signal; perhaps at once.

        Not within this call, but by the `dispatch` that is under way, or the next.
        """
        session = self._session
        self._token = token = session.next_token()
        session.interruptible[token] = (self, call)
        session.lib.fuse_req_interrupt_func(
            self._raw, session.interrupt_func, session.ffi.cast("void *", token)
        )

    # The answers.

    def fail(self, number: int) -> bool:
        """An error of `errno`; 0: done, where nothing is returned."""
        raw = self._take()
        return raw is not None and self._session.lib.fuse_reply_err(raw, number) == 0

    def done(self) -> bool:
        """Nothing went wrong."""
        return self.fail(0)

    def none(self) -> None:
        """Nobody waits for an answer."""
        raw = self._take()
        if raw is not None:
            self._session.lib.fuse_reply_none(raw)

    def entry(self, attributes: Attributes) -> bool:
        """A name has been found, or made; the kernel knows the inode once more."""
        raw = self._take()
        if raw is None:
            return False
        entry = self._session.entry
        entry.ino = attributes.ino
        _fill(entry.attr, attributes)
        entry.attr_timeout = entry.entry_timeout = _FOR_EVER
        return bool(self._session.lib.fuse_reply_entry(raw, entry) == 0)

    def attributes(self, attributes: Attributes) -> bool:
        """What `stat` shows."""
        raw = self._take()
        if raw is None:
            return False
        stat = self._session.stat
        _fill(stat, attributes)
        return bool(self._session.lib.fuse_reply_attr(raw, stat, _FOR_EVER) == 0)

    def opened(self, handle: int, *, direct: bool = False) -> bool:
        """It is open, and `handle` comes with all that is done to it; `direct`: past all caches."""
        raw = self._take()
        if raw is None:
            return False
        info = self._session.info
        info.fh = handle
        info.direct_io = direct
        info.noflush = True  # nobody is interested in each close(2) of a copy
        return bool(self._session.lib.fuse_reply_open(raw, info) == 0)

    def data(self, data: bytes) -> bool:
        """The bytes that were read."""
        raw = self._take()
        return raw is not None and self._session.lib.fuse_reply_buf(raw, data, len(data)) == 0

    def written(self, count: int) -> bool:
        """How many bytes have been written."""
        raw = self._take()
        return raw is not None and self._session.lib.fuse_reply_write(raw, count) == 0

    def events(self, events: int) -> bool:
        """What `poll` finds now."""
        raw = self._take()
        return raw is not None and self._session.lib.fuse_reply_poll(raw, events) == 0

    def entries(self, size: int, entries: Iterable[tuple[bytes, int, int, int]]) -> bool:
        """What a directory has: names, inodes, modes, and the offset of what comes next.

        As many as fit into `size` bytes.
        """
        raw, session = self._raw, self._session
        if raw is None:
            return False
        buffer, used = session.ffi.new("char[]", size), 0
        for name, ino, mode, following in entries:
            session.stat.st_ino, session.stat.st_mode = ino, mode
            needed = session.lib.fuse_add_direntry(
                raw, buffer + used, size - used, name, session.stat, following
            )
            if needed > size - used:
                break
            used += needed
        self._take()
        return bool(session.lib.fuse_reply_buf(raw, buffer, used) == 0)

    def file_system(self, block_size: int, name_max: int) -> bool:
        """What `statfs` shows: nothing is used up."""
        raw = self._take()
        if raw is None:
            return False
        found = self._session.ffi.new("struct statvfs *")
        found.f_bsize = found.f_frsize = block_size
        found.f_namemax = name_max
        return bool(self._session.lib.fuse_reply_statfs(raw, found) == 0)

    def _take(self) -> Any:
        raw, self._raw = self._raw, None
        if self._token:
            self._session.interruptible.pop(self._token, None)
        if raw is None or not self._session.alive:
            return None
        if self._session.mounted:
            return raw
        self._session.lib.fuse_reply_none(raw)  # nobody to send it to; this frees it
        return None


def _fill(stat: Any, attributes: Attributes) -> None:
    (
        stat.st_ino,
        stat.st_mode,
        stat.st_nlink,
        stat.st_uid,
        stat.st_gid,
        stat.st_size,
        atime,
        mtime,
        ctime,
    ) = attributes
    stat.st_blksize = 4096
    for field, time in (
        (stat.st_atim, atime),
        (stat.st_mtim, mtime),
        (stat.st_ctim, ctime),
    ):
        field.tv_sec, field.tv_nsec = divmod(time, 1_000_000_000)
