"""dlmfs: what each call on a mount means. Directories are domains, files are locks."""

from __future__ import annotations

import errno
import logging
import os
import select
import stat
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from typing import Any, Final, Protocol

from pydlm.contract import Stack
from pydlm.dlmfs.domain import Domain, lockspace_name
from pydlm.dlmfs.fuse import Changes, Operations, PollHandle, Request
from pydlm.dlmfs.lockfile import LockFile, OpenFile
from pydlm.dlmfs.tree import ROOT, Node, Tree
from pydlm.errors import DlmError

__all__ = ["Dlmfs", "Watcher"]

_log = logging.getLogger("pydlm")

#: Longest names, in bytes, of a domain and of a lock: ocfs2_dlmfs's.
_DOMAIN_MAX: Final = 63
_LOCK_MAX: Final = 31

_READABLE: Final = select.POLLIN | select.POLLRDNORM


class Watcher(Protocol):
    """Whoever waits until a domain's stack has something to tell, and calls `settle` then."""

    def do(self, work: Callable[[], Any], then: Callable[[Any], object]) -> None:
        """Have a thread work, and call `then` in this one with what it returned or raised."""
        ...

    def joined(self, domain: Domain) -> None:
        """Begin."""
        ...

    def left(self, domain: Domain) -> None:
        """Cease; its descriptor is about to be closed."""
        ...


class Dlmfs(Operations):
    """The file system. `connect` joins a lockspace, `owned` makes a file's lock."""

    def __init__(
        self,
        connect: Callable[[str], Stack],
        owned: Callable[[Domain, bytes], LockFile],
        watcher: Watcher,
        root_mode: int,
        *,
        ready: Callable[[], object] = lambda: None,
    ) -> None:
        self._connect = connect
        self._owned = owned
        self._watcher = watcher
        self._ready = ready
        self.tree = Tree(root_mode, os.geteuid(), os.getegid())
        self._open: dict[int, OpenFile] = {}
        self._handles = count(1)
        self._closed = False

    def init(self) -> None:
        """The kernel is there."""
        self._ready()

    # Names and attributes.

    def lookup(self, request: Request, parent: int, name: bytes) -> None:
        """Find a domain or a lock."""
        node = self.tree.child(parent, name)
        if node is None:
            request.fail(errno.ENOENT)
        else:
            self._enter(request, node)

    def forget(self, ino: int, count: int) -> None:
        """The kernel has dropped entries."""
        self.tree.forget(ino, count)

    def getattr(self, request: Request, ino: int) -> None:
        """Show an inode."""
        node = self.tree.get(ino)
        if node is None:
            request.fail(errno.ENOENT)
        else:
            request.attributes(node.attributes)

    def setattr(self, request: Request, ino: int, changes: Changes) -> None:
        """chmod, chown, utimes. Truncation means nothing."""
        node = self.tree.get(ino)
        if node is None:
            request.fail(errno.ENOENT)
        else:
            node.change(changes)
            request.attributes(node.attributes)

    def readdir(self, request: Request, ino: int, size: int, offset: int) -> None:
        """List a directory, in the order of inode numbers: an offset is the last one seen."""
        node = self.tree.get(ino)
        if node is None:
            request.fail(errno.ENOENT)
        else:
            request.entries(size, _entries(node, offset))

    # Domains.

    def mkdir(self, request: Request, parent: int, name: bytes, mode: int) -> None:
        """Join a domain."""
        if parent != ROOT:
            request.fail(errno.EPERM)
        elif len(name) > _DOMAIN_MAX:
            request.fail(errno.EINVAL)
        elif self.tree.child(ROOT, name) is not None:
            request.fail(errno.EEXIST)
        else:
            try:
                lockspace = lockspace_name(name)
            except UnicodeDecodeError:
                request.fail(errno.EINVAL)
                return
            request.on_interrupt(lambda: request.fail(errno.EINTR))
            mode = stat.S_IFDIR | stat.S_IMODE(mode)
            self._watcher.do(
                partial(self._join, lockspace), partial(self._joined, request, name, mode)
            )

    def _join(self, lockspace: str) -> Domain:
        """Called in a thread."""
        stack = self._connect(lockspace)
        try:
            return Domain(stack)
        except BaseException:
            stack.disconnect()
            raise

    def _joined(
        self, request: Request, name: bytes, mode: int, found: Domain | BaseException
    ) -> None:
        if isinstance(found, BaseException):
            _log.warning("the domain %r cannot be joined: %s", name, found)
            request.fail(getattr(found, "errno", None) or errno.EIO)
        elif request.answered or self._closed:
            self._leave(found, request)
        else:
            node = self.tree.add(self.tree.root, name, mode, request.caller)
            node.domain = found
            self._watcher.joined(found)
            self._enter(request, node)

    def rmdir(self, request: Request, parent: int, name: bytes) -> None:
        """Leave a domain."""
        node = self.tree.child(parent, name)
        if node is None:
            request.fail(errno.ENOENT)
        elif (domain := node.domain) is None:
            request.fail(errno.ENOTDIR)
        elif node.children:
            request.fail(errno.ENOTEMPTY)
        else:
            self.tree.remove(node)
            self._watcher.left(domain)
            self._leave(domain, request)

    def _leave(self, domain: Domain, request: Request | None = None) -> None:
        """Leave a domain, then answer."""
        domain.let_go()
        self._watcher.do(domain.stack.disconnect, partial(_left, request))

    def close(self) -> None:
        """The mount is gone: leave all domains."""
        self._closed = True
        self._open.clear()
        for node in (self.tree.root.children or {}).values():
            if node.domain is not None:
                self._watcher.left(node.domain)
                self._leave(node.domain)

    # Locks.

    def mknod(self, request: Request, parent: int, name: bytes, mode: int) -> None:
        """Make a file for a lock; no lock is taken."""
        directory = self.tree.get(parent)
        if directory is None:
            request.fail(errno.ENOENT)
        elif not stat.S_ISREG(mode):
            request.fail(errno.EPERM)
        elif directory.domain is None:
            request.fail(errno.EACCES)
        elif len(name) > _LOCK_MAX or name.startswith(b"$"):
            request.fail(errno.EINVAL)
        elif self.tree.child(parent, name) is not None:
            request.fail(errno.EEXIST)
        else:
            node = self.tree.add(directory, name, mode, request.caller)
            node.file = self._owned(directory.domain, name)
            node.size = directory.domain.size
            self._enter(request, node)

    def unlink(self, request: Request, parent: int, name: bytes) -> None:
        """Destroy a lock."""
        node = self.tree.child(parent, name)
        if node is None:
            request.fail(errno.ENOENT)
        elif node.file is None:
            request.fail(errno.EISDIR)
        else:
            node.file.unlink(request, lambda: self.tree.remove(node))

    def open(self, request: Request, ino: int, flags: int) -> None:
        """Take a lock; wait for it, unless with O_NONBLOCK."""
        node = self.tree.get(ino)
        if node is None or node.parent is None or node.file is None:
            request.fail(errno.ESTALE)  # unlinked meanwhile; the kernel looks again
        elif flags & os.O_DIRECT:
            request.fail(errno.EINVAL)
        else:
            exclusive = flags & os.O_ACCMODE != os.O_RDONLY
            trying = bool(flags & os.O_NONBLOCK)
            handle = next(self._handles)

            def then(opened: OpenFile) -> bool:
                if not request.opened(handle, direct=True):
                    return False
                self._open[handle] = opened
                return True

            node.file.open(request, exclusive, trying, then)

    def release(self, handle: int) -> None:
        """Let a lock go, or keep it until somebody else wants it."""
        opened = self._open.pop(handle, None)
        if opened is not None:
            opened.close()

    # Lock value blocks, and who wants the lock.

    def read(self, request: Request, handle: int, size: int, offset: int) -> None:
        """Read the lock value block; nothing if it is invalid."""
        try:
            request.data(self._open[handle].read()[offset : offset + size])
        except DlmError:
            request.fail(errno.EIO)

    def write(self, request: Request, handle: int, data: bytes, offset: int, flags: int) -> None:
        """Write into the lock value block, as far as there is room."""
        opened = self._open[handle]
        if flags & os.O_APPEND:
            # The kernel appends to 64 bytes. What is meant is: one after the other.
            offset = opened.appended
        if not opened.exclusive:
            request.fail(errno.EBADF)
        elif offset >= opened.file.domain.size:
            request.fail(errno.ENOSPC)
        else:
            try:
                written = opened.write(data, offset)
            except DlmError:
                request.fail(errno.EIO)
            else:
                opened.appended = offset + written
                request.written(written)

    def poll(self, request: Request, handle: int, sleeper: PollHandle | None) -> None:
        """Say whether somebody elsewhere wants the lock."""
        opened = self._open[handle]
        if sleeper is not None:
            opened.sleep(sleeper)
        if opened.kept.is_lost:
            request.events(_READABLE | select.POLLERR)
        else:
            request.events(_READABLE if opened.kept.is_blocking else 0)

    # How it works inside.

    def _enter(self, request: Request, node: Node) -> None:
        node.lookups += 1
        if not request.entry(node.attributes):
            self.tree.forget(node.ino, 1)


def _left(request: Request | None, found: BaseException | None) -> None:
    if found is not None:
        _log.warning("a domain could not be left: %s", found)
    if request is not None:
        request.done()


def _entries(node: Node, offset: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Yield what comes after the entry of offset `offset`, as `Request.entries` wants it."""
    parent = node.parent or node
    if offset < 1:
        yield b".", node.ino, node.mode, 1
    if offset < 2:
        yield b"..", parent.ino, parent.mode, 2
    for name, child in (node.children or {}).items():
        if child.ino + 2 > offset:
            yield name, child.ino, child.mode, child.ino + 2
