"""A 2-D occupancy map that lidar scans build, and what a planner asks of it.

Log-odds per cell (Moravec and Elfes, "High resolution maps from wide angle sonar", 1985; the
values are those of AGRNav's map). It has a fixed size and moves along with the robot.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
import math

import cv2
import numpy as np
import numpy.typing as npt

from offload_ros.tracking.checks import Bools, Floats, array, finite, within

SIGHT_MAX_M = 12.0
UNKNOWN, FREE, OCCUPIED = -1, 0, 100  # as nav_msgs/OccupancyGrid has them


@dataclass(frozen=True)
class MapConfig:
    """Size of the map in metres and how a ray changes it.

    hit and miss are the probabilities that a cell is occupied after a first ray ended in it or
    passed through it; a cell is occupied from occupied_min on and free up to free_max.
    """

    resolution_m: float = 0.05
    size_m: float = 24.0
    range_max_m: float = 10.0
    hit: float = 0.70
    miss: float = 0.42
    probability_min: float = 0.12
    probability_max: float = 0.95
    occupied_min: float = 0.65
    free_max: float = 0.45
    margin_m: float = 6.0

    def __post_init__(self) -> None:
        within('resolution_m', self.resolution_m, 0.01, 1.0)
        within('size_m', self.size_m, 10 * self.resolution_m, 2000 * self.resolution_m)
        within('range_max_m', self.range_max_m, self.resolution_m, 100.0)
        within('hit', self.hit, 0.5, 0.999)
        within('miss', self.miss, 0.001, 0.5)
        within('probability_min', self.probability_min, 0.001, 0.499)
        within('probability_max', self.probability_max, 0.501, 0.999)
        within('occupied_min', self.occupied_min, 0.5, self.probability_max)
        within('free_max', self.free_max, self.probability_min, 0.5)
        within('margin_m', self.margin_m, 0.0, self.size_m / 2)


@dataclass(frozen=True, eq=False)
class MapView:
    """What is known at one moment; cells are [x, y], cell (0, 0) begins at ``low``.

    occupied, free: (N, N) bool; distance: (N, N) float32 metres from a cell's middle to the nearest
    occupied cell's edge, at least 0. Beyond the map everything is unknown and far from obstacles.
    """

    low: Floats
    resolution_m: float
    occupied: Bools
    free: Bools
    distance: npt.NDArray[np.float32]

    def cells(self, points: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Bools]:
        """Return cell indices (...) of points (..., 2), clipped, and whether they are inside."""
        last = len(self.occupied) - 1
        scaled = np.floor((points - self.low) * (1 / self.resolution_m))
        inside = (scaled >= 0) & (scaled <= last)
        inside = inside[..., 0] & inside[..., 1]
        cell = np.minimum(np.maximum(scaled, 0, out=scaled), last, out=scaled).astype(np.int64)
        return cell[..., 0], cell[..., 1], inside

    @cached_property
    def coarse(self) -> tuple[Bools, int]:
        """Return occupied cells of twice the size, with a border of that many free cells.

        Half as fine is fine enough to see by, and no ray slips through a wall of one cell.
        """
        n = len(self.occupied) // 2
        pairs = self.occupied[: 2 * n, : 2 * n].reshape(n, 2, n, 2).any((1, 3))
        pad = math.ceil(SIGHT_MAX_M / (2 * self.resolution_m)) + 2
        return np.pad(pairs, pad), pad

    def clearance(self, points: Floats) -> Floats:
        """Return the distance (...) of points (..., 2) to the nearest obstacle, metres."""
        x, y, inside = self.cells(points)
        return np.where(inside, self.distance[x, y], self.resolution_m * len(self.occupied))

    def is_free(self, points: Floats) -> Bools:
        """Return whether points (..., 2) are known to be free."""
        x, y, inside = self.cells(points)
        return np.asarray(inside & self.free[x, y])


class OccupancyMap:
    """The map in a fixed frame (odom or map)."""

    def __init__(
        self, config: MapConfig | None = None, centre: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        """Begin with everything unknown around ``centre``."""
        self.config = config or MapConfig()
        step = self.config.resolution_m
        self._count = round(self.config.size_m / step)
        # On whole cells, so that moving the map never blurs it.
        self._corner = np.round(np.array(centre) / step).astype(np.int64) - self._count // 2
        self._odds = np.zeros((self._count, self._count), np.float32)
        self._marked: Floats = np.empty((0, 2))
        self._view: MapView | None = None

    @property
    def low(self) -> Floats:
        """Corner (2,) of the map with the smallest coordinates, metres."""
        return self._corner.astype(np.float64) * self.config.resolution_m

    def insert(
        self,
        origin: npt.ArrayLike,
        ends: npt.ArrayLike,
        hit: npt.NDArray[np.bool_],
        skip: npt.ArrayLike = (),
        skip_radius_m: float = 0.6,
    ) -> None:
        """Add rays from origin (2,) to ends (N, 2), where hit (N,) says that something was met.

        Rays end at range_max_m without a hit. ``skip`` (K, 2) are people: no hit within
        skip_radius_m of them is put into the map, nor what is behind the edge of that circle.
        """
        start, stop = finite('origin', origin, (2,)), finite('ends', ends, (None, 2))
        hit = np.asarray(hit, np.bool_)
        if hit.shape != (len(stop),):
            raise ValueError(f'hit must have the shape ({len(stop)},), not {hit.shape}')
        if not len(stop):
            return
        self.follow(start)
        along = stop - start
        length: Floats = np.asarray(np.hypot(along[:, 0], along[:, 1]), np.float64)
        far = length > self.config.range_max_m
        unit = along / np.maximum(length, 1e-9)[:, None]
        length = np.asarray(np.minimum(length, self.config.range_max_m), np.float64)
        hit = hit & ~far
        for person in array('skip', np.reshape(np.asarray(skip, np.float64), (-1, 2)), (None, 2)):
            near = hit & (np.hypot(*(stop - person).T) <= skip_radius_m)
            hit &= ~near
            length = np.asarray(np.where(near, np.maximum(length - skip_radius_m, 0.0), length))
        self._change(start, unit, length, hit)

    def mark(self, points: npt.ArrayLike) -> None:
        """Take points (N, 2) as occupied whatever the rays say, in place of those marked before."""
        self._marked, self._view = finite('points', points, (None, 2)), None

    def _change(self, start: Floats, unit: Floats, length: Floats, hit: Bools) -> None:
        config, step = self.config, self.config.resolution_m
        # Less than a cell from sample to sample: only corners that a ray barely touches are missed.
        at = np.arange(0.0, float(length.max()) + step, 0.75 * step)
        passed = [
            (start[axis] + unit[:, axis, None] * at)[at[None, :] <= length[:, None]]
            for axis in (0, 1)
        ]
        ended = start + unit[hit] * length[hit][:, None]
        change = np.zeros(self._count * self._count, np.float32)
        change[self._flat(passed[0], passed[1])] = _logit(config.miss)
        change[self._flat(ended[:, 0], ended[:, 1])] = _logit(config.hit)
        odds = self._odds.reshape(-1)
        odds += change
        bounds = _logit(config.probability_min), _logit(config.probability_max)
        np.clip(odds, *bounds, out=odds)
        self._view = None

    def _flat(self, x_m: Floats, y_m: Floats) -> npt.NDArray[np.int64]:
        """Return the places in the flat map of those points that are inside."""
        scale = 1 / self.config.resolution_m
        x = np.floor(x_m * scale).astype(np.int64) - self._corner[0]
        y = np.floor(y_m * scale).astype(np.int64) - self._corner[1]
        inside = (x >= 0) & (x < self._count) & (y >= 0) & (y < self._count)
        result: npt.NDArray[np.int64] = (x * self._count + y)[inside]
        return result

    def follow(self, centre: npt.ArrayLike) -> bool:
        """Move the map so that centre (2,) is not near its edge; what leaves it is forgotten."""
        at = finite('centre', centre, (2,))
        middle = self.low + self.config.size_m / 2
        away = np.abs(at - middle)
        if (away <= self.config.size_m / 2 - self.config.margin_m).all():
            return False
        shift = np.round((at - middle) / self.config.resolution_m).astype(np.int64)
        moved = np.zeros_like(self._odds)
        n = self._count
        if (np.abs(shift) < n).all():
            (ax, bx), (ay, by) = ((max(0, int(s)), min(n, n + int(s))) for s in shift)
            moved[ax - shift[0] : bx - shift[0], ay - shift[1] : by - shift[1]] = self._odds[
                ax:bx, ay:by
            ]
        self._odds, self._corner, self._view = moved, self._corner + shift, None
        return True

    def probability(self) -> Floats:
        """Return the probability (N, N) that each cell is occupied; a half where unknown."""
        result: Floats = 1.0 / (1.0 + np.exp(-self._odds.astype(np.float64)))
        return result

    def grid(self) -> npt.NDArray[np.int8]:
        """Return (N, N) int8 [x, y] of UNKNOWN, FREE and OCCUPIED; a message has [y, x]."""
        view = self.view()
        cells = np.full(view.occupied.shape, UNKNOWN, np.int8)
        cells[view.free], cells[view.occupied] = FREE, OCCUPIED
        return cells

    def view(self) -> MapView:
        """Return what is known now; the same object until the map changes."""
        if self._view is None:
            config = self.config
            occupied = self._odds >= np.float32(_logit(config.occupied_min)) - 1e-4
            free = self._odds <= np.float32(_logit(config.free_max)) + 1e-4
            marked = self._flat(self._marked[:, 0], self._marked[:, 1])
            occupied.ravel()[marked], free.ravel()[marked] = True, False
            self._view = MapView(
                self.low, config.resolution_m, occupied, free,
                distances(occupied, config.resolution_m),
            )  # fmt: skip
        return self._view


def distances(occupied: Bools, resolution_m: float) -> npt.NDArray[np.float32]:
    """Return (N, M) metres from each cell's middle to the nearest occupied cell's edge."""
    if not occupied.any():
        return np.full(occupied.shape, resolution_m * max(occupied.shape), np.float32)
    cells = cv2.distanceTransform((~occupied).astype(np.uint8), cv2.DIST_L2, 5)
    result: npt.NDArray[np.float32] = np.maximum(cells - 0.5, 0.0) * np.float32(resolution_m)
    return result


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
