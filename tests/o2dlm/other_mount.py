"""Serves an empty FUSE file system that is no dlmfs, at its argument, until it is unmounted."""

from __future__ import annotations

import select
import stat
import sys

from pydlm.dlmfs.fuse import Attributes, Operations, Request, Session


class Empty(Operations):
    """A root, and nothing in it."""

    def getattr(self, request: Request, ino: int) -> None:
        request.attributes(Attributes(ino, stat.S_IFDIR | 0o755, 2, 0, 0, 0, 0, 0, 0))


def main() -> None:
    session = Session(Empty(), ["fsname=fuse.dlmfs", "subtype=dlmfs2"])
    session.mount(sys.argv[1])
    try:
        alive = True
        while alive:
            select.select([session.fileno()], [], [])
            alive = session.dispatch()
    finally:
        session.unmount()
        session.destroy()


if __name__ == "__main__":
    main()
