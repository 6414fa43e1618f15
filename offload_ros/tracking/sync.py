"""Pairs of messages of one instant, by their stamps: a result and the depth image it belongs to."""

from __future__ import annotations

from bisect import bisect_left, insort
from typing import Generic, TypeVar

from offload_ros.tracking.checks import require, within

First = TypeVar('First')
Second = TypeVar('Second')


class StampPairs(Generic[First, Second]):
    """Gives every first message the second one of the nearest stamp, at most ``slop_s`` apart.

    Results come late and out of order, depth images at once: each side waits, at most ``limit``
    messages and ``wait_s`` of stamps. A second message may serve only one first message. A first
    message is paired as soon as any second within the slop is there whose stamp is equal or that
    nothing can beat any more, else with the best one when a newer second has come.
    """

    def __init__(self, slop_s: float = 0.1, limit: int = 60, wait_s: float = 5.0) -> None:
        """Bounds are checked: ValueError."""
        within('slop_s', slop_s, 0.0, 10.0)
        within('limit', limit, 1, 10_000)
        within('wait_s', wait_s, slop_s, 3600.0)
        self._slop_s, self._limit, self._wait_s = slop_s, limit, wait_s
        self._first: list[tuple[float, int, First]] = []
        self._second: list[tuple[float, int, Second]] = []
        self._serial = 0
        self.dropped = 0

    def add_first(self, stamp_s: float, message: First) -> list[tuple[float, First, Second]]:
        """Add a result; return the pairs that are complete now as (stamp of the first, both)."""
        require(stamp_s == stamp_s, 'a stamp must be a number')
        self._serial += 1
        insort(self._first, (stamp_s, self._serial, message), key=lambda entry: entry[:2])
        return self._pairs()

    def add_second(self, stamp_s: float, message: Second) -> list[tuple[float, First, Second]]:
        """Add a depth image; return the pairs that are complete now."""
        require(stamp_s == stamp_s, 'a stamp must be a number')
        self._serial += 1
        insort(self._second, (stamp_s, self._serial, message), key=lambda entry: entry[:2])
        return self._pairs()

    @property
    def waiting(self) -> tuple[int, int]:
        """Return how many first and second messages wait."""
        return len(self._first), len(self._second)

    def _pairs(self) -> list[tuple[float, First, Second]]:
        found = []
        for entry in list(self._first):
            partner = self._partner(entry[0])
            if partner is not None:
                self._first.remove(entry)
                found.append((entry[0], entry[2], self._second.pop(partner)[2]))
        self._bound()
        return found

    def _partner(self, stamp_s: float) -> int | None:
        """Return the place of the nearest second message if it cannot be beaten any more."""
        stamps = [entry[0] for entry in self._second]
        place = bisect_left(stamps, stamp_s)
        near = [i for i in (place - 1, place) if 0 <= i < len(stamps)]
        near = [i for i in near if abs(stamps[i] - stamp_s) <= self._slop_s]
        if not near:
            return None
        best = min(near, key=lambda i: abs(stamps[i] - stamp_s))
        # Seconds come in the order of their stamps: once one is not older, no better one follows.
        return best if stamps[-1] >= stamp_s else None

    def _bound(self) -> None:
        # Old messages of both sides go: what is older than the newest by more than wait_s.
        newest = (
            max(entries[-1][0] for entries in (self._first, self._second) if entries)
            if (self._first or self._second)
            else 0.0
        )
        for entries in (self._first, self._second):
            old = sum(entry[0] < newest - self._wait_s for entry in entries)
            old = max(old, len(entries) - self._limit)
            if entries is self._first:
                self.dropped += old
            del entries[:old]
