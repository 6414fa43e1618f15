"""A rolling 3-D occupancy map that point clouds build, and what a network predicts beside it.

Log-odds per voxel (Moravec and Elfes, 1985) with AGRNav's constants. What was predicted but not
observed is kept apart: it blocks as an obstacle does, and goes as soon as a ray passes through it.
Arrays are [x, y, z] and lie in memory layer by layer, since distances are computed so.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
import numpy.typing as npt
from scipy.ndimage import distance_transform_edt

from offload_ros.navigation.rays import Cells, traversed
from offload_ros.navigation.voxels import GridPose, VoxelGrid
from offload_ros.tracking.checks import Bools, Floats, array, finite, require, within

_FREE_BELOW = -1e-4  # a hit and a miss are nought but for rounding
_FAR_M = 1e6


@dataclass(frozen=True)
class VoxelMapConfig:
    """Size of the map in metres and how a ray changes it.

    hit, miss: probability that a voxel is occupied after a first ray ended in it or passed through
    it; a voxel is occupied from occupied_min on, and observed free below a half. Returns nearer
    than range_min_m are the robot itself. The map begins at floor_m - resolution_m, and its middle
    follows the robot, once that is nearer than margin_m to an edge. columns: a predicted voxel
    between column_low_m and column_top_m above the floor marks all unobserved ones of its column
    between these heights, as published; it blocks flying over.
    """

    resolution_m: float = 0.1
    length_m: float = 20.0
    height_m: float = 5.0
    floor_m: float = 0.0
    hit: float = 0.65
    miss: float = 0.35
    probability_min: float = 0.12
    probability_max: float = 0.90
    occupied_min: float = 0.80
    range_min_m: float = 0.5
    range_max_m: float = 8.5
    margin_m: float = 6.0
    columns: bool = False
    column_low_m: float = 0.1
    column_top_m: float = 3.0

    def __post_init__(self) -> None:
        within('resolution_m', self.resolution_m, 0.02, 1.0)
        within('length_m', self.length_m, 4 * self.resolution_m, 500 * self.resolution_m)
        within('height_m', self.height_m, 2 * self.resolution_m, 200 * self.resolution_m)
        within('floor_m', self.floor_m, -1e4, 1e4)
        within('hit', self.hit, 0.501, 0.999)
        within('miss', self.miss, 0.001, 0.499)
        within('probability_min', self.probability_min, 0.001, 0.499)
        within('probability_max', self.probability_max, 0.501, 0.999)
        within('occupied_min', self.occupied_min, 0.5, self.probability_max)
        within('range_min_m', self.range_min_m, 0.0, 10.0)
        within('range_max_m', self.range_max_m, self.range_min_m, 200.0)
        within('margin_m', self.margin_m, 0.0, self.length_m / 2)
        within('column_low_m', self.column_low_m, 0.0, 100.0)
        within('column_top_m', self.column_top_m, self.column_low_m, 100.0)
        require(
            abs(self.floor_m / self.resolution_m - round(self.floor_m / self.resolution_m)) < 1e-6,
            f'floor_m must be a multiple of resolution_m, not {self.floor_m!r}',
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along x, y and z."""
        across = round(self.length_m / self.resolution_m)
        return across, across, round(self.height_m / self.resolution_m)


class VoxelMap:
    """The map in a fixed frame (odom or map); z is up."""

    def __init__(
        self, config: VoxelMapConfig | None = None, centre: tuple[float, float] = (0.0, 0.0)
    ) -> None:
        """Begin with everything unknown around ``centre``."""
        self.config = config or VoxelMapConfig()
        step = self.config.resolution_m
        across = self.config.shape[0]
        require(max(map(abs, centre)) <= _FAR_M, f'the map ends {_FAR_M:g} m from the origin')
        # On whole voxels, so that moving the map never blurs it.
        x, y = (round(value / step) - across // 2 for value in centre)
        self.corner: Cells = np.array([x, y, round(self.config.floor_m / step) - 1], np.int64)
        self._odds = _layers(self.config.shape, np.float32)
        self._seen = _layers(self.config.shape, np.bool_)
        self._predicted = _layers(self.config.shape, np.bool_)
        self._doubted = _layers(self.config.shape, np.bool_)
        self._felt = _layers(self.config.shape, np.bool_)

    @property
    def low(self) -> Floats:
        """Corner (3,) of the map with the smallest coordinates, metres."""
        low: Floats = self.corner.astype(np.float64) * self.config.resolution_m
        return low

    def insert(self, origin: npt.ArrayLike, ends: npt.ArrayLike, hit: npt.ArrayLike) -> None:
        """Add rays from origin (3,) to ends (N, 3) in the map; hit (N,): something was met there.

        Rays end at range_max_m without a hit. Rays whose end is not finite are left out. A voxel
        counts once per call; one in which a ray ends and through which another passes, as hit. Of
        rays that hit the same voxel only the first one clears what it passes through.
        ValueError for other shapes or an origin that is not finite.
        """
        start = finite('origin', origin, (3,))
        stop = array('ends', ends if np.size(ends) else np.empty((0, 3)), (None, 3))
        met = np.asarray(hit, np.bool_).reshape(-1)
        require(len(met) == len(stop), f'hit must have the shape ({len(stop)},), not {met.shape}')
        length: Floats = np.sqrt(((stop - start) ** 2).sum(1))
        good = np.isfinite(length) & (length >= self.config.range_min_m)
        stop, met, length = stop[good], met[good], length[good]
        self.follow(start[:2])
        far = length > self.config.range_max_m
        met = met & ~far
        share = np.minimum(self.config.range_max_m / np.maximum(length, 1e-9), 1.0)
        scale = 1 / self.config.resolution_m
        first = start * scale - self.corner
        rays = (start + (stop - start) * share[:, None]) * scale - self.corner
        # Rays that end in the same voxel pass through nearly the same ones. Misses stay, as few of
        # them share a voxel.
        ended = np.floor(rays[met]).astype(np.int64)
        _, one = np.unique(ended @ (1 << 40, 1 << 20, 1), return_index=True)
        passed = self._inside(traversed(first, np.concatenate((rays[met][one], rays[~met]))))
        self._change(passed, self._inside(ended[one]))

    def _change(self, passed: tuple[Cells, ...], ended: tuple[Cells, ...]) -> None:
        config = self.config
        change = _layers(config.shape, np.float32)
        change[passed] = _logit(config.miss)
        change[ended] = _logit(config.hit)
        self._odds += change
        low, high = _logit(config.probability_min), _logit(config.probability_max)
        np.clip(self._odds, low, high, out=self._odds)
        self._seen[passed] = True
        self._seen[ended] = True
        # Whatever is observed free is no longer predicted, even if it should be forgotten later.
        self._predicted[passed] &= self._odds[passed] > _FREE_BELOW

    def complete(self, labels: npt.NDArray[np.uint8], grid: VoxelGrid, pose: GridPose) -> None:
        """Mark what a network predicts to be occupied (not 0) where nothing has been observed.

        labels (W, H, D) of a grid at pose. They replace what was predicted before within that grid:
        the newest prediction has seen most. ValueError for another shape.
        """
        require(labels.shape == grid.shape, f'labels must be {grid.shape}, not {labels.shape}')
        where = np.argwhere(labels)
        old = np.argwhere(self._predicted)
        if len(old):
            self._predicted[tuple(old[self._touched(old, grid, pose)].T)] = False
        if not len(where):
            return
        # A voxel of the grid may cover several of the map; turned, it lies across them.
        parts = math.ceil(grid.voxel_m / self.config.resolution_m - 1e-6) + (pose.yaw != 0.0)
        axis = (np.arange(parts) + 0.5) / parts
        offsets = np.stack(np.meshgrid(axis, axis, axis), -1).reshape(-1, 3)
        points = (where[:, None, (0, 2, 1)] + offsets).reshape(-1, 3) * grid.voxel_m + grid.low_m
        scaled = pose.out_of(points) / self.config.resolution_m
        # Rounded first: a middle that should lie on a plane lies a hair beside it.
        cells = self._inside(np.floor(np.round(scaled, 6)).astype(np.int64) - self.corner)
        self._predicted[cells] = ~(self.free[cells] | self.occupied[cells] | self._doubted[cells])

    def _touched(self, cells: Cells, grid: VoxelGrid, pose: GridPose) -> Bools:
        """Return which voxels (N, 3) reach into a grid, also those whose middles do not."""
        at = pose.into(self._middles_of(cells))
        slack = self.config.resolution_m / 2 * (math.sqrt(2) if pose.yaw else 1.0)
        low = np.array(grid.low_m, np.float64)
        high = low + np.array([grid.width, grid.depth, grid.height]) * grid.voxel_m
        return np.asarray(((at > low - slack) & (at < high + slack)).all(1))

    def clear_predicted(self, place: npt.ArrayLike, radius_m: float, height_m: float) -> None:
        """Withdraw what is predicted where the robot itself is.

        That is an upright cylinder above place (3,), metres; whole voxels whose middles are in it.
        """
        self._predicted &= ~self._cylinder(place, radius_m, height_m)

    def _cylinder(self, place: npt.ArrayLike, radius_m: float, height_m: float) -> Bools:
        """Return the voxels (X, Y, Z) whose middles are in an upright cylinder above place (3,)."""
        x, y, z = finite('place', place, (3,)).tolist()
        step = self.config.resolution_m
        axes = [
            (np.arange(n) + c + 0.5) * step
            for n, c in zip(self.config.shape, self.corner, strict=True)
        ]
        flat = (axes[0][:, None] - x) ** 2 + (axes[1] - y) ** 2 <= radius_m**2
        high = (axes[2] >= z) & (axes[2] <= z + height_m)
        marked = _layers(self.config.shape, np.bool_)
        marked[np.nonzero(flat)] = high
        return marked

    def doubt(self, places: npt.ArrayLike, radius_m: float, height_m: float) -> None:
        """Believe no prediction on a way until ``trust``.

        That is in all columns within radius_m of places (N, 3), metres, between radius_m below the
        lowest and height_m above the highest of them.
        """
        way = finite('places', places, (None, 3))
        config = self.config
        near = np.ones(config.shape[:2], np.bool_)
        cells = np.floor(way[:, :2] / config.resolution_m + 1e-9).astype(np.int64) - self.corner[:2]
        near[self._columns(cells)] = False
        apart = distance_transform_edt(near, sampling=config.resolution_m)
        heights = (np.arange(config.shape[2]) + self.corner[2] + 0.5) * config.resolution_m
        level = (heights >= way[:, 2].min() - radius_m) & (heights <= way[:, 2].max() + height_m)
        self._doubted |= (apart <= radius_m)[:, :, None] & level
        self._predicted &= ~self._doubted

    def trust(self) -> None:
        """Believe predictions everywhere again, as they come; forget what was felt."""
        self._doubted[:] = False
        self._felt[:] = False

    def feel(self, place: npt.ArrayLike, radius_m: float, height_m: float) -> None:
        """Take an upright cylinder above place (3,), metres, as occupied whatever rays say, until
        ``trust``: the robot was held there by what no ray meets."""
        self._felt |= self._cylinder(place, radius_m, height_m)

    def _columns(self, cells: Cells) -> tuple[Cells, ...]:
        kept = cells[((cells >= 0) & (cells < self.config.shape[:2])).all(1)]
        return tuple(kept.T)

    def _inside(self, cells: Cells) -> tuple[Cells, ...]:
        """Return the indices along x, y and z of those voxels (N, 3) that the map has."""
        kept = cells[((cells >= 0) & (cells < self.config.shape)).all(1)]
        return tuple(kept.T)

    def follow(self, centre: npt.ArrayLike) -> bool:
        """Move the map if centre (2,) is near its edge; return whether it moved.

        What leaves the map is forgotten. ValueError if centre is not finite or beyond 1e6 m.
        """
        config = self.config
        at = finite('centre', centre, (2,))
        require(bool((np.abs(at) <= _FAR_M).all()), f'the map ends {_FAR_M:g} m from the origin')
        middle = self.low[:2] + config.length_m / 2
        if (np.abs(at - middle) <= config.length_m / 2 - config.margin_m).all():
            return False
        x, y = (int(s) for s in np.round((at - middle) / config.resolution_m))
        if not x and not y:
            return False
        self._odds = _moved(self._odds, x, y)
        self._seen = _moved(self._seen, x, y)
        self._predicted = _moved(self._predicted, x, y)
        self._doubted = _moved(self._doubted, x, y)
        self._felt = _moved(self._felt, x, y)
        self.corner = self.corner + np.array([x, y, 0])
        return True

    @property
    def occupied(self) -> Bools:
        """Voxels (X, Y, Z) that were observed to be occupied, or felt."""
        seen = self._odds >= np.float32(_logit(self.config.occupied_min) - 1e-4)
        return np.asarray(seen | self._felt)

    @property
    def free(self) -> Bools:
        """Voxels (X, Y, Z) that were observed to be free."""
        return np.asarray(self._seen & (self._odds < _FREE_BELOW))

    @property
    def seen(self) -> Bools:
        """Voxels (X, Y, Z) that any ray has touched."""
        return np.array(self._seen, order='K')

    @property
    def predicted(self) -> Bools:
        """Voxels (X, Y, Z) that are taken as occupied though nobody has seen them so."""
        marked = self._predicted.copy(order='K')
        if self.config.columns:
            # The floor is one voxel above the lowest.
            low, top = (
                round(height / self.config.resolution_m) + 1
                for height in (self.config.column_low_m, self.config.column_top_m)
            )
            columns = marked[:, :, low:top].any(2)
            marked[:, :, low:top] |= columns[:, :, None]
        return np.asarray(marked & ~self.free & ~self.occupied & ~self._doubted)

    @property
    def blocked(self) -> Bools:
        """Voxels (X, Y, Z) that are observed or predicted to be occupied."""
        return np.asarray(self.occupied | self.predicted)

    def probability(self) -> Floats:
        """Return the probability (X, Y, Z) that each voxel is occupied; a half where unknown."""
        result: Floats = 1.0 / (1.0 + np.exp(-self._odds.astype(np.float64)))
        return result

    def middles(self, marked: Bools) -> Floats:
        """Return the middles (N, 3) of the voxels that are marked (X, Y, Z), metres."""
        return self._middles_of(np.argwhere(marked))

    def _middles_of(self, cells: Cells) -> Floats:
        middles: Floats = (cells + self.corner).astype(np.float64) + 0.5
        return middles * self.config.resolution_m


def _layers(shape: tuple[int, int, int], kind: type) -> npt.NDArray:
    """Return zeros [x, y, z] whose layers of one height lie together in memory."""
    x, y, z = shape
    values: npt.NDArray = np.zeros((z, x, y), kind).transpose(1, 2, 0)
    return values


def _moved(values: npt.NDArray, x: int, y: int) -> npt.NDArray:
    """Return values [x, y, z] seen from a corner that is x, y further; zero where new."""
    result = np.zeros_like(values)
    across = len(values)
    if max(abs(x), abs(y)) < across:
        (ax, bx), (ay, by) = ((max(0, s), min(across, across + s)) for s in (x, y))
        result[ax - x : bx - x, ay - y : by - y] = values[ax:bx, ay:by]
    return result


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
