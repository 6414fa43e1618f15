"""How long a server computes a model, alone and in batches: what its promises are made of."""

from __future__ import annotations

import threading

from offload_ros.robot.window import Window

TYPICAL_OF = 5  # a duration is expected to be the median of so many: slow spells show soon


class Durations:
    """Recent durations by model (its content hash) and size of the batch. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._windows: dict[str, dict[int, Window]] = {}

    def add(self, model_hash: str, size: int, seconds: float) -> None:
        """Take up what a batch of ``size`` took."""
        with self._lock:
            sizes = self._windows.setdefault(model_hash, {})
            sizes.setdefault(size, Window(TYPICAL_OF)).add(seconds)

    def typical_s(self, model_hash: str, size: int = 1) -> float:
        """What a batch of ``size`` is expected to take; 0 while nothing is known.

        Of a size that was never computed: in proportion to the next smaller one, which is too long
        rather than too short, or as the next larger one.
        """
        with self._lock:
            sizes = self._windows.get(model_hash)
            if not sizes:
                return 0.0
            smaller = [each for each in sizes if each <= size]
            known = max(smaller) if smaller else min(sizes)
            return sizes[known].percentile(50) * max(1.0, size / known)
