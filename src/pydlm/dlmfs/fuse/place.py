"""Which file system is mounted at a place, found without asking that file system anything."""

from __future__ import annotations

import os

__all__ = ["mounted_device"]


def mounted_device(path: str) -> str | None:
    """Return the device number, major:minor, of what is mounted topmost at `path`.

    None if that is not to be found out. Who serves a mount cannot stat it, as he would have to
    answer; a descriptor of O_PATH takes no request.
    """
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
                words = dict(line.split(":", 1) for line in info if ":" in line)
        finally:
            os.close(fd)
        mount_id = words["mnt_id"].strip()
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as table:
            # id, parent's id, major:minor, ...: see proc(5).
            return next(
                (line.split(" ", 3)[2] for line in table if line.split(" ", 1)[0] == mount_id), None
            )
    except (OSError, KeyError):
        return None
