"""Three locks in a ring, and two that walk round it.

Each releases a lock that the other waits for, then waits for the next one, which the other holds.
Nobody releases what somebody else acquired, and nobody can take a lock back before the other has
had it, so every acquire but the very first is a hand-over; and the program runs unchanged with any
kind of lock.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from time import perf_counter_ns
from typing import Any

__all__ = ["Ring", "begin_following", "begin_leading", "follow", "handovers", "lead"]

#: The three locks, as one of the two has them.
Ring = Sequence[Any]


def begin_leading(ring: Ring) -> None:
    """Take what the leader holds when the walk begins."""
    ring[0].acquire()
    ring[2].acquire()


def begin_following(ring: Ring) -> None:
    """Take what the follower holds when the walk begins."""
    ring[1].acquire()


def lead(ring: Ring, rounds: int) -> list[int]:
    """Walk round; return the time before each release that is followed by a wait."""
    a, b, c = ring
    stamps: list[int] = []
    for _ in range(rounds):
        stamps.append(perf_counter_ns())
        a.release()
        b.acquire()
        stamps.append(perf_counter_ns())
        c.release()
        a.acquire()
        stamps.append(perf_counter_ns())
        b.release()
        c.acquire()
    return stamps


def follow(ring: Ring, rounds: int) -> None:
    """Walk round behind the leader."""
    a, b, c = ring
    for _ in range(rounds):
        a.acquire()
        b.release()
        c.acquire()
        a.release()
        b.acquire()
        c.release()


def handovers(stamps: list[int]) -> list[float]:
    """Return nanoseconds for each: from stamp to stamp it goes there and back."""
    return [(after - before) / 2 for before, after in pairwise(stamps)]
