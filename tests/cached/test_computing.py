"""A thread that computes, and so has the interpreter to itself, lets the keeper in as it passes."""

from __future__ import annotations

import sys

import pytest
from tests.host.machine import Host
from tests.host.processes import PATIENCE, Child


@pytest.mark.parametrize("exclusive", [False, True])
def test_others_get_the_lock(host: Host, exclusive: bool) -> None:
    def body(child: Child) -> None:
        with host.connect() as ls:
            lock = ls.cached("r")
            use = lock.exclusive() if exclusive else lock.shared()
            with use:
                child.say()
            child.hear()
            sys.setswitchinterval(1000)  # from here on nobody else gets in who is not let in
            while True:
                with use:
                    pass

    child = host.child(body)
    child.hear()
    child.say()
    with host.connect() as ls:
        lock = ls.cached("r")
        for _ in range(100):
            with lock.exclusive(timeout=PATIENCE):
                pass
        child.kill()
