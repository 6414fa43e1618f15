"""Recent measurements of one quantity: median, 95th percentile, rate."""

from __future__ import annotations

from collections import deque
import math
import threading


class Window:
    """The last ``length`` values, at most ``span_s`` old when asked with a time. Safe between
    threads."""

    def __init__(self, length: int = 100, span_s: float = math.inf) -> None:
        self._values: deque[tuple[float, float]] = deque(maxlen=length)
        self._span_s = span_s
        self._lock = threading.Lock()

    def add(self, value: float, now_s: float = 0.0) -> None:
        """Take up ``value``, measured at ``now_s`` (steady clock)."""
        with self._lock:
            self._values.append((now_s, value))

    def percentile(self, percent: float, now_s: float = 0.0) -> float:
        """The value below which ``percent`` of the recent ones lie; NaN without any."""
        values = sorted(self._recent(now_s))
        if not values:
            return math.nan
        # As numpy's linear interpolation, which costs 50 us a call: this is asked for every frame.
        position = (len(values) - 1) * percent / 100.0
        low = math.floor(position)
        high = min(low + 1, len(values) - 1)
        return values[low] + (values[high] - values[low]) * (position - low)

    def values(self, now_s: float = 0.0) -> list[float]:
        """The recent ones, the oldest first."""
        return self._recent(now_s)

    def rate_hz(self, now_s: float) -> float:
        """Values per second over the span (over the time since the first one while that is
        shorter)."""
        with self._lock:
            times = [time_s for time_s, _ in self._values]
        recent = sum(now_s - time_s <= self._span_s for time_s in times)
        if recent < len(times):
            return recent / self._span_s
        # Between n values lie n - 1 intervals, and time since the last one counts as well.
        return (recent - 1) / (now_s - times[0]) if recent > 1 and now_s > times[0] else 0.0

    def _recent(self, now_s: float) -> list[float]:
        with self._lock:
            return [value for time_s, value in self._values if now_s - time_s <= self._span_s]
