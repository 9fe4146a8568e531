"""The `host` stack: one lockspace for all processes of a machine, in shared memory.

A lockspace is a file on a tmpfs that every process maps. There is no daemon: a process that dies is
noticed by the kernel, and the others clear up after it.

**What it cannot survive: the file made shorter while it is mapped.** The kernel then answers each
access to what is gone with SIGBUS, which ends the process. Nothing can forbid it (seals are for
memfds, which have no name to find them by), and a handler for SIGBUS is the program's to install,
not a library's. Only who may write the file can do it: its owner, the group where it was shared
with one, and root. Nothing in pydlm ever makes a lockspace shorter: `pydlm host rm` takes the name
away, and whoever has the file mapped keeps it whole. Memory that a full tmpfs cannot give is asked
for before it is touched, and means LockspaceFull.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import stat
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final
from weakref import WeakValueDictionary

from pydlm import _core
from pydlm.contract import NativeStack
from pydlm.errors import ArenaDamaged, BadArgument, LockspaceFull, StackUnavailable
from pydlm.stacks._arena import (
    ARENA_CAPABILITIES,
    DEFAULT_CAPACITY,
    DEFAULT_LVB_LEN,
    refuse_other_size,
)

__all__ = [
    "DIRECTORY_VARIABLE",
    "SUFFIX",
    "HostStack",
    "boot_id",
    "default_directory",
    "file_name",
]

#: Names the directory of lockspaces where the program does not.
DIRECTORY_VARIABLE: Final = "PYDLM_HOST_DIR"

#: Of the files that are lockspaces.
SUFFIX: Final = ".dlm"

_arenas: WeakValueDictionary[tuple[int, int], _core.Arena] = WeakValueDictionary()
_guard = threading.RLock()


def _after_fork_in_child() -> None:
    global _arenas, _guard
    _arenas = WeakValueDictionary()
    _guard = threading.RLock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def default_directory() -> Path:
    """Return where lockspaces are kept unless the program says otherwise.

    $PYDLM_HOST_DIR, or `pydlm` in $XDG_RUNTIME_DIR, or ``/dev/shm/pydlm-UID``.
    """
    if chosen := os.environ.get(DIRECTORY_VARIABLE):
        if not os.path.isabs(chosen):
            raise BadArgument(f"{DIRECTORY_VARIABLE} is {chosen!r}, which is no absolute path")
        return Path(chosen)
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and os.path.isdir(runtime):
        return Path(runtime) / "pydlm"
    return Path(f"/dev/shm/pydlm-{os.geteuid()}")


class HostStack(_core.Client):
    """A connection to a lockspace that all processes of this host can join."""

    __slots__ = ()

    name: ClassVar[str] = "host"
    capabilities: ClassVar[frozenset[str]] = ARENA_CAPABILITIES

    @classmethod
    def connect(
        cls,
        lockspace: str,
        locator: str = "",
        *,
        capacity: int | None = None,
        lvb_len: int | None = None,
        deadlock_wait: float | None = 1.0,
        mode: int = 0o600,
    ) -> HostStack:
        """Join `lockspace`; who comes first creates it. It stays until removed, or a reboot.

        `locator` names another directory than the default. `capacity`, `lvb_len`: as for the local
        stack, set at creation. `mode`: permissions of a new lockspace; with group bits, members
        of the directory's group may join. Raises StackUnavailable, ArenaDamaged, BadArgument.
        """
        if mode not in (0o600, 0o660):
            raise BadArgument(f"mode {mode!r} is neither 0o600 nor 0o660")
        name = file_name(lockspace)
        directory = Path(locator) if locator else default_directory()
        with _guard, _place(directory, shared=mode == 0o660) as place:
            join = partial(_join, place, directory / name, lockspace, capacity, lvb_len, mode)
            try:
                arena = join()
            except LockspaceFull:
                gc.collect()  # closed connections that refer to each other have their room still
                arena = join()
        refuse_other_size(arena, capacity, lvb_len, f"remove it with `pydlm host rm {lockspace}`")
        return cls(arena, deadlock_wait=deadlock_wait)


NativeStack.register(HostStack)


def file_name(lockspace: str) -> str:
    """Return the name of a lockspace's file. Raises BadArgument where it would be elsewhere."""
    try:
        size = len(lockspace.encode())
    except UnicodeEncodeError:
        size = 0
    if not 1 <= size <= 64 or "\0" in lockspace or "/" in lockspace or lockspace.startswith("."):
        raise BadArgument(f"{lockspace!r} cannot be the name of a lockspace")
    return lockspace + SUFFIX


@contextlib.contextmanager
def _place(directory: Path, *, shared: bool) -> Iterator[int]:
    """Open the directory, which is made if it is not there, and see that it is safe."""
    try:
        with contextlib.suppress(FileExistsError):
            directory.mkdir(mode=0o700)
            directory.chmod(0o770 if shared else 0o700)  # the umask has no say
        place = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError as error:
        raise StackUnavailable(
            f"{directory} is no directory of its own (a link, or a file)"
        ) from error
    except (OSError, ValueError) as error:
        raise StackUnavailable(
            f"no place for lockspaces at {directory}: {_reason(error)}; "
            f"set {DIRECTORY_VARIABLE} to a directory on a tmpfs"
        ) from error
    try:
        found = os.fstat(place)
        if not shared and (found.st_uid != os.geteuid() or found.st_mode & 0o077):
            raise StackUnavailable(
                f"{directory} belongs to user {found.st_uid} with mode "
                f"{stat.S_IMODE(found.st_mode):#o}; it has to be your own with mode 0700, "
                "or all who use it connect with mode=0o660"
            )
        if shared and found.st_mode & 0o002:
            raise StackUnavailable(f"{directory} can be written by everybody")
        if shared and found.st_uid != os.geteuid():
            if found.st_gid not in {os.getegid(), *os.getgroups()} or not found.st_mode & 0o020:
                raise StackUnavailable(
                    f"{directory} belongs to user {found.st_uid} and group {found.st_gid}, "
                    "with whom this process shares no group that may write there"
                )
        yield place
    finally:
        os.close(place)


def _reason(error: OSError | ValueError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def boot_id() -> bytes:
    """Return the id of this boot, which a lockspace does not outlive."""
    return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", ""))


def _join(
    place: int, path: Path, lockspace: str, capacity: int | None, lvb_len: int | None, mode: int
) -> _core.Arena:
    while True:
        try:
            fd = os.open(
                path.name,
                os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY,
                dir_fd=place,
            )
        except FileNotFoundError:
            _create(place, path, capacity, lvb_len, mode)
            continue
        except OSError as error:
            raise StackUnavailable(f"cannot open {path}: {_reason(error)}") from error
        try:
            arena = _attach(fd, path, lockspace)
        except OSError as error:
            raise StackUnavailable(f"cannot use {path}: {_reason(error)}") from error
        finally:
            os.close(fd)
        if arena is not None:
            return arena


def _attach(fd: int, path: Path, lockspace: str) -> _core.Arena | None:
    """Join the lockspace in that file; None if it has been removed meanwhile."""
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise StackUnavailable(f"{path} is no file")
    if found.st_uid != os.geteuid() and not found.st_mode & 0o060:
        raise StackUnavailable(f"{path} belongs to user {found.st_uid}")
    if found.st_mode & 0o007:
        raise StackUnavailable(f"{path} can be used by everybody (mode {found.st_mode & 0o777:#o})")
    key = (found.st_dev, found.st_ino)
    # Who removes it looks first whether anybody is in; we are, before it can look again.
    fcntl.flock(fd, fcntl.LOCK_SH)
    try:
        arena = _arenas.get(key)
        if arena is None:
            if not os.fstat(fd).st_nlink:
                return None
            try:
                arena = _core.Arena(lockspace, fd=fd, create=False, boot=boot_id())
            except (ArenaDamaged, AssertionError) as error:
                raise ArenaDamaged(
                    f"{path} is unusable: {error}; remove it with `pydlm host rm {lockspace}`"
                ) from error
            arena.join(_core.start_time(os.getpid()))
        if not os.fstat(fd).st_nlink:
            return None  # by force
        _arenas[key] = arena
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)  # a child forked just now has the descriptor too
    return arena


def _create(place: int, path: Path, capacity: int | None, lvb_len: int | None, mode: int) -> None:
    """Make a lockspace whole, and then give it its name unless somebody was faster.

    Until then it has none: who dies over it leaves nothing.
    """
    options: dict[str, Any] = {
        "capacity": DEFAULT_CAPACITY if capacity is None else capacity,
        "lvb_len": DEFAULT_LVB_LEN if lvb_len is None else lvb_len,
    }
    fd = -1
    try:
        fd = os.open(".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=place)
        if mode & 0o060:
            os.fchown(fd, -1, os.fstat(place).st_gid)
        os.fchmod(fd, mode)
        _core.Arena(path.name, fd=fd, create=True, boot=boot_id(), **options)
        with contextlib.suppress(FileExistsError):
            # That a directory's descriptor is passed makes it follow the link in /proc.
            os.link(f"/proc/self/fd/{fd}", path.name, src_dir_fd=place, dst_dir_fd=place)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise LockspaceFull(
                f"no room for {path} with capacity {options['capacity']}: {_reason(error)}"
            ) from error
        raise StackUnavailable(f"cannot create {path}: {_reason(error)}") from error
    finally:
        if fd >= 0:
            os.close(fd)
