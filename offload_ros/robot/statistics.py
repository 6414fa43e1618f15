"""Counts and recent times of one model on the robot."""

from __future__ import annotations

import math
import threading
import time

from offload_ros.robot.answer import Answer
from offload_ros.robot.window import Window

SPAN_S = 5.0


class Statistics:
    """Counts since start; medians and rates over the last ``SPAN_S``. Safe between threads."""

    PARTS = ('robot_s', 'uplink_s', 'server_s', 'downlink_s', 'total_s', 'energy_j')

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._windows = {part: Window(2000, SPAN_S) for part in self.PARTS}
        self.accepted = self.results = self.dropped = self.fallbacks = self.late = self.errors = 0
        self.bytes_up = self.bytes_down = 0
        self.last: Answer | None = None

    def frame_accepted(self) -> int:
        """A frame was taken up, exactly one result follows; its number, from 1 without gaps."""
        with self._lock:
            self.accepted += 1
            return self.accepted

    def frame_dropped(self) -> None:
        """A newer frame replaced one that was not taken up yet."""
        with self._lock:
            self.dropped += 1

    def answered(self, answer: Answer) -> None:
        """A result was published."""
        now = time.monotonic()
        with self._lock:
            self.results += 1
            self.fallbacks += answer.fallback
            self.late += answer.late
            self.errors += bool(answer.error)
            self.bytes_up += answer.bytes_up
            self.bytes_down += answer.bytes_down
            self.last = answer
        for part, window in self._windows.items():
            value = getattr(answer, part)
            if math.isfinite(value):  # errors have no energy
                window.add(value, now)

    def rate_hz(self) -> float:
        """Results per second lately."""
        return self._windows['total_s'].rate_hz(time.monotonic())

    def median(self, part: str) -> float:
        """Recent median of one of ``PARTS``, in seconds or joules; NaN without results."""
        return self._windows[part].percentile(50, time.monotonic())

    def p95_total_s(self) -> float:
        """Recent 95th percentile of receipt to publication in seconds; NaN without results."""
        return self._windows['total_s'].percentile(95, time.monotonic())
