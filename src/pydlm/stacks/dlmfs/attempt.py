"""A file that is being opened, which takes the lock, for whoever wants it by the time it is had."""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress

from pydlm.types import Mode

__all__ = ["Attempt"]


class Attempt:
    """One open of the file `path`, in PR or EX. Blocking; called in a thread but for `at_once`."""

    def __init__(self, path: bytes, mode: Mode, *, trying: bool = False) -> None:
        self.path = path
        self.mode = mode
        self.trying = trying  #: does not wait
        #: Who gets it; 0: whoever it was for has gone.
        self.lkid = 0
        self._flags = os.O_CREAT | os.O_CLOEXEC
        self._flags |= os.O_RDWR if mode is Mode.EX else os.O_RDONLY
        #: The open file, until it is the lock's; a child of the process has to close its copy.
        self.fd = -1

    def at_once(self) -> bool:
        """Open it if nobody is in the way; return whether `fd` has the lock. Raises OSError."""
        try:
            self.fd = os.open(self.path, self._flags | os.O_NONBLOCK, 0o664)
        except OSError as error:
            if error.errno == errno.ETXTBSY:
                return False
            raise
        try:
            fcntl.flock(self.fd, self._how | fcntl.LOCK_NB)
        except BlockingIOError:
            return False  # the node has the lock already, another connection of it holds it
        except BaseException:
            self.give_up()
            raise
        return True

    def wait_for_others(self) -> None:
        """Open it as soon as no other node is in the way. Raises OSError."""
        if self.fd < 0:
            self.fd = os.open(self.path, self._flags, 0o664)

    def wait_for_own(self) -> None:
        """Then wait for other connections of this node; `fd` has the lock then. Raises OSError."""
        try:
            fcntl.flock(self.fd, self._how)
        except BaseException:
            self.give_up()
            raise

    def give_up(self) -> None:
        """Close what is open."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            with suppress(OSError):
                os.close(fd)

    @property
    def _how(self) -> int:
        return fcntl.LOCK_EX if self.mode is Mode.EX else fcntl.LOCK_SH
