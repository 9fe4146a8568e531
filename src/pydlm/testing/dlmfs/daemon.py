"""The process behind a mount: found, killed, and started again as it was."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from pathlib import Path

from pydlm.errors import StackUnavailable

__all__ = ["Daemon"]

_PATIENCE = 20.0


class Daemon:
    """Whoever serves `mount`. Raises StackUnavailable if it cannot be found."""

    def __init__(self, mount: Path) -> None:
        self.mount = mount
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if self._serves(process):
                    self._pid = int(process.name)
                    self._argv = _words(process / "cmdline")
                    self._cwd = os.readlink(process / "cwd")
                    self._environ = dict(
                        w.split("=", 1) for w in _words(process / "environ") if "=" in w
                    )
                    return
            except OSError:
                continue  # it has ended, or is somebody else's
        raise StackUnavailable(
            f"no process found that serves {str(mount)!r}, as its node is to be killed: it must be "
            "a `pydlm mount` of your own, started with that mount point"
        )

    def _serves(self, process: Path) -> bool:
        words = _words(process / "cmdline")
        if "mount" not in words:
            return False
        cwd = Path(os.readlink(process / "cwd"))
        # Not realpath: that would ask the file system, which may be dead.
        if str(self.mount) not in [os.path.normpath(cwd / word) for word in words]:
            return False
        return any(os.readlink(fd) == "/dev/fuse" for fd in (process / "fd").iterdir())

    def kill(self) -> None:
        """Kill it by SIGKILL; return when it is gone."""
        fd = os.pidfd_open(self._pid)
        try:
            signal.pidfd_send_signal(fd, signal.SIGKILL)
            select.select([fd], [], [], _PATIENCE)
        finally:
            os.close(fd)

    def restart(self) -> None:
        """Mount again. Raises StackUnavailable if that does not come to be."""
        subprocess.run(["fusermount3", "-u", "-z", str(self.mount)], check=False)
        subprocess.Popen(
            self._argv,
            cwd=self._cwd,
            env=self._environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # not ours, which somebody may read to the end
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        end = time.monotonic() + _PATIENCE
        while not os.path.ismount(self.mount):
            if time.monotonic() > end:
                raise StackUnavailable(f"{str(self.mount)!r} was not mounted again")
            time.sleep(0.01)


def _words(path: Path) -> list[str]:
    return [os.fsdecode(word) for word in path.read_bytes().split(b"\0")[:-1]]
