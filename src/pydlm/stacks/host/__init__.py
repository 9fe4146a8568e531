"""The `host` stack: one lockspace for all processes of a machine, in shared memory.

A lockspace is a file on a tmpfs that every process maps. There is no daemon: a process that dies is
noticed by the kernel, and the others clear up after it.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from pathlib import Path
from typing import Any, ClassVar, Final
from weakref import WeakValueDictionary

from pydlm import _core
from pydlm.contract import NativeStack
from pydlm.errors import ArenaDamaged, BadArgument, StackUnavailable
from pydlm.stacks._arena import (
    ARENA_CAPABILITIES,
    DEFAULT_CAPACITY,
    DEFAULT_LVB_LEN,
    refuse_other_size,
)

__all__ = ["DIRECTORY_VARIABLE", "SUFFIX", "HostStack", "boot_id", "default_directory"]

#: Names the directory of lockspaces where the program does not.
DIRECTORY_VARIABLE: Final = "PYDLM_HOST_DIR"

#: Of the files that are lockspaces.
SUFFIX: Final = ".dlm"

_arenas: WeakValueDictionary[tuple[int, int], _core.Arena] = WeakValueDictionary()
_guard = threading.Lock()


def _after_fork_in_child() -> None:
    global _arenas, _guard
    _arenas = WeakValueDictionary()
    _guard = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def default_directory() -> Path:
    """Return where lockspaces are kept unless the program says otherwise.

    $PYDLM_HOST_DIR, or `pydlm` in $XDG_RUNTIME_DIR, or ``/dev/shm/pydlm-UID``.
    """
    if chosen := os.environ.get(DIRECTORY_VARIABLE):
        return Path(chosen)
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
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
        if mode & ~0o660 or not mode & 0o600 == 0o600:
            raise BadArgument(f"mode {mode:#o} is neither 0o600 nor 0o660")
        directory = Path(locator) if locator else default_directory()
        _prepare_directory(directory, shared=bool(mode & 0o060))
        with _guard:
            arena = _open(directory, lockspace, capacity, lvb_len, mode)
        refuse_other_size(arena, capacity, lvb_len, f"remove it with `pydlm host rm {lockspace}`")
        return cls(arena, deadlock_wait=deadlock_wait)


NativeStack.register(HostStack)


def _prepare_directory(directory: Path, *, shared: bool) -> None:
    try:
        directory.mkdir(mode=0o770 if shared else 0o700, parents=False, exist_ok=True)
        found = directory.lstat()
    except OSError as error:
        raise StackUnavailable(
            f"no place for lockspaces at {directory}: {error.strerror}; "
            f"set {DIRECTORY_VARIABLE} to a directory on a tmpfs"
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise StackUnavailable(f"{directory} is no directory of its own (a link, or a file)")
    if not shared and (found.st_uid != os.geteuid() or found.st_mode & 0o077):
        raise StackUnavailable(
            f"{directory} belongs to user {found.st_uid} with mode "
            f"{stat.S_IMODE(found.st_mode):#o}; it has to be your own with mode 0700"
        )
    if shared and found.st_mode & 0o002:
        raise StackUnavailable(f"{directory} can be written by everybody")


def boot_id() -> bytes:
    """Return the id of this boot, which a lockspace does not outlive."""
    return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", ""))


def _open(
    directory: Path, lockspace: str, capacity: int | None, lvb_len: int | None, mode: int
) -> _core.Arena:
    path = directory / (lockspace + SUFFIX)
    while True:
        try:
            fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError:
            _create(directory, path, capacity, lvb_len, mode)
            continue
        except OSError as error:
            raise StackUnavailable(f"cannot open {path}: {error.strerror}") from error
        try:
            return _attach(fd, path, lockspace)
        finally:
            os.close(fd)


def _attach(fd: int, path: Path, lockspace: str) -> _core.Arena:
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode):
        raise StackUnavailable(f"{path} is no file")
    if found.st_uid != os.geteuid() and not found.st_mode & 0o060:
        raise StackUnavailable(f"{path} belongs to user {found.st_uid}")
    if found.st_mode & 0o007:
        raise StackUnavailable(f"{path} can be used by everybody (mode {found.st_mode & 0o777:#o})")
    key = (found.st_dev, found.st_ino)
    arena = _arenas.get(key)
    if arena is None:
        try:
            arena = _core.Arena(lockspace, fd=fd, create=False, boot=boot_id())
        except (ArenaDamaged, AssertionError) as error:
            raise ArenaDamaged(
                f"{path} is unusable: {error}; remove it with `pydlm host rm {lockspace}`"
            ) from error
        arena.join(_core.start_time(os.getpid()))
        _arenas[key] = arena
    return arena


def _create(
    directory: Path, path: Path, capacity: int | None, lvb_len: int | None, mode: int
) -> None:
    """Make a lockspace aside, whole, and put it in its place unless somebody was faster."""
    fresh = directory / f".{path.name}.{os.getpid()}.{threading.get_ident()}"
    try:
        fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StackUnavailable(f"cannot create {fresh}: {error.strerror}") from error
    try:
        os.fchmod(fd, mode)
        options: dict[str, Any] = {
            "capacity": DEFAULT_CAPACITY if capacity is None else capacity,
            "lvb_len": DEFAULT_LVB_LEN if lvb_len is None else lvb_len,
        }
        _core.Arena(path.name, fd=fd, create=True, boot=boot_id(), **options)
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)
    finally:
        os.close(fd)
        fresh.unlink()
