"""What a robot would run into although the 2-D scan passes below it: tables, beds, chairs.

Obstacle points of a 3-D lidar, by cell of the floor. A cell stays until the lidar looks through the
place where something was: what has walked away goes at once, and a table top stays also when it is
too near to be seen.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
import numpy.typing as npt

from offload_ros.tracking.checks import Bools, Floats, finite, within

_BIN_RAD = math.radians(2.0)  # of the picture of ranges that tells what is looked through
_COLUMNS, _ROWS = round(2 * math.pi / _BIN_RAD), round(math.pi / _BIN_RAD)
_THROUGH_M = 0.2


@dataclass(frozen=True)
class OverhangConfig:
    """Obstacles are points from low_m to high_m above the floor, up to range_max_m away.

    A cell is an obstacle from the hits-th cloud on that shows it.
    """

    resolution_m: float = 0.05
    low_m: float = 0.05
    high_m: float = 1.9
    range_max_m: float = 8.0
    hits: int = 2

    def __post_init__(self) -> None:
        within('resolution_m', self.resolution_m, 0.01, 1.0)
        within('low_m', self.low_m, -1.0, 5.0)
        within('high_m', self.high_m, self.low_m, 10.0)
        within('range_max_m', self.range_max_m, self.resolution_m, 100.0)
        within('hits', self.hits, 1, 100)


class Overhangs:
    """Cells in a fixed frame whose z = 0 is the floor."""

    def __init__(self, config: OverhangConfig | None = None) -> None:
        """Begin without any."""
        self.config = config or OverhangConfig()
        self._cells = np.empty((0, 2), np.int64)
        self._heights: Floats = np.empty(0)
        self._hits = np.empty(0, np.int64)

    @property
    def points(self) -> Floats:
        """Return the middles (N, 2) of the cells that are obstacles."""
        sure = self._hits >= self.config.hits
        return self._middles()[sure]

    def _middles(self) -> Floats:
        return np.asarray((self._cells + 0.5) * self.config.resolution_m, np.float64)

    def obstacles(self, points: Floats) -> Floats:
        """Return those points (N, 3) of a cloud in the fixed frame that are in the way."""
        z = points[:, 2]
        return points[(z >= self.config.low_m) & (z <= self.config.high_m)]

    def insert(
        self,
        origin: npt.ArrayLike,
        points: npt.ArrayLike,
        skip: npt.ArrayLike = (),
        skip_radius_m: float = 0.6,
    ) -> None:
        """Add a whole cloud: points (N, 3) seen from origin (3,), the floor and all.

        No obstacle is within skip_radius_m of ``skip`` (K, 2), which are people.
        """
        eye, seen = finite('origin', origin, (3,)), finite('points', points, (None, 3))
        self._forget(eye, seen)
        near = np.hypot(*(seen[:, :2] - eye[:2]).T) <= self.config.range_max_m
        solid = self.obstacles(seen[near])
        for person in np.reshape(np.asarray(skip, np.float64), (-1, 2)):
            solid = solid[np.hypot(*(solid[:, :2] - person).T) > skip_radius_m]
            at = self._middles()
            self._keep(np.hypot(*(at - person).T) > skip_radius_m)
        self._add(solid)

    def _forget(self, eye: Floats, seen: Floats) -> None:
        """Drop what is far away, and what the lidar looks through."""
        if not len(self._cells):
            return
        at = self._middles()
        away = np.hypot(*(at - eye[:2]).T)
        places = np.concatenate([at, self._heights[:, None]], 1)
        column, row, distance = _polar(places - eye)
        nearest = np.full((_COLUMNS, _ROWS), -np.inf)
        columns, rows, ranges = _polar(seen - eye)
        # The nearest of a bin: all that went there must have passed by.
        order = np.argsort(-ranges)
        nearest[columns[order], rows[order]] = ranges[order]
        through = nearest[column, row] > distance + _THROUGH_M
        self._keep(~through & (away <= 2 * self.config.range_max_m))

    def _keep(self, kept: Bools) -> None:
        self._cells, self._heights = self._cells[kept], self._heights[kept]
        self._hits = self._hits[kept]

    def _add(self, solid: Floats) -> None:
        if not len(solid):
            return
        cells = np.floor(solid[:, :2] / self.config.resolution_m).astype(np.int64)
        fresh, first = np.unique(cells, axis=0, return_index=True)
        together = np.concatenate([self._cells, fresh])
        heights = np.concatenate([self._heights, solid[first, 2]])
        hits = np.concatenate([self._hits, np.ones(len(fresh), np.int64)])
        self._cells, place = np.unique(together, axis=0, return_inverse=True)
        place = place.reshape(-1)
        self._hits = np.minimum(np.bincount(place, hits).astype(np.int64), 100)
        self._heights = np.empty(len(self._cells))
        self._heights[place] = heights  # the newest stands last


def nearest_by_direction(points: Floats, origin: Floats, columns: int = 360) -> Floats:
    """Return of points (N, 3) the nearest one in each direction from origin (3,) over the floor."""
    along = points[:, :2] - origin[:2]
    column = np.floor(np.arctan2(along[:, 1], along[:, 0]) * (columns / (2 * math.pi)))
    order = np.lexsort((np.hypot(along[:, 0], along[:, 1]), column))
    _, first = np.unique(column[order], return_index=True)
    result: Floats = points[order[first]]
    return result


def _polar(
    along: Floats,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Floats]:
    """Column and row of the picture of ranges (N,), and range (N,), of directions (N, 3)."""
    flat = np.hypot(along[:, 0], along[:, 1])
    column = np.floor(np.arctan2(along[:, 1], along[:, 0]) / _BIN_RAD).astype(np.int64) % _COLUMNS
    row = np.floor((np.arctan2(along[:, 2], flat) + math.pi / 2) / _BIN_RAD).astype(np.int64)
    return column, np.clip(row, 0, _ROWS - 1), np.asarray(np.hypot(flat, along[:, 2]))
