"""The followed person in the lidar's scan: between two results, and at once.

A result is some tenths of a second old when it comes, the scan is not. So what the scan shows near
where the person is expected, and the map does not know, is taken as a measurement, too; only to
follow somebody whom the network has just seen, never to find anybody.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from offload_ros.tracking.checks import Bools, Floats
from offload_ros.tracking.kalman import Gaussian, gate, innovation, predict, update
from offload_ros.tracking.occupancy import MapView

_REACH_M, _BODY_M = 0.5, 0.35
_POINTS_MIN = 3
_MAPPED_M = 0.12
_SURFACE_M = 0.06  # the middle of a leg is that far behind its front
_SIGMA_M = 0.18  # legs swing about the body
_GATE = gate(0.99)


class ScanFilter:
    """The latest scans; carries a belief of the past over them to the present."""

    def __init__(self, limit: int = 30) -> None:
        """Keep up to ``limit`` scans."""
        self._scans: deque[tuple[float, Floats, Floats]] = deque(maxlen=limit)

    def add(self, stamp_s: float, points: Floats, origin: Floats, view: MapView) -> None:
        """Add a scan: points (N, 2) in the map's frame, seen from origin (2,)."""
        if self._scans and stamp_s <= self._scans[-1][0]:
            return
        self._scans.append((stamp_s, points[unmapped(points, view)], origin))

    @property
    def newest(self) -> tuple[Floats, Floats]:
        """Return what the newest scan shows and the map does not: points (N, 2), and its origin."""
        return self._scans[-1][1:] if self._scans else (np.empty((0, 2)), np.zeros(2))

    def carried(self, belief: Gaussian, seen_s: float, now_s: float, intensity: float) -> Gaussian:
        """Return the belief of seen_s at now_s, after all scans between that show the person."""
        at_s = seen_s
        for stamp_s, points, origin in self._scans:
            if not at_s < stamp_s <= now_s:
                continue
            ahead = predict(belief, stamp_s - at_s, intensity)
            found = body_in(points, ahead.position, origin)
            if found is not None:
                measurement = _SIGMA_M**2 * np.eye(2)
                if innovation(ahead, found, measurement)[2] <= _GATE:
                    belief, at_s = update(ahead, found, measurement), stamp_s
        return predict(belief, now_s - at_s, intensity)


def unmapped(points: Floats, view: MapView) -> Bools:
    """Return which points (N, 2) the map does not know: people, and what has been moved."""
    return np.asarray(view.clearance(points) > _MAPPED_M)


def body_in(points: Floats, expected: Floats, origin: Floats) -> Floats | None:
    """Return the middle (2,) of what points (N, 2) show near expected (2,), None for nothing."""
    centre = expected
    for reach in (_REACH_M, _BODY_M, _BODY_M):
        near = points[np.hypot(points[:, 0] - centre[0], points[:, 1] - centre[1]) <= reach]
        if len(near) < _POINTS_MIN:
            return None
        centre = near.mean(0)
    ray = centre - origin
    result: Floats = centre + ray * (_SURFACE_M / max(float(np.hypot(*ray)), 1e-6))
    return result
