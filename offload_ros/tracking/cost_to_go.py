"""Which places are good to be at soon, and how much driving leads to them: a field over the floor.

What a rollout of two seconds does not reach decides whether it goes the right way round an
obstacle. So every place of a coarse grid gets the smallest sum of the cost of driving to some other
place and the cost of being there (value iteration; shortest paths over eight neighbours).
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from offload_ros.tracking.checks import Floats
from offload_ros.tracking.occupancy import MapView

CELL_M = 0.2
COUNT = 51
_SWEEPS = 72
BLOCKED = 1e3
_LENGTHS: Floats = CELL_M * np.sqrt(np.array([[2.0, 1.0, 2.0], [1.0, 1e-6, 1.0], [2.0, 1.0, 2.0]]))


@dataclass(frozen=True, eq=False)
class Places:
    """A square of cells around the robot: middles (COUNT, COUNT, 2) in metres."""

    low: Floats
    middles: Floats

    @staticmethod
    def around(centre: Floats) -> Places:
        """Return the square whose middle cell holds centre (2,)."""
        low = (np.floor(centre / CELL_M) - COUNT // 2) * CELL_M
        axis = (np.arange(COUNT) + 0.5) * CELL_M
        grid = np.stack(np.meshgrid(axis, axis, indexing='ij'), -1)
        return Places(low, low + grid)

    def value(self, field: Floats, points: Floats) -> Floats:
        """Return the field (COUNT, COUNT) at points (..., 2), bilinear, clipped to the square."""
        scaled = np.clip((points - self.low) / CELL_M - 0.5, 0.0, COUNT - 1.001)
        cell = scaled.astype(np.int64)
        share = scaled - cell
        x, y, sx, sy = cell[..., 0], cell[..., 1], share[..., 0], share[..., 1]
        result: Floats = (
            field[x, y] * (1 - sx) * (1 - sy)
            + field[x + 1, y] * sx * (1 - sy)
            + field[x, y + 1] * (1 - sx) * sy
            + field[x + 1, y + 1] * sx * sy
        )
        return result


def driving_cost(
    places: Places, view: MapView, footprint_m: float, margin_m: float, per_m: float
) -> Floats:
    """Return what a metre through each cell costs (COUNT, COUNT); infinite where it cannot fit.

    Near obstacles and where nothing is known yet a metre costs more.
    """
    clearance = view.clearance(places.middles) - footprint_m
    cost = per_m * (1.0 + 2.0 * np.clip(1.0 - clearance / 0.35, 0.0, 1.0))
    cost = np.where(view.is_free(places.middles), cost, 2.0 * cost)
    return np.where(clearance < margin_m * 0.5, np.inf, cost)


def cost_to_go(being: Floats, driving: Floats) -> Floats:
    """Return (N, N): the smallest cost of driving from a cell to another plus being there.

    being (N, N): cost of ending in a cell; driving (N, N): cost of a metre, infinite: no way.
    Blocked cells cost BLOCKED.
    """
    n = len(being)
    value = np.where(np.isfinite(driving), being, np.inf)
    straight, diagonal = driving * CELL_M, driving * (CELL_M * math.sqrt(2.0))
    padded = np.full((n + 2, n + 2), np.inf)
    for sweep in range(_SWEEPS):
        padded[1:-1, 1:-1] = value
        rows = np.minimum(padded[:-2], padded[2:])
        beside = np.minimum(padded[1:-1, :-2], padded[1:-1, 2:])
        near = np.minimum(rows[:, 1:-1], beside) + straight
        far = np.minimum(rows[:, :-2], rows[:, 2:]) + diagonal
        better = np.minimum(value, np.minimum(near, far))
        if sweep % 6 == 5 and np.array_equal(better, value):
            break
        value = better
    return np.minimum(value, BLOCKED)


def descent(
    places: Places, field: Floats, driving: Floats, start: Floats, ahead: tuple[int, ...]
) -> list[Floats]:
    """Return the places (2,) that the cheapest way from start (2,) has come to after some steps.

    A way that has arrived stays there. ahead: numbers of steps, ascending.
    """
    x, y = (int(value) for value in np.clip(np.floor((start - places.low) / CELL_M), 1, COUNT - 2))
    found = []
    for step in range(1, ahead[-1] + 1):
        if 1 <= x <= COUNT - 2 and 1 <= y <= COUNT - 2:
            near = slice(x - 1, x + 2), slice(y - 1, y + 2)
            # What a neighbour costs from here: its own value and the way there.
            metre = driving[x, y] if np.isfinite(driving[x, y]) else 1.0
            total = field[near] + _LENGTHS * metre
            best = int(np.argmin(total))
            if total.flat[best] < field[x, y] + 1e-9:
                x, y = x + best // 3 - 1, y + best % 3 - 1
        if step in ahead:
            found.append(places.middles[x, y])
    return found
