"""All that can be done with a handle and with a connection, but for closing them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydlm import Mode

#: Of a handle.
HANDLE_USES: dict[str, Callable[[Any], object]] = {
    "acquire": lambda lk: lk.acquire(),
    "acquire at once": lambda lk: lk.acquire(blocking=False),
    "acquire PR": lambda lk: lk.acquire(mode=Mode.PR),
    "release": lambda lk: lk.release(),
    "convert": lambda lk: lk.convert(Mode.PR),
    "cancel": lambda lk: lk.cancel(),
    "held": lambda lk: lk.held().__enter__(),
    "enter": lambda lk: lk.__enter__(),
    "exit": lambda lk: lk.__exit__(None, None, None),
    "name": lambda lk: lk.name,
    "lkid": lambda lk: lk.lkid,
    "granted": lambda lk: lk.granted,
    "requested": lambda lk: lk.requested,
    "token": lambda lk: lk.token,
    "blocked": lambda lk: lk.blocked,
    "fileno": lambda lk: lk.fileno(),
    "lvb": lambda lk: lk.lvb,
    "lvb=": lambda lk: setattr(lk, "lvb", b"other"),
    "lvb_valid": lambda lk: lk.lvb_valid,
}
#: Of a connection.
SPACE_USES: dict[str, Callable[[Any], object]] = {
    "lock": lambda ls: ls.lock("x"),
    "fileno": lambda ls: ls.fileno(),
    "dispatch": lambda ls: ls.dispatch(),
    "dump": lambda ls: ls.dump(),
    "raw lock": lambda ls: ls.stack.lock("x", Mode.NL),
    "raw convert": lambda ls: ls.stack.convert(1, Mode.NL),
    "raw unlock": lambda ls: ls.stack.unlock(1),
    "raw deadlock_cancel": lambda ls: ls.stack.deadlock_cancel(1),
    "raw purge": lambda ls: ls.stack.purge(0),
    "raw lock_status": lambda ls: ls.stack.lock_status(1),
    "raw lvb": lambda ls: ls.stack.lvb(1),
    "raw lvb_valid": lambda ls: ls.stack.lvb_valid(1),
    "raw abandon": lambda ls: ls.stack.abandon(),
}
