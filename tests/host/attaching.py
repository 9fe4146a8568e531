"""What the tests of joining a lockspace have in common."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import pytest
from tests.host.machine import Host
from tests.host.processes import Child

import pydlm

NOBODY = 65534

OURS, THEIRS, GROUP = 60001, 60002, 60010

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def made(host: Host, **options: object) -> None:
    """Make a lockspace with something in it, and leave it."""

    def body(me: Child) -> None:
        ls = host.connect(**options)
        locks = [ls.lock(name) for name in ("x", "x", "y" * 60)]
        locks[0].acquire()
        locks[0].lvb = b"v" * 8
        ls.stack.lock(b"orphan", 5, pydlm.LockFlag.PERSISTENT | pydlm.LockFlag.VALBLK)
        ls.close()

    assert host.child(body).join() == 0


def outcome_of(host: Host, act: Callable[[], object]) -> object:
    """Do that in another process; return the exception it raised, or None."""

    def body(me: Child) -> None:
        try:
            act()
        except Exception as error:
            me.say((type(error), str(error)))
        else:
            me.say((None, ""))

    child = host.child(body)
    kind, text = child.hear()
    assert child.join() == 0
    sys.stdout.write(f"{kind} {text}\n")  # shown where a test fails
    return kind


def works(host: Host) -> None:
    with host.connect(capacity=None) as ls, ls.lock("x") as lk:
        lk.lvb = b"works"


def become(uid: int, *groups: int) -> None:
    os.setgroups(groups)
    os.setgid(uid)
    os.setuid(uid)
    os.umask(0o077)
