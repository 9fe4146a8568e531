"""How this node joins a domain of the kernel's dlmfs: mkdir(2), in a time that has an end."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from typing import Final

__all__ = ["make_directory"]

_PROGRAM: Final = """
import os, sys
try:
    os.mkdir(sys.argv[1], 0o755)
except OSError as error:
    sys.exit(error.errno)
"""


def make_directory(path: bytes, deadline: float) -> None:
    """Make the directory of a domain, if there is none. Raises OSError; ETIMEDOUT at `deadline`.

    By another process: without quorum, or while a node is being fenced, mkdir(2) waits in the
    kernel, and whoever called it cannot even be killed.
    """
    joining = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", _PROGRAM, path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        number = joining.wait(max(0.0, deadline - time.monotonic()))
    except BaseException as error:
        joining.returncode = -1  # it would be waited for, and may last for ever
        if isinstance(error, subprocess.TimeoutExpired):
            raise OSError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT)) from None
        raise
    if number not in (0, errno.EEXIST):
        raise OSError(number, os.strerror(number))
