"""One mount: the kernel's requests, taken from it one by one without ever blocking."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Callable, Sequence
from time import time_ns
from typing import Any, Final

from pydlm.dlmfs.fuse._abi import load
from pydlm.dlmfs.fuse.operations import Changes, Operations, PollHandle
from pydlm.dlmfs.fuse.place import mounted_device
from pydlm.dlmfs.fuse.request import Request
from pydlm.errors import MountFailed, Unsupported

__all__ = ["Session"]

_log = logging.getLogger("pydlm")

# FUSE_SET_ATTR_*
_MODE, _UID, _GID, _ATIME, _MTIME, _ATIME_NOW, _MTIME_NOW = 1, 2, 4, 16, 32, 128, 256

#: Requests that nobody waits for, as `release`: more than this at a time would be overtaken.
_BACKGROUND: Final = 0xFFFF

#: Requests that one `dispatch` takes at most, so that whoever drives it can look elsewhere.
_BATCH: Final = 64


class Session:
    """A mounted file system. Not to be used by two threads at once; not after a fork.

    `options` are those of mount(8). Raises Unsupported where there is no FUSE here.
    """

    def __init__(self, operations: Operations, options: Sequence[str]) -> None:
        self._abi = load()
        self.ffi, self.lib = self._abi.ffi, self._abi.lib
        _check_device()
        self._operations = operations
        #: From `mount` to `destroy`.
        self.alive = False
        #: From `mount` to `unmount`.
        self.mounted = False
        self._where = ""
        self._device: str | None = None
        self._struck: BaseException | None = None
        # C has pointers into all of these.
        self._keep: list[Any] = []
        self.entry = self.ffi.new("struct fuse_entry_param *")
        self.stat = self.ffi.new("struct stat *")
        self.info = self.ffi.new("struct fuse_file_info *")
        self.interruptible: dict[int, tuple[Request, Callable[[], object]]] = {}
        self._interrupted: list[int] = []
        self._tokens = 0
        self.interrupt_func = self._callback("void(fuse_req_t, void *)", self._take_interrupt)
        self._ops = self._table()
        self._buffer = self.ffi.new("struct fuse_buf *")
        words = [b"pydlm"] + [w for option in options for w in (b"-o", os.fsencode(option))]
        strings = [self.ffi.new("char[]", word) for word in words]
        argv = self.ffi.new("char *[]", [*strings, self.ffi.NULL])
        self._keep += [strings, argv]
        arguments = self.ffi.new("struct fuse_args *", {"argc": len(words), "argv": argv})
        self._abi.heard.clear()
        self._raw = self.lib.fuse_session_new(
            arguments, self._ops, self.ffi.sizeof("struct fuse_lowlevel_ops"), self.ffi.NULL
        )
        if not self._raw:
            raise MountFailed(f"libfuse refuses the options {', '.join(options)}: {self._heard()}")

    def mount(self, mount_point: str) -> None:
        """Mount it. Raises MountFailed."""
        self._abi.heard.clear()
        self.ffi.errno = 0
        if self.lib.fuse_session_mount(self._raw, os.fsencode(mount_point)) != 0:
            number = self.ffi.errno or errno.EPERM
            why = self._heard() or os.strerror(number)
            raise MountFailed(f"cannot mount on {mount_point}: {why}", errno=number)
        self.alive = self.mounted = True
        os.set_blocking(self.fileno(), False)
        self._where, self._device = mount_point, mounted_device(mount_point)

    def fileno(self) -> int:
        """Return a descriptor that is readable while requests wait, and when it is unmounted."""
        return int(self.lib.fuse_session_fd(self._raw))

    def dispatch(self) -> bool:
        """Have the requests that wait handled, a good many at most; never blocks.

        Return False when it is over, because it has been unmounted. Operations that raise answer
        EIO; raises only what has struck them from outside, as KeyboardInterrupt.
        """
        receive, process = self.lib.fuse_session_receive_buf, self.lib.fuse_session_process_buf
        session, buffer = self._raw, self._buffer
        for _ in range(_BATCH):
            got = receive(session, buffer)
            if got <= 0:
                if got == -errno.EINTR:
                    continue
                if got == -errno.EAGAIN:
                    break
                return False
            process(session, buffer)
            if self._struck is not None:
                struck, self._struck = self._struck, None
                raise struck
            if self._interrupted:
                self._interrupt()
        if self._abi.heard:
            _log.warning("libfuse: %s", self._heard())
        return not self.lib.fuse_session_exited(session)

    def unmount(self) -> None:
        """Take it away from the mount point, also while files on it are open. Idempotent."""
        if not self.mounted:
            return
        self.mounted = False
        there = mounted_device(self._where)
        if self._device in (None, there):
            self.lib.fuse_session_unmount(self._raw)
        elif not self.lib.fuse_session_exited(self._raw):
            # libfuse would take away whatever is there: after a lazy unmount, somebody else's.
            _log.warning("%s is another mount's by now, which is left there", self._where)

    def destroy(self) -> None:
        """Free it; requests that are still waiting are not answered any more."""
        self.alive = self.mounted = False
        self.interruptible.clear()
        raw, self._raw = self._raw, None
        if raw:
            self.lib.fuse_session_destroy(raw)
            self._abi.libc.free(self._buffer.mem)
            self._buffer.mem = self.ffi.NULL

    # Interrupts: libfuse tells of them with its locks held, so they are only noted there.

    def next_token(self) -> int:
        """Return what an interruptible request is known by in C."""
        self._tokens += 1
        return self._tokens

    def _take_interrupt(self, _raw: Any, data: Any) -> None:
        self._interrupted.append(int(self.ffi.cast("uintptr_t", data)))

    def _interrupt(self) -> None:
        tokens, self._interrupted = self._interrupted, []
        for token in tokens:
            request, call = self.interruptible.pop(token, (None, None))
            if request is not None and call is not None:
                try:
                    call()
                except Exception:
                    _log.exception("an interrupt could not be handled")
                    request.fail(errno.EIO)

    # The operations, as C calls them.

    def _callback(self, kind: str, function: Callable[..., None]) -> Any:
        made = self.ffi.callback(kind, function)
        self._keep.append(made)
        return made

    def _table(self) -> Any:
        ops = self.ffi.new("struct fuse_lowlevel_ops *")
        kinds = dict(self.ffi.typeof("struct fuse_lowlevel_ops").fields)
        for name, function in self._handlers().items():
            made = self.ffi.callback(kinds[name].type, function)
            self._keep.append(made)
            setattr(ops, name, made)
        return ops

    def _handlers(self) -> dict[str, Callable[..., None]]:
        o, ffi = self._operations, self.ffi
        text = ffi.string

        def answering(handle: Callable[..., object]) -> Callable[..., None]:
            def call(raw: Any, *arguments: Any) -> None:
                request = Request(self, raw)
                try:
                    handle(request, *arguments)
                except BaseException as error:
                    self._failed(error)
                    request.fail(errno.EIO)

            return call

        def init(_data: Any, connection: Any) -> None:
            connection.max_background = connection.congestion_threshold = _BACKGROUND
            try:
                o.init()
            except BaseException as error:
                self._failed(error)

        def forget(request: Request, ino: int, count: int) -> None:
            request.none()
            o.forget(ino, count)

        def release(request: Request, _ino: int, info: Any) -> None:
            request.done()
            o.release(info.fh)

        def refuse(number: int) -> Callable[..., None]:
            return answering(lambda request, *_: request.fail(number))

        return {
            "init": init,
            "lookup": answering(lambda r, ino, name: o.lookup(r, ino, text(name))),
            "forget": answering(forget),
            "getattr": answering(lambda r, ino, _: o.getattr(r, ino)),
            "setattr": answering(lambda r, ino, s, which, _: o.setattr(r, ino, _changes(s, which))),
            "mknod": answering(lambda r, ino, name, mode, _: o.mknod(r, ino, text(name), mode)),
            "mkdir": answering(lambda r, ino, name, mode: o.mkdir(r, ino, text(name), mode)),
            "unlink": answering(lambda r, ino, name: o.unlink(r, ino, text(name))),
            "rmdir": answering(lambda r, ino, name: o.rmdir(r, ino, text(name))),
            "symlink": refuse(errno.EPERM),
            "rename": refuse(errno.EPERM),
            "link": refuse(errno.EPERM),
            "open": answering(lambda r, ino, info: o.open(r, ino, info.flags)),
            "read": answering(lambda r, _, size, offset, info: o.read(r, info.fh, size, offset)),
            "write": answering(
                lambda r, _, data, size, offset, info: o.write(
                    r, info.fh, ffi.unpack(data, size), offset, info.flags
                )
            ),
            "release": answering(release),
            "fsync": refuse(errno.EINVAL),
            "readdir": answering(lambda r, ino, size, offset, _: o.readdir(r, ino, size, offset)),
            "statfs": answering(lambda r, _: o.statfs(r)),
            "poll": answering(
                lambda r, _, info, raw: o.poll(
                    r, info.fh, PollHandle(self._abi, raw) if raw else None
                )
            ),
        }

    def _failed(self, error: BaseException) -> None:
        """Say so; but what is no error of the operation is for whoever called `dispatch`."""
        if not isinstance(error, Exception):
            self._struck = error
            return
        with contextlib.suppress(Exception):  # whatever handlers of logging do, C is our caller
            _log.exception("an operation of the mounted file system failed")

    def _heard(self) -> str:
        """Return what libfuse has had to say, and forget it."""
        said = "; ".join(self._abi.heard)
        self._abi.heard.clear()
        return said


def _changes(stat: Any, which: int) -> Changes:
    def time(explicit: int, now: int, field: Any) -> int | None:
        if which & now:
            return time_ns()
        return field.tv_sec * 1_000_000_000 + field.tv_nsec if which & explicit else None

    return Changes(
        stat.st_mode if which & _MODE else None,
        stat.st_uid if which & _UID else None,
        stat.st_gid if which & _GID else None,
        time(_ATIME, _ATIME_NOW, stat.st_atim),
        time(_MTIME, _MTIME_NOW, stat.st_mtim),
    )


def _check_device() -> None:
    """Raise Unsupported unless this process could mount something."""
    if not os.path.exists("/dev/fuse"):
        raise Unsupported(
            "there is no /dev/fuse: load the kernel module `fuse`, or give the container the device"
        )
    if os.geteuid() and not shutil.which("fusermount3"):
        raise Unsupported(
            "who is not root needs fusermount3 to mount: install Debian's package fuse3"
        )
