"""How this node joins a lockspace and leaves it, in a time that has an end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydlm.errors import BadArgument, DlmError, StackUnavailable
from pydlm.stacks.fsdlm.libdlm import CONTROL

__all__ = ["NEWEXCL", "join", "leave"]

#: Join only if this node has not joined (``DLM_LSFL_NEWEXCL``).
NEWEXCL: Final = 0x8

_PROGRAM: Final = "pydlm.stacks.fsdlm._lockspace"
_DEVICE: Final = "/dev/misc/dlm_"  # and the lockspace's name
_STEP: Final = 0.02  # seconds, between two looks at what cannot be waited for


def join(lockspace: str, permissions: int, flags: int, timeout: float) -> int:
    """Open a lockspace, which this node joins first if it has not; return the descriptor.

    Raises StackUnavailable with what to check, at the latest after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    try:
        if not flags & NEWEXCL:
            return _open(lockspace)
    except PermissionError as error:
        raise StackUnavailable(
            f"lockspace {lockspace!r} may not be used by user {os.geteuid()}: whoever joins it "
            "sets who may, with the option `permissions`"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
            raise StackUnavailable(f"lockspace {lockspace!r}: {error.strerror}") from error
    with _turn(lockspace, deadline):
        if not flags & NEWEXCL:
            with contextlib.suppress(OSError):  # somebody was faster
                return _open(lockspace)
        number = _ask("join", lockspace, permissions, flags, deadline)
        if number is None:
            raise StackUnavailable(
                f"this node has not joined lockspace {lockspace!r} within {timeout:g} s. Check "
                "`dlm_tool status` and `dlm_tool ls` (it may wait for quorum or for fencing) and "
                "`corosync-quorumtool -s`. It goes on waiting, and may join later",
                errno=errno.ETIMEDOUT,
            )
        if number:
            raise _refused(lockspace, number)
        try:
            return _open(lockspace)
        except OSError as error:
            raise StackUnavailable(f"lockspace {lockspace!r}: {error.strerror}") from error


def leave(lockspace: str, device: int, timeout: float) -> None:
    """Leave a lockspace that no process of this node has open, and no lock of it needs.

    Where that is not so, or this user may not, or it takes longer than `timeout` seconds, the
    node stays in, or leaves later.
    """
    deadline = time.monotonic() + timeout
    with contextlib.suppress(DlmError), _turn(lockspace, deadline):
        # The kernel would wait until they have closed it, and they could not go on.
        if not _is_open(device):
            _ask("leave", lockspace, 0, 0, deadline)


def _open(lockspace: str) -> int:
    return os.open(_DEVICE + lockspace, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


@contextlib.contextmanager
def _turn(lockspace: str, deadline: float) -> Iterator[None]:
    """Hold the control device, so that nobody joins what another is just leaving."""
    try:
        control = os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise StackUnavailable(
            f"there is no {CONTROL}: load the kernel's module (`modprobe dlm`) and start "
            "dlm_controld (`systemctl start dlm`)"
        ) from error
    except PermissionError as error:
        raise StackUnavailable(
            f"{CONTROL} may not be used by user {os.geteuid()}, and this node has not joined "
            f"lockspace {lockspace!r}: let root do so, `dlm_tool join {lockspace}`"
        ) from error
    except OSError as error:
        raise StackUnavailable(f"{CONTROL}: {error.strerror}") from error
    try:
        while True:
            try:
                fcntl.flock(control, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise StackUnavailable(
                        f"another process has been joining or leaving a lockspace while "
                        f"{lockspace!r} was asked for; check `dlm_tool ls`",
                        errno=errno.ETIMEDOUT,
                    ) from error
            time.sleep(_STEP)
        yield
    finally:
        os.close(control)


def _ask(what: str, lockspace: str, permissions: int, flags: int, deadline: float) -> int | None:
    """Have it done; return the number of the error, or None if there was no time left."""
    command = [sys.executable, "-m", _PROGRAM, what, lockspace]
    # Of the process that does it nothing is left to wait for, should it not come back.
    asked = subprocess.Popen(
        [*command, str(permissions), str(flags)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        start_new_session=True,
    )
    try:
        out, err = asked.communicate(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        # Whenever it ends.
        threading.Thread(target=asked.communicate, name="pydlm-join", daemon=True).start()
        return None
    if not out.isdigit():
        raise StackUnavailable(
            f"cannot {what} lockspace {lockspace!r}: {err.decode(errors='replace').strip()}"
        )
    return int(out)


def _refused(lockspace: str, number: int) -> DlmError:
    if number == errno.EEXIST:
        return StackUnavailable(f"this node has joined lockspace {lockspace!r}", errno=number)
    if number in (errno.EUNATCH, errno.ENOTCONN):  # it never came, or it has gone
        return StackUnavailable(
            "dlm_controld does not run on this node: `systemctl start dlm`", errno=number
        )
    if number == errno.EINVAL:
        return BadArgument(f"the kernel takes {lockspace!r} for no name of a lockspace")
    return StackUnavailable(
        f"this node cannot join lockspace {lockspace!r}: {os.strerror(number)}", errno=number
    )


def _is_open(device: int) -> bool:
    """Return whether a process, of those that may be looked at, has a device open."""
    for directory in Path("/proc").glob("[0-9]*/fd"):
        with contextlib.suppress(OSError):
            for fd in os.scandir(directory):
                with contextlib.suppress(OSError):
                    if os.stat(fd.path).st_rdev == device:
                        return True
    return False
