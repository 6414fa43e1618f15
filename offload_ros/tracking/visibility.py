"""Who sees whom over the map: how far one sees from a point in every direction."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
import math

import numpy as np
import numpy.typing as npt

from offload_ros.tracking.checks import Bools, Floats
from offload_ros.tracking.occupancy import MapView

BEARINGS = 96


@dataclass(frozen=True, eq=False)
class Visibility:
    """How far one sees from points (M, 2): ranges (M, BEARINGS) metres, bearing 0 along x."""

    points: Floats
    ranges: Floats

    def sees(self, places: Floats) -> Bools:
        """Return whether each point is in sight of places (..., 2) or, point by point, (M, ..., 2).

        The result has the shape (M, ...).
        """
        count = len(self.points)
        if places.ndim < 3 or len(places) != count:
            places = np.broadcast_to(places, (count, *places.shape))
        extra = (1,) * (places.ndim - 2)
        x = places[..., 0] - self.points[:, 0].reshape(count, *extra)
        y = places[..., 1] - self.points[:, 1].reshape(count, *extra)
        share = np.arctan2(y, x) * (BEARINGS / (2 * math.pi))
        column = np.rint(share).astype(np.int64) % BEARINGS
        row = np.arange(count).reshape(count, *extra)
        return np.asarray(np.hypot(x, y) <= self.ranges[row, column])


def look_from(view: MapView, points: Floats, reach_m: float, skip_m: float = 0.3) -> Visibility:
    """Return how far one sees from points (M, 2) up to reach_m.

    Occupied cells block the sight, unknown ones do not: what is not known to be hidden is worth
    looking at. Cells within skip_m belong to the person who stands there.
    """
    steps, offsets, width = _fan(view, reach_m, skip_m)
    blocked, pad = view.coarse
    cell = np.floor((points - view.low) / (2 * view.resolution_m)).astype(np.int64)
    cell = np.clip(cell, 0, len(blocked) - 2 * pad - 1) + pad
    # Rays are the same from everywhere, so that only places are added up.
    start = (cell[:, 0] * width + cell[:, 1]).astype(np.int32)
    met = blocked.ravel()[start[:, None, None] + offsets]
    first = np.argmax(met, 2)
    found = np.take_along_axis(met, first[:, :, None], 2)[:, :, 0]
    ranges = np.where(found, steps[first], reach_m)
    return Visibility(points, ranges)


@lru_cache(maxsize=16)
def _rays(
    resolution_m: float, width: int, pad: int, reach_m: float, skip_m: float
) -> tuple[Floats, npt.NDArray[np.int32]]:
    angles = np.arange(BEARINGS) * (2 * math.pi / BEARINGS)
    steps = np.arange(skip_m, min(reach_m, (pad - 1) * resolution_m), 0.75 * resolution_m)
    x = np.rint(np.cos(angles)[:, None] * steps / resolution_m).astype(np.int32)
    y = np.rint(np.sin(angles)[:, None] * steps / resolution_m).astype(np.int32)
    return steps, x * width + y


def _fan(view: MapView, reach_m: float, skip_m: float) -> tuple[Floats, npt.NDArray[np.int32], int]:
    blocked, pad = view.coarse
    width = blocked.shape[1]
    steps, offsets = _rays(2 * view.resolution_m, width, pad, reach_m, skip_m)
    return steps, offsets, width


def in_sight(view: MapView, start: Floats, ends: Floats) -> Bools:
    """Return whether straight lines from start (2,) to ends (N, 2) meet no occupied cell.

    The last 0.3 m do not count: the person there is no obstacle to the sight of the person.
    """
    gaps = ends - start
    length = np.hypot(gaps[:, 0], gaps[:, 1])
    count = max(2, math.ceil(float(length.max(initial=0.0)) / view.resolution_m))
    share = (
        np.linspace(0.0, 1.0, count)[None, :]
        * np.clip(1 - 0.3 / np.maximum(length, 1e-6), 0.0, 1.0)[:, None]
    )
    at = start + gaps[:, None, :] * share[:, :, None]
    x, y, inside = view.cells(at)
    return np.asarray(~(inside & view.occupied[x, y]).any(1))
