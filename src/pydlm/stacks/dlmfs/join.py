"""How this node joins a domain of the kernel's dlmfs: mkdir(2), in a time that has an end."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from typing import Final

from pydlm.errors import StackUnavailable

__all__ = ["make_directory"]

_PROGRAM: Final = """
import os, sys
try:
    os.mkdir(sys.argv[1], 0o755)
except OSError as error:
    print(error.errno)
else:
    print(0)
"""


def make_directory(path: bytes, deadline: float) -> None:
    """Make the directory of a domain, if there is none.

    By another process: without quorum, or while a node is being fenced, mkdir(2) waits in the
    kernel, and whoever called it cannot even be killed. Also to look whether the directory is there
    may wait for that. Raises OSError; ETIMEDOUT at `deadline`.
    """
    try:
        joining = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM, path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise StackUnavailable(
            f"no process can be started to join {os.fsdecode(path)}: {error.strerror}",
            errno=error.errno,
        ) from error
    try:
        out, _ = joining.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except BaseException as error:
        # Whenever it ends.
        threading.Thread(target=joining.communicate, name="pydlm-join", daemon=True).start()
        if isinstance(error, subprocess.TimeoutExpired):
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
        raise
    if not out.strip().isdigit():
        raise StackUnavailable(f"{sys.executable} cannot be run to join {os.fsdecode(path)}")
    if (number := int(out)) not in (0, errno.EEXIST):
        raise OSError(number, os.strerror(number))
