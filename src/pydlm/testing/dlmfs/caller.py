"""A process that makes system calls as it is told, and its parent's end of it."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
from typing import Any

from pydlm.testing.dlmfs.calls import serve

__all__ = ["Caller"]


class Caller:
    """A forked process that makes calls, one after the other."""

    def __init__(self) -> None:
        self._link, theirs = socket.socketpair()
        self._received = b""
        self.alive = True
        self._pid = os.fork()
        if self._pid == 0:
            try:
                self._link.close()
                with theirs.makefile("rb") as told, theirs.makefile("wb") as tells:
                    serve(told, tells)
            finally:
                os._exit(0)
        theirs.close()
        self._pidfd = os.pidfd_open(self._pid)

    def call(self, name: str, args: list[Any], file: str | None) -> None:
        """Have a call made; `file` is what the descriptor is called that it returns."""
        self._link.sendall(json.dumps([name, args, file]).encode() + b"\n")

    def answer(self, seconds: float) -> dict[str, Any] | None:
        """Return what came of the oldest call; None if it does not return in time, or has died."""
        if not self.alive:
            return None
        while b"\n" not in self._received:
            if not select.select([self._link], [], [], seconds)[0]:
                return None
            try:
                more = self._link.recv(65536)
            except ConnectionResetError:
                more = b""
            if not more:
                return None
            self._received += more
        line, _, self._received = self._received.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def kill(self, number: signal.Signals, seconds: float) -> bool:
        """Send a signal. Return False for a SIGKILL that it does not die of within `seconds`."""
        signal.pidfd_send_signal(self._pidfd, number)
        if number != signal.SIGKILL:
            return True
        self.alive = False
        if not select.select([self._pidfd], [], [], seconds)[0]:
            return False
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._link.close()
        return True
