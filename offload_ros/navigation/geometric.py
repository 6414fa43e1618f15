"""A*: a way of straight pieces from start to goal, on the ground where that is not much longer.

Costs are those of AGRNav's search (ICRA 2024): squared length of a step, a penalty that grows with
the height in the air, and a heuristic that is larger than the way, so that it hurries to the goal.
"""

from __future__ import annotations

from heapq import heappop, heappush
import math
import time

import numpy as np

from offload_ros.navigation.flood import flood
from offload_ros.navigation.lattice import Cell, Found, Lattice
from offload_ros.navigation.plan_config import GeometricConfig
from offload_ros.navigation.space import Space
from offload_ros.tracking.checks import Floats

_MANY = 300  # expansions after which it is worth finding out whether there is any way
_LEAST_FLIGHT_M = 1.0
_NO_WAY: Floats = np.empty((0, 3))


def _hurried(lattice: Lattice, deadline_s: float) -> tuple[Found, Floats]:
    """Return how the search ended and the way (M, 3), from start to goal."""
    cells, ground = lattice.free.tobytes(), lattice.ground
    gz, gx, gy = lattice.last
    factor = lattice.config.heuristic * lattice.space.resolution_m
    height = lattice.height_cost.tolist()
    moves = [lattice.moves(layer) for layer in range(ground, lattice.shape[0] - ground)]
    first = lattice.flat(lattice.first)
    cost: dict[int, float] = {first: 0.0}
    parent: dict[int, int] = {}
    closed: set[int] = set()
    heap: list[tuple[float, int, Cell]] = [(0.0, first, lattice.first)]
    while heap:
        _, flat, cell = heappop(heap)
        if flat in closed:
            continue
        closed.add(flat)
        if lattice.near(cell) and lattice.arrives(cell):
            return Found.WAY, _way(lattice, parent, flat)
        if len(closed) % 128 == 0 and time.monotonic() > deadline_s:
            return Found.LATE, _NO_WAY
        if len(closed) == _MANY:
            # Where it floods rather than hurries, many at once are faster than one by one.
            return flood(lattice, deadline_s) if lattice.connected() else (Found.NONE, _NO_WAY)
        own = cost[flat]
        z, x, y = cell
        for off, far, squared, (dz, dx, dy) in moves[z - ground]:
            there = flat + far
            if there in closed or not cells[there]:
                continue
            if not all(cells[middle] for middle in range(flat + off, there, off)):
                continue
            total = own + squared + height[z + dz]
            if total < cost.get(there, math.inf):
                cost[there], parent[there] = total, flat
                nz, nx, ny = z + dz, x + dx, y + dy
                away = math.sqrt((nz - gz) ** 2 + (nx - gx) ** 2 + (ny - gy) ** 2)
                heappush(heap, (total + factor * away, there, (nz, nx, ny)))
    return Found.NONE, _NO_WAY


def _way(lattice: Lattice, parent: dict[int, int], flat: int) -> Floats:
    cells = [lattice.cell_of(flat)]
    while flat in parent:
        flat = parent[flat]
        cells.append(lattice.cell_of(flat))
    return lattice.way(cells[::-1])


def search(
    space: Space, start: Floats, goal: Floats, config: GeometricConfig, deadline_s: float
) -> tuple[Found, Floats]:
    """Return how the search ended and a way (M, 3) on which the robot fits, from start to goal.

    start and goal (3,) are places where it fits. deadline_s: of time.monotonic. Between places on
    the floor a way on the floor is looked for first; one that flies is taken where that is none or
    costs more, a metre flown counting ``flight_price`` metres.
    """
    driven, ends = _NO_WAY, np.array([start, goal])
    if not space.airborne(ends).any():
        found, driven = _on_grids(space, start, goal, config, deadline_s, False)
        # Over anything at all the robot flies about a metre: up, across, down.
        least = math.dist(start, goal) + (config.flight_price - 1) * _LEAST_FLIGHT_M
        if found is Found.LATE or not space.body.flies:
            return found, driven
        if found is Found.WAY and priced(space, driven, config.flight_price) <= least:
            return found, driven
    found, way = _on_grids(space, start, goal, config, deadline_s, True)
    if not len(driven):
        return found, way
    if found is not Found.WAY:
        return Found.WAY, driven
    prices = [priced(space, each, config.flight_price) for each in (driven, way)]
    return Found.WAY, way if prices[1] < prices[0] else driven


def priced(space: Space, way: Floats, flight_price: float) -> float:
    """Return the length of a way (M, 3) in metres; what is flown counts flight_price times."""
    up = space.airborne(way)
    lengths = np.sqrt((np.diff(way, axis=0) ** 2).sum(1))
    return float((lengths * np.where(up[1:] | up[:-1], flight_price, 1.0)).sum())


def _on_grids(
    space: Space,
    start: Floats,
    goal: Floats,
    config: GeometricConfig,
    deadline_s: float,
    flies: bool,
) -> tuple[Found, Floats]:
    """Search on the grid of the configuration, then, if that is too coarse, on the map's own."""
    coarse = max(1, round(config.cell_m / space.resolution_m))
    for step in sorted({coarse, 1}, reverse=True):
        lattice = Lattice(space, start, goal, config, step, flies)
        found, way = _hurried(lattice, deadline_s)
        if found is Found.WAY:
            return found, shortened(space, way)
        if found is Found.LATE or not lattice.connected():
            return found, _NO_WAY
    return Found.NONE, _NO_WAY


def shortened(space: Space, way: Floats) -> Floats:
    """Return a way (K, 3) of fewer pieces, each straight and free, that stays on the ground as far.

    Corners where the robot takes off or lands are kept: a straight line over them would fly more.
    """
    up = space.airborne(way)
    keep = [way[0]]
    at = 0
    while at < len(way) - 1:
        # A run ends where the mode changes; its last point is the first in the other mode.
        run = at + 1
        while run < len(way) - 1 and up[run] == up[at + 1]:
            run += 1
        if up[run] != up[at + 1] and run > at + 1:
            run -= 1
        if up[at] and not up[at + 1]:
            run = at + 1
        best, width = at + 1, 1
        while best < run:
            further = min(best + width, run)
            if space.line_fits(way[at], way[further]):
                best, width = further, width * 2
            elif width == 1:
                break
            else:
                width = 1
        at = best
        keep.append(way[at])
    return np.array(keep)
