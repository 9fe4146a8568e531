"""Lockspaces, and threads that use them, as in the tests of the core."""

from __future__ import annotations

from tests.core.conftest import _uninterrupted, world
from tests.host.conftest import host

__all__ = ["_uninterrupted", "host", "world"]
