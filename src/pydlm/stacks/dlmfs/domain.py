"""A directory of a dlmfs: joined by whoever has a file of its own in it."""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Final

from pydlm.errors import BadArgument, StackUnavailable
from pydlm.stacks.dlmfs.join import make_directory

__all__ = ["Domain"]

#: Longest names, in bytes (DLM_LOCKID_NAME_MAX and GROUP_NAME_MAX of the kernel, less one).
_LOCK_MAX: Final = 31
_DOMAIN_MAX: Final = 63

#: What an open fails with when the directory, or the new file in it, is removed under it.
_REMOVED: Final = (errno.ENOENT, errno.ESTALE, errno.EAGAIN)
_STEP: Final = 0.25  # seconds, between two tries
#: What the kernel means.
_HINTS: Final = {
    errno.EHOSTDOWN: "; a node whose heartbeat is seen on the disk does not answer on the network",
    errno.ETIMEDOUT: "; with dlm_controld, check `dlm_tool status` and `corosync-quorumtool -s`: "
    "there may be no quorum, or fencing under way. The node goes on waiting, and may join later",
    errno.EBADR: "; dlm_controld has named the cluster and ocfs2_dlmfs cannot, so take the name "
    r"away: printf '\0' > /sys/kernel/config/dlm/cluster/cluster_name",
}


class Domain:
    """The directory. While the file `member` is open nobody can remove it under us.

    That is how libo2dlm does it, with names of the same kind, so that the two get along.
    """

    def __init__(self, mount: str, name: str, timeout: float, *, in_kernel: bool) -> None:
        if len(name.encode()) > _DOMAIN_MAX:
            raise BadArgument(f"a domain of dlmfs has at most {_DOMAIN_MAX} bytes, not {name!r}")
        self._path = os.path.join(mount, name).encode()
        self._member = b"." + secrets.token_hex(8).encode()
        self._fd = self._join(time.monotonic() + timeout, in_kernel)
        #: Bytes in a lock value block.
        self.lvb_len = os.fstat(self._fd).st_size

    def _join(self, deadline: float, in_kernel: bool) -> int:
        chances = 100
        while True:
            try:
                if in_kernel:
                    make_directory(self._path, deadline)
                else:
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
                if error.errno == errno.EHOSTDOWN and time.monotonic() + 2 * _STEP < deadline:
                    # A node has just died, and o2cb has not missed its heartbeat yet.
                    time.sleep(_STEP)
                    continue
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
