"""Measured quantities of a fleet, and whether they have changed for long enough to plan anew."""

from __future__ import annotations

from collections import deque
import math

SPAN_S = 3.0  # over which rates are measured
LEAST_SPAN_S = 2.0


class Rate:
    """Events per second lately, of a count that only rises while its source lives."""

    def __init__(self) -> None:
        self._counts: deque[tuple[float, int]] = deque()

    def count(self, count: int, now_s: float) -> None:
        """So many so far."""
        if self._counts and count < self._counts[-1][1]:  # its source was started again
            self._counts.clear()
        self._counts.append((now_s, count))
        while len(self._counts) > 2 and now_s - self._counts[1][0] >= SPAN_S:
            self._counts.popleft()

    @property
    def per_s(self) -> float:
        """NaN: not known yet."""
        if not self._counts:
            return math.nan
        (began_s, first), (ended_s, last) = self._counts[0], self._counts[-1]
        span_s = ended_s - began_s
        return (last - first) / span_s if span_s >= LEAST_SPAN_S else math.nan


class Drift:
    """One quantity as it is planned with, and as it is measured since."""

    def __init__(self, planned: float) -> None:
        self.planned = planned
        self.newest = planned
        self._since_s = math.inf  # when it left what is planned with

    def seen(self, measured: float, change: float, now_s: float) -> None:
        """``change``: relative, from which on it counts. NaN tells nothing."""
        if math.isnan(measured):
            return
        self.newest = measured
        if abs(measured - self.planned) <= change * self.planned:
            self._since_s = math.inf
        else:
            self._since_s = min(self._since_s, now_s)

    def due(self, hold_s: float, now_s: float) -> bool:
        """Whether it has been another one for so long."""
        return now_s - self._since_s >= hold_s

    def take(self) -> float:
        """Plan with what was measured last."""
        self.planned, self._since_s = self.newest, math.inf
        return self.planned
