"""A directory of a dlmfs: joined by whoever has a file of its own in it."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from pydlm.errors import BadArgument, StackUnavailable

__all__ = ["Domain"]

#: Longest names, in bytes (DLM_LOCKID_NAME_MAX and GROUP_NAME_MAX of the kernel, less one).
_LOCK_MAX: Final = 31
_DOMAIN_MAX: Final = 63

#: What an open fails with when the directory, or the new file in it, is removed under it.
_REMOVED: Final = (errno.ENOENT, errno.ESTALE, errno.EAGAIN)
#: What the kernel means.
_HINTS: Final = {
    errno.EBADR: "; dlm_controld has named the cluster and ocfs2_dlmfs cannot, so take the name "
    r"away: printf '\0' > /sys/kernel/config/dlm/cluster/cluster_name",
}


class Domain:
    """The directory. While the file `member` is open nobody can remove it under us.

    That is how libo2dlm does it, with names of the same kind, so that the two get along.
    """

    def __init__(self, mount: str, name: str) -> None:
        if len(name.encode()) > _DOMAIN_MAX:
            raise BadArgument(f"a domain of dlmfs has at most {_DOMAIN_MAX} bytes, not {name!r}")
        self._path = os.path.join(mount, name).encode()
        self._member = b"." + secrets.token_hex(8).encode()
        self._fd = self._join()
        #: Bytes in a lock value block.
        self.lvb_len = os.fstat(self._fd).st_size

    def _join(self) -> int:
        chances = 100
        while True:
            try:
                with suppress(FileExistsError):
                    os.mkdir(self._path, 0o755)
                return os.open(
                    os.path.join(self._path, self._member),
                    os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC,
                    0o664,
                )
            except InterruptedError:
                continue  # os.mkdir does not begin again by itself, as os.open does
            except OSError as error:
                chances -= 1
                if error.errno not in _REMOVED or not chances:
                    hint = _HINTS.get(error.errno or 0, "")
                    raise StackUnavailable(
                        f"cannot join the domain {os.fsdecode(self._path)}: {error.strerror}{hint}",
                        errno=error.errno,
                    ) from error
                # Whoever was in it has left, and removed it or our file, meanwhile.

    def file(self, name: bytes) -> bytes:
        """Return the path of a lock's file. Raises BadArgument for what cannot be a file's name."""
        if not 1 <= len(name) <= _LOCK_MAX or name[0] in b".$" or b"/" in name or b"\0" in name:
            raise BadArgument(
                f"on dlmfs a lock has 1 to {_LOCK_MAX} bytes without '/' and NUL, and no leading "
                f"'.' or '$'; {name!r} is none"
            )
        return os.path.join(self._path, name)

    def leave(self, waiting: Collection[bytes] = ()) -> None:
        """Leave; the last connection of the node takes all files along, and the directory.

        But not those of which somebody waits for the lock, as unlink would wait for him. Can be
        called again when nobody does any more.
        """
        self.abandon()
        with suppress(OSError):
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self._path, self._member))
            names = os.listdir(self._path)
            alive = [name for name in names if _is_member(name) and self._is_alive(name)]
            if not alive:
                for path in [os.path.join(self._path, name) for name in names]:
                    if path not in waiting:
                        with suppress(OSError):  # in use
                            os.unlink(path)
            os.rmdir(self._path)

    def _is_alive(self, member: bytes) -> bool:
        """Return whether a member is in the domain; what was left by one that died is removed."""
        try:
            os.unlink(os.path.join(self._path, member))
        except OSError as error:
            return error.errno != errno.ENOENT
        return False

    def abandon(self) -> None:
        """Close it, as in a child of the process: the parent is still in it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)


def _is_member(name: bytes) -> bool:
    return len(name) == 17 and name.startswith(b".")
