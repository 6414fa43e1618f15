"""Where a motion is to end: the goal, a free place beside it, or a stage on the way to it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
import math

import numpy as np
from scipy import ndimage

from offload_ros.navigation.space import Space
from offload_ros.tracking.checks import Bools, Floats

_INSET_M = 0.5  # from the map's edge where a goal beyond it is approached
_CLOSER_M = 0.2  # a stage must be nearer to the goal by so much
_TOUCHING = 0.25  # voxels; a gap below is none
_THROUGH = 1.5  # voxels without a gap, of a line that leads through something


class Whither(Enum):
    """What a destination is to the goal that was asked for."""

    GOAL = 'the goal'
    BESIDE = 'the free place nearest to the goal'
    STAGE = 'the place on the map nearest to the goal, which lies outside'
    BLOCKED = 'the goal is inside of an obstacle'
    UNREACHABLE = 'no free place beside the goal can be reached'
    OUTSIDE = 'the goal is not on the map'


@dataclass(frozen=True, eq=False)
class Destination:
    """Where to go: place (3,), None if there is no such place."""

    kind: Whither
    place: Floats | None = None


def destination(
    space: Space, start: Floats, goal: Floats, tolerance_m: float, approach: bool
) -> Destination:
    """Return where a motion from start to goal, both (3,), should end.

    A goal that is not free is moved by at most tolerance_m, to a place that can be reached. One
    outside the map is approached as far as the map reaches, unless approach is false. On the floor
    if the goal is, or the robot does not fly.
    """
    goal = goal.copy()
    if not space.body.flies or not bool(space.airborne(goal)):
        goal[2] = space.floor_m
    if not space.inside(goal):
        if not approach:
            return Destination(Whither.OUTSIDE)
        stage = _stage(space, start, goal)
        return Destination(Whither.OUTSIDE if stage is None else Whither.STAGE, stage)
    if space.fits(goal[None])[0]:
        return Destination(Whither.GOAL, goal)
    places = space.near(goal, tolerance_m)
    if not len(places):
        return Destination(Whither.BLOCKED)
    joined = connected(space, start)[_indices(space, places)]
    if not joined.any():
        return Destination(Whither.UNREACHABLE)
    return Destination(Whither.BESIDE, places[int(np.argmax(joined))])


def connected(space: Space, start: Floats) -> Bools:
    """Return which of ``space.layers`` (L, X, Y) hang together with the place start (3,)."""
    labels, _ = ndimage.label(space.layers, np.ones((3, 3, 3)))
    here = labels[_indices(space, start[None])][0]
    if here == 0:  # on an edge between voxels
        beside = space.near(start, 2 * space.resolution_m)
        here = labels[_indices(space, beside)][0] if len(beside) else -1
    return np.asarray(labels == here)


def _indices(space: Space, places: Floats) -> tuple[np.ndarray, ...]:
    """Return layers and cells (N,) each of places (N, 3)."""
    x, y = np.floor((places[:, :2] - space.low[:2]) / space.resolution_m + 1e-9).astype(np.int64).T
    layer = np.rint((places[:, 2] - space.floor_m) / space.resolution_m).astype(np.int64)
    layer = np.where(space.airborne(places), np.maximum(layer, 1), 0)
    return tuple(
        np.clip(values, 0, size - 1)
        for values, size in zip((layer, x, y), space.layers.shape, strict=True)
    )


def _stage(space: Space, start: Floats, goal: Floats) -> Floats | None:
    """Return the place that can be reached nearest to where the line to the goal leaves the map."""
    size = np.array(space.ground.shape) * space.resolution_m
    inset = min(_INSET_M, float(size.min()) / 4)
    low, high = space.low[:2] + inset, space.low[:2] + size - inset
    border = goal.copy()
    way = goal[:2] - start[:2]
    if ((start[:2] > low) & (start[:2] < high)).all():
        edges = np.where(way > 0, high, low)
        shares = (edges - start[:2])[way != 0] / way[way != 0]
        border[:2] = start[:2] + way * min(1.0, *shares.tolist(), 1.0)
    border[:2] = np.clip(border[:2], low, high)
    border[2] = min(max(border[2], space.floor_m), space.top_m)
    joined = connected(space, start)
    up = math.ceil(0.1 / space.resolution_m - 1e-9) if bool(space.airborne(border)) else 0
    layer, x, y = np.nonzero(joined[up:] if up else joined[:1])
    if not len(x):
        return None
    places = np.empty((len(x), 3))
    places[:, 0] = space.low[0] + (x + 0.5) * space.resolution_m
    places[:, 1] = space.low[1] + (y + 0.5) * space.resolution_m
    places[:, 2] = space.floor_m + (layer + up) * space.resolution_m
    nearest: Floats = places[int(np.argmin(((places - border) ** 2).sum(1)))]
    if math.dist(nearest, border) > math.dist(start, border) - _CLOSER_M:
        return None
    return nearest


def escape(space: Space, start: Floats, within_m: float) -> Floats | None:
    """Return the nearest free place (3,) on a line that leads away from what is near to start (3,).

    None if there is none within that distance. A line through something to its other side is none.
    """
    places = space.near(start, within_m)
    if not len(places):
        return None
    shares = np.linspace(0.0, 1.0, 31)[:, None, None]
    lines = start + shares * (places - start)
    room = space.margin(lines.reshape(-1, 3))[0].reshape(len(shares), -1)
    body, step = space.body, space.resolution_m
    gap = room + (body.air_radius_m if bool(space.airborne(start)) else body.ground_radius_m)
    touched = (gap < _TOUCHING * step).mean(0) * np.sqrt(((places - start) ** 2).sum(1))
    away = (room.min(0) >= room[0] - 0.5 * step) & (touched <= _THROUGH * step)
    return places[int(np.argmax(away))] if away.any() else None
