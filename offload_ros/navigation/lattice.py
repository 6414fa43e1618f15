"""The places that the search for a way may step on, and the steps between them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from itertools import product

import numpy as np
from scipy import ndimage

from offload_ros.navigation.plan_config import GeometricConfig
from offload_ros.navigation.space import Space
from offload_ros.tracking.checks import Floats

_HAIR_M = 1e-6
Cell = tuple[int, int, int]  # layer, x, y in the padded space
Move = tuple[int, int, float, Cell]  # flat offset, times the step; squared length; cells


class Found(Enum):
    """How a search ended."""

    WAY = 'way'
    NONE = 'no way exists'
    LATE = 'the time was up'


class Lattice:
    """Every ``step``-th voxel in all directions, as counted from the start's.

    A border of blocked voxels as wide as a step surrounds the space. The robot takes off and lands
    straight up and down: layer ``ground`` is the floor.
    """

    def __init__(
        self,
        space: Space,
        start: Floats,
        goal: Floats,
        config: GeometricConfig,
        step: int,
        flies: bool = True,
    ) -> None:
        """start, goal: (3,), where the robot fits. step: in voxels. flies: it may take off."""
        self.space, self.start, self.goal, self.config, self.step = space, start, goal, config, step
        self.free = np.pad(space.layers if flies else space.layers[:1], step)
        self.shape = self.free.shape
        self.ground = step
        self.first, self.last = self._cell(start), self._cell(goal)
        _, nx, ny = self.shape
        self.across = nx * ny
        size = space.resolution_m * step
        self.level: list[Move] = []
        self.slanted: list[Move] = []
        for dz, dx, dy in product((-1, 0, 1), repeat=3):
            if dz or dx or dy:
                off = (dz * nx + dx) * ny + dy
                squared = (dx * dx + dy * dy + dz * dz) * size * size
                move = (off, off * step, squared, (dz * step, dx * step, dy * step))
                (self.slanted if dz else self.level).append(move)
        self.rising = [move for move in self.slanted if move[3][0] > 0]
        self.take_off = [move for move in self.rising if move[3][1:] == (0, 0)]
        # Cost of being on each layer: AGRNav's airborne penalty, 2 z / 2 by default.
        height = (np.arange(self.shape[0]) - self.ground) * space.resolution_m
        self.height_cost = config.airborne * np.maximum(height, 0.0) / 2

    def landing(self, drop: int) -> Move:
        """Return the move straight down to the floor from ``drop`` layers above it."""
        squared = (drop * self.space.resolution_m) ** 2
        return -self.across, -self.across * drop, squared, (-drop, 0, 0)

    def moves(self, layer: int) -> list[Move]:
        """Return the moves from a layer."""
        if layer == self.ground:
            return self.level + self.take_off
        if layer > self.ground + self.step:
            return self.level + self.slanted
        return [*self.level, *self.rising, self.landing(layer - self.ground)]

    def _cell(self, point: Floats) -> Cell:
        space, pad = self.space, self.step
        up = float(point[2]) - space.floor_m
        layer = max(round(up / space.resolution_m), 1) if bool(space.airborne(point)) else 0
        layer = min(layer, self.shape[0] - 2 * pad - 1)
        cells = []
        # On the edge between voxels it may fit in one of them only.
        for hair in product((_HAIR_M, -_HAIR_M), repeat=2):
            at = np.floor((point[:2] + hair - space.low[:2]) / space.resolution_m)
            x, y = (int(min(max(v, 0), n - 1)) for v, n in zip(at, space.ground.shape, strict=True))
            cells.append((layer + pad, x + pad, y + pad))
        return next((cell for cell in cells if self.free[cell]), cells[0])

    def flat(self, cell: Cell) -> int:
        """Return the flat index of a cell."""
        return int(cell[0] * self.across + cell[1] * self.shape[2] + cell[2])

    def cell_of(self, flat: int) -> Cell:
        """Return the cell of a flat index."""
        layer, rest = divmod(flat, self.across)
        x, y = divmod(rest, self.shape[2])
        return layer, x, y

    def point(self, cell: Cell) -> Floats:
        """Return the place (3,) of a cell's middle."""
        z, x, y = (value - self.step for value in cell)
        space = self.space
        at = space.low[:2] + (np.array([x, y]) + 0.5) * space.resolution_m
        return np.array([*at, space.floor_m + z * space.resolution_m])

    def connected(self) -> bool:
        """Return whether any way of free voxels leads from start to goal."""
        labels, _ = ndimage.label(self.free, np.ones((3, 3, 3)))
        return bool(labels[self.first] == labels[self.last] != 0)

    def near(self, cell: Cell) -> bool:
        """Return whether a cell is within a step of the goal's."""
        return all(abs(a - b) <= self.step for a, b in zip(cell, self.last, strict=True))

    def arrives(self, cell: Cell) -> bool:
        """Return whether a straight line leads from a cell to the goal."""
        return self.space.line_fits(self.point(cell), self.goal)

    def way(self, cells: Sequence[Cell]) -> Floats:
        """Return the way (M, 3) from the start through cells to the goal.

        The start lies in its own voxel, so that a line to the middle of it is free.
        """
        return np.array([self.start, *(self.point(one) for one in cells), self.goal])
