"""A process that makes system calls as it is told, and says how they ended."""

from __future__ import annotations

import ast
import contextlib
import select
import signal
import subprocess
import sys
from typing import Any

#: Seconds within which anything has happened on the slowest machine.
PATIENCE = 20.0

_SCRIPT = r"""
import errno, fcntl, mmap, os, select, signal, sys
os.umask(0o022)
if len(sys.argv) > 1:  # only now: who becomes somebody else may not be able to read Python
    os.setgroups([])
    os.setgid(int(sys.argv[1]))
    os.setuid(int(sys.argv[1]))
signal.signal(signal.SIGUSR1, lambda *_: None)

def raw_open(path, flags):
    # os.open() begins again after EINTR.
    import ctypes
    fd = ctypes.CDLL(None, use_errno=True).open(path.encode(), flags, 0o644)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "open")
    return fd

for line in sys.stdin:
    try:
        said = eval(line)
    except OSError as error:
        said = OSError, errno.errorcode[error.errno]
    print(repr(said).replace("<class 'OSError'>", "'OSError'"), flush=True)
"""


class Client:
    """A process of a user of the mount. Once its answer is late it is of no use any more."""

    def __init__(self, uid: int | None = None) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-u", "-c", _SCRIPT, *([] if uid is None else [str(uid)])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, call: str) -> None:
        """Have it make a call; `answer` says how it ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(call + "\n")
        self._process.stdin.flush()

    def answer(self, seconds: float = PATIENCE) -> Any:
        """Return what the call returned, or the name of its errno."""
        assert self.has_answered(seconds), f"{self.waits_in()} after {seconds} seconds"
        line = self._process.stdout.readline()  # type: ignore[union-attr]
        assert line, "the client has died"
        found = ast.literal_eval(line)
        return found[1] if isinstance(found, tuple) and found[:1] == ("OSError",) else found

    def has_answered(self, seconds: float = 0) -> bool:
        return bool(select.select([self._process.stdout], [], [], seconds)[0])

    def __call__(self, call: str) -> Any:
        """Return what Python's `call` returns, or the name of the errno that it fails with."""
        self.start(call)
        return self.answer()

    def waits_in(self) -> str:
        with open(f"/proc/{self.pid}/wchan") as file:
            return file.read()

    def waits_for_an_answer(self) -> bool:
        """Whether it waits for more than a name and attributes, which come before the call."""
        with open(f"/proc/{self.pid}/stack") as file:
            stack = file.read()
        first = ("fuse_lookup", "fuse_dentry_revalidate", "fuse_do_getattr", "fuse_mknod")
        return "request_wait_answer" in stack and not any(name in stack for name in first)

    def kill(self, number: int = signal.SIGKILL) -> None:
        self._process.send_signal(number)

    def has_died(self) -> bool:
        return self._process.poll() is not None

    def end(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def opened(self, path: str, flags: str = "O_RDWR", mode: int = 0o644) -> int:
        """Open it; return the descriptor in that process. Fails the test otherwise."""
        fd = self(opening(path, flags, mode))
        assert isinstance(fd, int), fd
        return fd


def opening(path: str, flags: str = "O_RDWR", mode: int = 0o644) -> str:
    """The call that opens a lock, which is made where it is not there."""
    words = " | ".join(f"os.{flag}" for flag in (*flags.split("|"), "O_CREAT"))
    return f"os.open({path!r}, {words}, {mode})"
