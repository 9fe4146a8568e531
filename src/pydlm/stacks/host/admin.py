"""Looking at, and removing, the lockspaces of the `host` stack."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from pydlm import _core
from pydlm.errors import ArenaDamaged, Busy, StackUnavailable
from pydlm.stacks.host import SUFFIX, boot_id, default_directory

__all__ = ["list_lockspaces", "open_view", "remove_lockspace"]


def list_lockspaces(directory: Path | None = None) -> Iterator[str]:
    """Yield the names of the lockspaces in `directory`, or in the default one."""
    place = directory or default_directory()
    if not place.is_dir():
        return
    for path in sorted(place.glob(f"*{SUFFIX}")):
        if not path.name.startswith("."):
            yield path.name.removesuffix(SUFFIX)


def open_view(lockspace: str, directory: Path | None = None) -> _core.View:
    """Map a lockspace read-only. Raises StackUnavailable, ArenaDamaged."""
    path = (directory or default_directory()) / (lockspace + SUFFIX)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        known = ", ".join(list_lockspaces(directory)) or "none"
        raise StackUnavailable(
            f"no lockspace {lockspace!r} in {path.parent}; there are: {known}"
        ) from None
    except OSError as error:
        raise StackUnavailable(f"cannot open {path}: {error.strerror}") from error
    try:
        return _core.View(lockspace, fd, boot_id())
    except ArenaDamaged as error:
        raise ArenaDamaged(f"{path} is unusable: {error}") from error
    finally:
        os.close(fd)


def remove_lockspace(lockspace: str, directory: Path | None = None, *, force: bool = False) -> None:
    """Remove a lockspace. Raises Busy while processes are in it, unless `force`.

    Those would go on in the removed one, and exclude nobody in a new one of that name.
    """
    path = (directory or default_directory()) / (lockspace + SUFFIX)
    if not force:
        try:
            pids = [pid for pid, _ in open_view(lockspace, directory).processes()]
        except ArenaDamaged:
            pids = []
        if pids:
            raise Busy(
                f"lockspace {lockspace!r} is in use by {len(pids)} processes "
                f"({', '.join(map(str, pids[:8]))}); end them, or force it"
            )
    try:
        path.unlink()
    except FileNotFoundError:
        raise StackUnavailable(f"no lockspace {lockspace!r} in {path.parent}") from None
    except OSError as error:
        raise StackUnavailable(f"cannot remove {path}: {error.strerror}") from error
