"""The search for a way where it has to look at much: many places at a time.

The best places are expanded together rather than one by one (k-best-first search: Felner, Kraus and
Korf, "KBFS: K-best-first search", 2003), which NumPy does faster than a loop. A place that becomes
cheaper later is expanded again.
"""

from __future__ import annotations

import time

import numpy as np
import numpy.typing as npt

from offload_ros.navigation.lattice import Found, Lattice, Move
from offload_ros.tracking.checks import Bools, Floats

Places = npt.NDArray[np.int64]
_AT_ONCE = 250
_NO_WAY: Floats = np.empty((0, 3))


def flood(lattice: Lattice, deadline_s: float) -> tuple[Found, Floats]:
    """Return how the search ended and the way (M, 3). deadline_s: of time.monotonic."""
    free = lattice.free.reshape(-1)
    cost = np.full(free.size, np.inf, np.float32)
    parent = np.full(free.size, -1, np.int32)
    waiting = np.zeros(free.size, np.bool_)
    guess = _guesses(lattice)
    first = lattice.flat(lattice.first)
    cost[first], waiting[first] = 0.0, True
    refused: set[int] = set()
    while time.monotonic() <= deadline_s:
        chosen: Places = np.flatnonzero(waiting)
        if not len(chosen):
            return Found.NONE, _NO_WAY
        if len(chosen) > _AT_ONCE:
            best = np.argpartition(cost[chosen] + guess[chosen], _AT_ONCE)
            chosen = chosen[best[:_AT_ONCE]]
        waiting[chosen] = False
        for flat in _beside(lattice, chosen):
            if flat not in refused and lattice.arrives(lattice.cell_of(flat)):
                return Found.WAY, _way(lattice, parent, flat)
            refused.add(flat)
        _expand(lattice, free, cost, parent, waiting, chosen)
    return Found.LATE, _NO_WAY


def _guesses(lattice: Lattice) -> npt.NDArray[np.float32]:
    """Return what the way from each place to the goal may cost, for all places (N,)."""
    axes = [
        (np.arange(size, dtype=np.float32) - at) ** 2
        for size, at in zip(lattice.shape, lattice.last, strict=True)
    ]
    squared = axes[0][:, None, None] + axes[1][:, None] + axes[2]
    factor = np.float32(lattice.config.heuristic * lattice.space.resolution_m)
    guess: npt.NDArray[np.float32] = factor * np.sqrt(squared)
    return guess.reshape(-1)


def _beside(lattice: Lattice, places: Places) -> list[int]:
    """Return those of the places that are within a step of the goal's."""
    _, nx, ny = lattice.shape
    layer, rest = np.divmod(places, nx * ny)
    x, y = np.divmod(rest, ny)
    away = np.abs(np.stack((layer, x, y), 1) - lattice.last).max(1)
    return [int(flat) for flat in places[away <= lattice.step]]


def _expand(
    lattice: Lattice,
    free: Bools,
    cost: npt.NDArray[np.float32],
    parent: npt.NDArray[np.int32],
    waiting: Bools,
    places: Places,
) -> None:
    """Take every move from places; what becomes cheaper waits to be expanded."""
    up = places // lattice.across - lattice.ground
    driving, flying, high = places[up == 0], places[up > 0], places[up > lattice.step]
    pairs: list[tuple[Move, Places]] = [(move, places) for move in lattice.level]
    pairs += [(move, driving) for move in lattice.take_off]
    pairs += [(move, flying) for move in lattice.rising]
    pairs += [(move, high) for move in lattice.slanted if move[3][0] < 0]
    pairs += [(lattice.landing(drop), places[up == drop]) for drop in range(1, lattice.step + 1)]
    height_cost = lattice.height_cost.astype(np.float32)
    for (off, far, squared, _), begun in pairs:
        if not len(begun):
            continue
        good = free[begun + far]
        for part in range(1, abs(far // off)):
            good = good & free[begun + part * off]
        begun = begun[good]
        there = begun + far
        total = cost[begun] + np.float32(squared) + height_cost[there // lattice.across]
        less = total < cost[there]
        begun, there = begun[less], there[less]
        cost[there], parent[there] = total[less], begun
        waiting[there] = True


def _way(lattice: Lattice, parent: npt.NDArray[np.int32], flat: int) -> Floats:
    cells = []
    while flat >= 0:
        cells.append(lattice.cell_of(flat))
        flat = int(parent[flat])
    return lattice.way(cells[::-1])
