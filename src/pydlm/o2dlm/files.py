"""Locks as files on a dlmfs, the kernel's or a pydlm mount: what libo2dlm's "classic" half does."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import Final

from pydlm.o2dlm.capabilities import dlmfs_capabilities
from pydlm.o2dlm.codes import ErrorCode, Level, O2dlmError
from pydlm.stacks.dlmfs.place import dlmfs_type

__all__ = ["FileDomain", "FileLock", "path_capabilities"]

# O2DLM_DOMAIN_DIR_MODE, O2DLM_OPEN_MODE of libo2dlm.
_DOMAIN_MODE: Final = 0o755
_LOCK_MODE: Final = 0o664

_OPEN_FLAGS: Final = {Level.PRMODE: os.O_RDONLY, Level.EXMODE: os.O_RDWR}


class FileLock:
    """An open file."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path

    def fileno(self) -> int:
        """Return the file's own descriptor: dlmfs answers poll on it."""
        return self._descriptor

    def read(self, length: int) -> bytes:
        """Read from the beginning; an invalid block reads as no bytes."""
        try:
            return os.pread(self._descriptor, length, 0)
        except OSError as error:
            raise O2dlmError(
                ErrorCode.LVB_READ, f"cannot read the lock value block of {self._path}", cause=error
            ) from error

    def write(self, data: bytes) -> int:
        """Write at the beginning; fails with EBADF in PR, as the file is open for reading."""
        try:
            return os.pwrite(self._descriptor, data, 0)
        except OSError as error:
            raise O2dlmError(
                ErrorCode.LVB_WRITE,
                f"cannot write the lock value block of {self._path}",
                cause=error,
            ) from error

    def unlock(self) -> None:
        """Close the file. The descriptor is gone whatever close returns: see close(2)."""
        descriptor, self._descriptor = self._descriptor, -1
        with contextlib.suppress(OSError):
            os.close(descriptor)


class FileDomain:
    """A directory of a dlmfs."""

    def __init__(self, mount: str, name: str, member: bytes) -> None:
        """Join, and make the domain if it is not there.

        The file `member` is held in PR from here on, so that nobody can remove the domain under
        us, as libo2dlm does it.
        """
        self._path = os.path.join(mount, name)
        self.capabilities = path_capabilities(mount)
        self._check_or_make()
        for chances in reversed(range(100)):
            try:
                self._member = self._open(member, Level.PRMODE, trying=False)
                return
            except OSError as error:
                if error.errno != errno.ENOENT or not chances:
                    no_directory = error.errno == errno.ENOTDIR
                    raise O2dlmError(
                        ErrorCode.BAD_DOMAIN_DIR if no_directory else ErrorCode.LOCKING,
                        f"cannot hold the domain {self._path}",
                        cause=error,
                    ) from error
                # Whoever was in it has left, and removed it, since we looked.
                self._check_or_make()

    def _check_or_make(self) -> None:
        if os.path.isdir(self._path):
            return
        try:
            while True:
                with contextlib.suppress(InterruptedError):  # os.open begins again by itself
                    os.mkdir(self._path, _DOMAIN_MODE)
                    return
        except FileExistsError:
            return  # since we looked
        except OSError as error:
            raise O2dlmError(
                ErrorCode.DOMAIN_CREATE, f"cannot make the domain {self._path}", cause=error
            ) from error

    def _open(self, name: bytes, level: Level, *, trying: bool) -> FileLock:
        path = os.path.join(os.fsencode(self._path), name)
        flags = _OPEN_FLAGS[level] | os.O_CREAT | os.O_CLOEXEC | (os.O_NONBLOCK if trying else 0)
        return FileLock(os.open(path, flags, _LOCK_MODE), os.fsdecode(path))

    def lock(self, name: bytes, level: Level, *, trying: bool) -> FileLock:
        """Open the file, which takes the lock. A signal ends the wait if its handler raises."""
        try:
            return self._open(name, level, trying=trying)
        except OSError as error:
            what = f"{os.fsdecode(name)!r} of {self._path}"
            if trying and error.errno == errno.ETXTBSY:
                raise O2dlmError(
                    ErrorCode.TRYLOCK_FAILED, f"the lock {what} cannot be had at once", cause=error
                ) from error
            raise O2dlmError(
                ErrorCode.LOCKING, f"cannot take the lock {what}", cause=error
            ) from error

    def drop(self, name: bytes) -> None:
        """Unlink the file; EBUSY says that somebody on this mount holds it."""
        path = os.path.join(os.fsencode(self._path), name)
        try:
            os.unlink(path)
        except OSError as error:
            busy = error.errno == errno.EBUSY
            raise O2dlmError(
                ErrorCode.BUSY_LOCK if busy else ErrorCode.UNLINK,
                f"cannot remove {os.fsdecode(path)}",
                cause=error,
            ) from error

    def leave(self) -> None:
        """Remove what nobody on this mount holds, then the domain if nothing is left in it.

        Others may be leaving at the same time: what they have removed already is as good as
        removed by us.
        """
        self._member.unlock()
        try:
            names = os.listdir(os.fsencode(self._path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise O2dlmError(
                ErrorCode.DOMAIN_DIR, f"cannot list {self._path}", cause=error
            ) from error
        for name in names:
            try:
                self.drop(name)
            except O2dlmError as error:
                if error.errno not in (errno.EBUSY, errno.ENOENT):
                    raise
        try:
            os.rmdir(self._path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.ENOENT):
                raise O2dlmError(
                    ErrorCode.DOMAIN_DESTROY, f"cannot remove {self._path}", cause=error
                ) from error


def path_capabilities(mount: str) -> frozenset[str]:
    """Return what the dlmfs at `mount` can do, or raise what is there instead."""
    try:
        descriptor = os.open(mount, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except NotADirectoryError as error:
        raise O2dlmError(ErrorCode.NO_FS_DIR, f"{mount!r} is no directory", cause=error) from error
    except OSError as error:
        raise O2dlmError(ErrorCode.OPEN_DLM_DIR, f"cannot open {mount!r}", cause=error) from error
    try:
        kind = dlmfs_type(descriptor)
    except OSError as error:
        raise O2dlmError(ErrorCode.STATFS, f"cannot examine {mount!r}", cause=error) from error
    finally:
        os.close(descriptor)
    if kind is None:
        raise O2dlmError(
            ErrorCode.NO_FS,
            f"{mount!r} is on no dlmfs: neither ocfs2_dlmfs nor a pydlm mount is mounted there",
        )
    return dlmfs_capabilities(kind)
