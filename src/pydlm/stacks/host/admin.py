"""Looking at, and removing, the lockspaces of the `host` stack."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from pydlm import _core
from pydlm.errors import ArenaDamaged, Busy, StackUnavailable
from pydlm.stacks.host import SUFFIX, boot_id, default_directory, file_name

__all__ = ["list_lockspaces", "open_view", "remove_lockspace"]


def list_lockspaces(directory: Path | None = None) -> Iterator[str]:
    """Yield the names of the lockspaces in `directory`, or in the default one."""
    place = directory or default_directory()
    if not place.is_dir():
        return
    for path in sorted(place.glob(f"*{SUFFIX}")):
        if not path.name.startswith("."):
            yield path.name.removesuffix(SUFFIX)


def _open(lockspace: str, directory: Path | None) -> tuple[Path, int]:
    path = (directory or default_directory()) / file_name(lockspace)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        known = ", ".join(list_lockspaces(directory)) or "none"
        raise StackUnavailable(
            f"no lockspace {lockspace!r} in {path.parent}; there are: {known}"
        ) from None
    except OSError as error:
        raise StackUnavailable(f"cannot open {path}: {error.strerror}") from error
    return path, fd


def _view(lockspace: str, path: Path, fd: int) -> _core.View:
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise ArenaDamaged("this is no file")
        return _core.View(lockspace, fd, boot_id())
    except ArenaDamaged as error:
        raise ArenaDamaged(f"{path} is unusable: {error}") from error
    except OSError as error:
        raise StackUnavailable(f"cannot read {path}: {error.strerror}") from error


def open_view(lockspace: str, directory: Path | None = None) -> _core.View:
    """Map a lockspace read-only. Raises StackUnavailable, ArenaDamaged, BadArgument."""
    path, fd = _open(lockspace, directory)
    try:
        return _view(lockspace, path, fd)
    finally:
        os.close(fd)


def remove_lockspace(lockspace: str, directory: Path | None = None, *, force: bool = False) -> None:
    """Remove a lockspace. Raises Busy while processes are in it, unless `force`.

    Those would go on in the removed one, and exclude nobody in a new one of that name. Its file
    keeps its size, and its memory until the last of them has left.
    """
    path = (directory or default_directory()) / file_name(lockspace)
    fd = -1
    try:
        if not force:
            _, fd = _open(lockspace, directory)
            _refuse_if_used(lockspace, path, fd)
        path.unlink()
    except FileNotFoundError:
        raise StackUnavailable(f"no lockspace {lockspace!r} in {path.parent}") from None
    except OSError as error:
        raise StackUnavailable(f"cannot remove {path}: {error.strerror}") from error
    finally:
        if fd >= 0:
            os.close(fd)


def _refuse_if_used(lockspace: str, path: Path, fd: int) -> None:
    try:
        # Nobody joins until we have removed it, or have given up.
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Busy(f"lockspace {lockspace!r} is just being joined; end that, or force it") from None
    try:
        pids = [pid for pid, _ in _view(lockspace, path, fd).processes()]
    except ArenaDamaged:
        return
    if pids:
        raise Busy(
            f"lockspace {lockspace!r} is in use by {len(pids)} processes "
            f"({', '.join(map(str, pids[:8]))}); end them, or force it"
        )
