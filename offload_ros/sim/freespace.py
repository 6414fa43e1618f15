"""Where something round can stand and walk: distances to obstacles on a grid, shortest paths."""

from __future__ import annotations

from collections.abc import Sequence
import heapq
import math

import numpy as np
import numpy.typing as npt

from offload_ros.sim.shapes import Array

CELL_M = 0.1
Cell = tuple[int, int]


class Obstacles:
    """Convex polygons on the floor; distances from points to the nearest of them."""

    def __init__(self, polygons: Sequence[Array]) -> None:
        """Take convex polygons (K, 2), counter-clockwise, metres."""
        starts = list(polygons)
        ends = [np.roll(polygon, -1, 0) for polygon in polygons]
        self._start = np.concatenate(starts) if starts else np.empty((0, 2))
        self._along = (np.concatenate(ends) if ends else np.empty((0, 2))) - self._start
        self._first = np.cumsum([0, *(len(polygon) for polygon in polygons)])[:-1]
        self._square = np.maximum((self._along**2).sum(1), 1e-12)

    def distance(self, points: Array) -> Array:
        """Return the distance (N,) of points (N, 2) to the nearest polygon; 0 inside one."""
        if not len(self._start):
            return np.full(len(points), math.inf)
        offset = points[:, None] - self._start
        share = np.clip((offset * self._along).sum(2) / self._square, 0, 1)
        gap = offset - share[:, :, None] * self._along
        nearest = np.sqrt((gap * gap).sum(2).min(1))
        # A point is inside a counter-clockwise convex polygon when it is left of every edge.
        left = self._along[:, 0] * offset[:, :, 1] - self._along[:, 1] * offset[:, :, 0] >= 0
        inside = np.logical_and.reduceat(left, self._first, axis=1).any(1)
        return np.where(inside, 0.0, nearest)


class FreeSpace:
    """The distance to obstacles of every cell of the room, and paths that keep a clearance."""

    def __init__(self, length_m: float, width_m: float, obstacles: Obstacles) -> None:
        """Measure the room of the given size around the origin."""
        self._low = np.array([-length_m / 2, -width_m / 2])
        self.shape = (math.ceil(length_m / CELL_M), math.ceil(width_m / CELL_M))
        centres = [self._low[i] + (np.arange(self.shape[i]) + 0.5) * CELL_M for i in (0, 1)]
        grid = np.stack(np.meshgrid(*centres, indexing='ij'), -1).reshape(-1, 2)
        blocks = np.array_split(grid, max(1, len(grid) // 500))
        self.obstacles = obstacles
        self.clearance = np.concatenate([obstacles.distance(b) for b in blocks]).reshape(self.shape)
        self._regions: dict[float, npt.NDArray[np.bool_]] = {}

    def cell(self, point: Sequence[float] | Array) -> Cell:
        """Return the cell of a point, the nearest one for points outside."""
        row, column = np.floor((np.asarray(point[:2]) - self._low) / CELL_M).astype(int)
        return (
            int(np.clip(row, 0, self.shape[0] - 1)),
            int(np.clip(column, 0, self.shape[1] - 1)),
        )

    def centre(self, cell: Cell) -> Array:
        """Return the middle (2,) of a cell."""
        return self._low + (np.asarray(cell) + 0.5) * CELL_M

    def region(self, clearance_m: float) -> npt.NDArray[np.bool_]:
        """Return the largest connected set of cells that keep the clearance."""
        if clearance_m not in self._regions:
            self._regions[clearance_m] = _largest(self.clearance >= clearance_m)
        return self._regions[clearance_m]

    def sample(self, clearance_m: float, rng: np.random.Generator) -> Array:
        """Return a random cell centre (2,) of the region; raise ValueError if it is empty."""
        cells = np.argwhere(self.region(clearance_m))
        if not len(cells):
            raise ValueError(f'the room has no place with {clearance_m} m around it')
        return self.centre(tuple(cells[int(rng.integers(len(cells)))]))

    def path(
        self,
        start: Array,
        goal: Array,
        clearance_m: float,
        avoid: Sequence[tuple[Array, float]] = (),
    ) -> list[Array]:
        """Return corners (2,) of a short path from start to goal, or [] where there is none.

        The first corner is start itself. ``avoid`` lists discs (centre, radius) to stay out of.
        """
        free = self.region(clearance_m).copy()
        for centre, radius in avoid:
            # Who stands too close already may leave, but not come closer.
            now = float(np.linalg.norm(start - centre)) - CELL_M
            free &= self._away(centre, min(radius, now))
        source, target = self.cell(start), self.cell(goal)
        free[source] = True  # a walker who has been crowded may still leave
        seed = np.zeros_like(free)
        seed[source] = True
        if not _grow(seed, free)[target]:  # far quicker than a search that finds nothing
            return []
        cells = _a_star(free, source, target)
        corners = [np.asarray(start, float), *(self.centre(cell) for cell in cells[1:])]
        return self._straightened(corners, free)

    def sees(self, start: Array, end: Array) -> bool:
        """Return whether a straight line over the floor meets no obstacle, however low."""
        return self._clear(start, end, self.clearance > 0)

    def _away(self, centre: Array, radius: float) -> npt.NDArray[np.bool_]:
        x = self._low[0] + (np.arange(self.shape[0]) + 0.5) * CELL_M - centre[0]
        y = self._low[1] + (np.arange(self.shape[1]) + 0.5) * CELL_M - centre[1]
        away: npt.NDArray[np.bool_] = x[:, None] ** 2 + y[None, :] ** 2 >= max(0.0, radius) ** 2
        return away

    def _straightened(self, corners: list[Array], free: npt.NDArray[np.bool_]) -> list[Array]:
        """Drop every corner that a straight walk over free cells makes unnecessary."""
        kept, index = corners[:1], 0
        while index < len(corners) - 1:
            last = len(corners) - 1
            while last > index + 1 and not self._clear(corners[index], corners[last], free):
                last -= 1
            kept.append(corners[last])
            index = last
        return kept

    def _clear(self, start: Array, end: Array, free: npt.NDArray[np.bool_]) -> bool:
        steps = max(2, int(np.linalg.norm(end - start) / (CELL_M / 4)))
        points = start + np.linspace(0, 1, steps)[:, None] * (end - start)
        cells = np.floor((points - self._low) / CELL_M).astype(int)
        cells = np.clip(cells, 0, np.asarray(self.shape) - 1)
        return bool(free[cells[:, 0], cells[:, 1]].all())


def _largest(free: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the largest 4-connected part of free."""
    left, best = free.copy(), np.zeros_like(free)
    while left.any():
        seed = np.zeros_like(free)
        seed[tuple(np.argwhere(left)[0])] = True
        grown = _grow(seed, left)
        if grown.sum() > best.sum():
            best = grown
        left &= ~grown
    return best


def _grow(seed: npt.NDArray[np.bool_], free: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return all cells of free that are 4-connected with seed."""
    while True:
        wider = seed.copy()
        wider[1:] |= seed[:-1]
        wider[:-1] |= seed[1:]
        wider[:, 1:] |= seed[:, :-1]
        wider[:, :-1] |= seed[:, 1:]
        wider &= free
        if (wider == seed).all():
            return seed
        seed = wider


_STEPS = [(r, c, math.hypot(r, c)) for r in (-1, 0, 1) for c in (-1, 0, 1) if r or c]


def _a_star(free: npt.NDArray[np.bool_], source: Cell, target: Cell) -> list[Cell]:
    """Return the cells of a shortest 8-connected path, [] where there is none."""
    open_cells: list[tuple[float, Cell]] = [(0.0, source)]
    cost, parent = {source: 0.0}, {source: source}
    closed: set[Cell] = set()
    passable = np.pad(free, 1).tolist()  # a rim of blocked cells spares the bounds checks
    while open_cells:
        _, cell = heapq.heappop(open_cells)
        if cell == target:
            route = [cell]
            while parent[cell] != cell:
                cell = parent[cell]
                route.append(cell)
            return route[::-1]
        if cell in closed:
            continue
        closed.add(cell)
        for row, column, length in _STEPS:
            beside = (cell[0] + row, cell[1] + column)
            if not passable[beside[0] + 1][beside[1] + 1]:
                continue
            total = cost[cell] + length
            if total < cost.get(beside, math.inf):
                cost[beside], parent[beside] = total, cell
                ahead = math.hypot(target[0] - beside[0], target[1] - beside[1])
                heapq.heappush(open_cells, (total + ahead, beside))
    return []
