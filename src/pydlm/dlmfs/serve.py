"""A mount and the thread that serves it: it waits for the kernel and the lockspaces only."""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Callable
from functools import partial
from typing import Final

from pydlm.dlmfs.chores import Chores
from pydlm.dlmfs.domain import Domain
from pydlm.dlmfs.filesystem import Dlmfs
from pydlm.dlmfs.fuse import Session
from pydlm.dlmfs.lockfile import NodeOwned, OpenOwned
from pydlm.errors import BadArgument, MountFailed
from pydlm.stackglue import connect_stack, stack_connector

__all__ = ["CREATORS", "OWNERS", "Mount"]

#: Who owns a lock: the node, which is this mount, or each open file.
OWNERS: Final = {"node": NodeOwned, "open": OpenOwned}

#: Who may create domains: the mode of the root directory.
CREATORS: Final = {"owner": 0o755, "group": 0o775, "anyone": 0o1777}


class Mount:
    """dlmfs on a directory. `stop` may be called by signal handlers and other threads.

    Raises Unsupported where there is no FUSE, MountFailed, StackUnavailable, BadArgument.
    """

    def __init__(
        self,
        mount_point: str | os.PathLike[str],
        stack: str | None = None,
        *,
        owner: str = "node",
        creators: str = "owner",
        allow_other: bool = False,
        ready: Callable[[], object] = lambda: None,
    ) -> None:
        """`ready` is called once the mount answers."""
        for what, value, known in (("owner", owner, OWNERS), ("creators", creators, CREATORS)):
            if value not in known:
                raise BadArgument(f"{what} is one of {', '.join(known)}, not {value!r}")
        stack_connector(stack, "any")  # there is such a stack
        self._where = os.path.abspath(os.fspath(mount_point))
        _check_mount_point(self._where)
        self._poll = select.poll()
        self._domains: dict[int, Domain] = {}
        self._chores = Chores()
        self.do = self._chores.do
        self._stopping = False
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._files = Dlmfs(
            partial(connect_stack, stack),
            OWNERS[owner],
            self,
            CREATORS[creators],
            ready=ready,
        )
        shown = (stack or "pydlm").replace("\\", "\\\\").replace(",", "\\,")
        options = ["default_permissions", f"fsname={shown}", "subtype=dlmfs"]
        try:
            self._session = Session(self._files, options + ["allow_other"] * allow_other)
        except BaseException:
            os.close(self._bell)
            self._chores.close()
            raise

    def serve(self) -> None:
        """Mount, and serve until it is unmounted or `stop` is called. Once only."""
        try:
            self._session.mount(self._where)
            self._loop()
        finally:
            self._session.unmount()
            self._files.close()
            self._chores.close()
            self._session.destroy()
            bell, self._bell = self._bell, -1  # a signal may still come
            os.close(bell)

    def stop(self) -> None:
        """Have `serve` unmount, and return."""
        self._stopping = True
        if self._bell >= 0:  # else it is over already
            os.eventfd_write(self._bell, 1)

    def _loop(self) -> None:
        session = self._session.fileno()
        self._poll.register(self._bell, select.POLLIN)
        self._poll.register(session, select.POLLIN)
        self._poll.register(self._chores, select.POLLIN)
        chores = self._chores.fileno()
        alive = True
        while alive and not self._stopping:
            for fd, _ in self._poll.poll():
                if fd == session:
                    alive = self._session.dispatch()
                elif fd == chores:
                    self._chores.follow_up()
                elif (domain := self._domains.get(fd)) is not None:
                    domain.settle()
                    if domain.failure is not None:
                        self.left(domain)  # its descriptor may stay readable for ever

    # What the file system tells.

    def joined(self, domain: Domain) -> None:
        """A domain's stack may have something to tell from now on."""
        fd = domain.stack.fileno()
        self._domains[fd] = domain
        self._poll.register(fd, select.POLLIN)

    def left(self, domain: Domain) -> None:
        """It has not any more. Idempotent."""
        fd = domain.stack.fileno()
        if self._domains.pop(fd, None) is not None:
            self._poll.unregister(fd)


def _check_mount_point(where: str) -> None:
    """Raise MountFailed unless something can be mounted there."""
    try:
        mode = os.stat(where).st_mode
    except FileNotFoundError:
        why = "there is no such directory"
    except OSError as error:
        why = f"{error.strerror}; if a mount was left there by a process that has died: umount it"
    else:
        if not stat.S_ISDIR(mode):
            why = "it is no directory"
        elif os.path.ismount(where):
            why = "something is mounted there already"
        else:
            try:
                if not os.listdir(where):
                    return
                why = "the directory is not empty, and what is in it would be hidden"
            except OSError as error:
                why = error.strerror or "it cannot be read"
    raise MountFailed(f"cannot mount on {where}: {why}")
