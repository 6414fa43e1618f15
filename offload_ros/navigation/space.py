"""Where the robot fits, on the ground and in the air, and how much room it has there.

A place is given by the point of the floor under the standing robot, or as far below the flying one:
z is the height of the wheels. On the ground the robot is a cylinder; in the air it is a ball whose
lowest point is not under z. The floor is flat and known: what is below ``step_m`` is no obstacle.

Distances are from the nearest point of a voxel to the nearest point of an occupied one, so they
hold for every point of both: "fits" is never wrong by the map's resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import product
import math

import numpy as np
import numpy.typing as npt

from offload_ros.navigation.distance_field import REACH_MAX, DistanceField, Squares, flat_squares
from offload_ros.navigation.voxel_map import VoxelMap
from offload_ros.tracking.checks import Bools, Floats, require, within

AIRBORNE_M = 0.1  # from this height on the robot flies (AGRNav)
SAMPLE_M = 0.02  # from sample to sample where a line is checked
# Kept besides the radius: the nearest sample that is in the same mode may be so far away.
_SLACK_M = SAMPLE_M
_HAIR_M = 1e-6
_AROUND = np.array(list(product((-_HAIR_M, _HAIR_M), repeat=3)))


@dataclass(frozen=True)
class Body:
    """The robot: a cylinder on the ground, a ball in the air.

    step_m: obstacles below are driven over and are no obstacles in the air either; at least the
    height of the floor's own voxels. ceiling_m: greatest height that it flies at.
    """

    ground_radius_m: float = 0.22
    ground_height_m: float = 0.5
    air_radius_m: float = 0.25
    step_m: float = 0.1
    ceiling_m: float = 3.0
    flies: bool = True

    def __post_init__(self) -> None:
        within('ground_radius_m', self.ground_radius_m, 0.05, 2.0)
        within('ground_height_m', self.ground_height_m, 0.05, 3.0)
        within('air_radius_m', self.air_radius_m, 0.05, 2.0)
        within('step_m', self.step_m, 0.0, self.ground_height_m - 0.01)
        within('ceiling_m', self.ceiling_m, 2 * AIRBORNE_M, 100.0)


@dataclass(frozen=True, eq=False)
class Space:
    """What is known at one moment.

    low (3,): the map's lowest corner, metres. air (X, Y, Z), ground (X, Y): squared distances in
    voxels, at most reach squared, from a voxel to the nearest occupied one of those that concern
    the robot in that mode.
    """

    low: Floats
    resolution_m: float
    floor_m: float
    body: Body
    air: Squares
    ground: Squares
    reach: int

    @cached_property
    def centre_m(self) -> float:
        """Height of the ball's middle above z: the middle of a voxel when z is a multiple."""
        cells = math.ceil(self.body.air_radius_m / self.resolution_m - 0.5 - 1e-9)
        return (max(cells, 0) + 0.5) * self.resolution_m

    @cached_property
    def air_ok(self) -> Bools:
        """Voxels (X, Y, Z) in which the middle of the ball may be."""
        return np.asarray(self.air >= self._needed(self.body.air_radius_m))

    @cached_property
    def ground_ok(self) -> Bools:
        """Cells (X, Y) in which the cylinder may stand."""
        return np.asarray(self.ground >= self._needed(self.body.ground_radius_m))

    def _needed(self, radius_m: float) -> int:
        return math.ceil(((radius_m + _SLACK_M) / self.resolution_m) ** 2 - 1e-9)

    @cached_property
    def top_m(self) -> float:
        """Greatest z: the ceiling, or where the ball leaves the map."""
        top = float(self.low[2]) + self.air.shape[2] * self.resolution_m - 2 * self.centre_m
        return float(max(min(self.floor_m + self.body.ceiling_m, top), self.floor_m))

    @cached_property
    def layers(self) -> Bools:
        """Where the robot fits, (L, X, Y): layer l is at z = floor + l times the resolution."""
        height = np.arange(int((self.top_m - self.floor_m) / self.resolution_m + 1e-6) + 1)
        if not self.body.flies:
            height = height[:1]
        result = np.empty((len(height), *self.ground.shape), np.bool_)
        for layer in height:
            up = layer * self.resolution_m
            if up < AIRBORNE_M - 1e-9:
                result[layer] = self.ground_ok
            else:
                middle = self.floor_m + up + self.centre_m - self.low[2]
                result[layer] = self.air_ok[:, :, int(middle / self.resolution_m)]
        return result

    def airborne(self, points: Floats) -> Bools:
        """Return whether points (..., 3) are up in the air."""
        return np.asarray(points[..., 2] - self.floor_m >= AIRBORNE_M - 1e-9)

    def inside(self, points: Floats) -> Bools:
        """Return whether points (..., 3) are on the map, above the floor, under the ceiling."""
        size = np.array(self.ground.shape) * self.resolution_m
        at = points[..., :2] - self.low[:2]
        flat = ((at >= 0) & (at < size)).all(-1)
        z = points[..., 2]
        return np.asarray(flat & (z >= self.floor_m - _HAIR_M) & (z <= self.top_m + _HAIR_M))

    def fits(self, points: Floats) -> Bools:
        """Return whether the robot fits at points (N, 3); what is outside does not."""
        inside = self.inside(points)
        up = self.airborne(points)
        good = inside & self._voxel_ok(points, up)
        # On the edge between voxels the distance of any of them holds.
        unsure = np.flatnonzero(inside & ~good)
        if len(unsure):
            near = (points[unsure] + _AROUND[:, None]).reshape(-1, 3)
            better = self._voxel_ok(near, np.tile(up[unsure], len(_AROUND)))
            good[unsure] = better.reshape(len(_AROUND), -1).any(0)
        return np.asarray(good)

    def _voxel_ok(self, points: Floats, up: Bools) -> Bools:
        # Points that are none of the map are found elsewhere; only their indices must be some.
        scaled = (points - self.low) / self.resolution_m
        scaled[:, 2] += self.centre_m / self.resolution_m
        cells = np.minimum(np.maximum(scaled, 0.0), np.array(self.air.shape) - 0.5)
        x, y, z = cells.astype(np.int64).T
        flying = self.air_ok[x, y, z] if self.body.flies else np.zeros(len(points), np.bool_)
        return np.asarray(np.where(up, flying, self.ground_ok[x, y]))

    def line_fits(self, start: Floats, end: Floats) -> bool:
        """Return whether the robot fits all along a straight line, its ends (3,) included.

        Exact: one place is looked at between any two changes of voxel or mode.
        """
        step, along = self.resolution_m, end - start
        planes = (*self.low[:2], float(self.low[2]) - self.centre_m)
        cuts = [np.array([0.0, 1.0])]
        for axis in range(3):
            if abs(along[axis]) > 1e-9:
                first, last = sorted((start[axis], end[axis]))
                numbers = np.arange(
                    math.ceil((first - planes[axis]) / step),
                    math.floor((last - planes[axis]) / step) + 1,
                )
                cuts.append((numbers * step + planes[axis] - start[axis]) / along[axis])
        if abs(along[2]) > 1e-9:
            cuts.append(np.array([(self.floor_m + AIRBORNE_M - start[2]) / along[2]]))
        shares = np.sort(np.clip(np.concatenate(cuts), 0.0, 1.0))
        shares = np.concatenate(([0.0, 1.0], (shares[1:] + shares[:-1]) / 2))
        return bool(self.fits(start + shares[:, None] * along).all())

    def margin(self, points: Floats) -> tuple[Floats, Floats]:
        """Return the room (N,) around the body at points (N, 3), metres, and its gradient (N, 3).

        Interpolated between the middles of voxels; negative where the body would touch something.
        """
        up = self.airborne(points) & self.body.flies
        scaled = (points - self.low) / self.resolution_m
        value, gradient = np.empty(len(points)), np.zeros_like(points)
        if not up.all():
            at = scaled[~up][:, :2] - 0.5
            value[~up], gradient[~up, :2] = self._interpolated(self.ground, at)
            value[~up] -= self.body.ground_radius_m
        if up.any():
            at = scaled[up] - 0.5
            at[:, 2] += self.centre_m / self.resolution_m
            value[up], gradient[up] = self._interpolated(self.air, at)
            value[up] -= self.body.air_radius_m
        return value, gradient

    def _interpolated(self, squares: Squares, at: Floats) -> tuple[Floats, Floats]:
        """Return distances (N,) in metres at places (N, D) in voxels, and gradients (N, D)."""
        axes = at.shape[1]
        at = np.clip(at, 0.0, np.array(squares.shape) - 1.001)
        cell = at.astype(np.int64)
        share = at - cell
        corners = np.array(list(product((0, 1), repeat=axes)))
        index = tuple((cell[:, None, axis] + corners[:, axis]) for axis in range(axes))
        root = np.sqrt(squares[index].astype(np.float64)) * self.resolution_m
        parts = np.where(corners == 1, share[:, None, :], 1 - share[:, None, :])
        value = (root * parts.prod(2)).sum(1)
        gradient = np.empty_like(at)
        for axis in range(axes):
            others = np.delete(parts, axis, 2).prod(2)
            sign = np.where(corners[:, axis] == 1, 1.0, -1.0)
            gradient[:, axis] = (root * others * sign).sum(1) / self.resolution_m
        return value, gradient

    def near(self, point: Floats, within_m: float) -> Floats:
        """Return places (N, 3) within a distance where the robot fits, the nearest first.

        Middles of voxels; on the ground if point (3,) is, in the air otherwise.
        """
        layer = round((float(point[2]) - self.floor_m) / self.resolution_m)
        reach = math.ceil(within_m / self.resolution_m) + 1
        if not self.airborne(point):
            heights = [0]
        else:
            lowest = math.ceil(AIRBORNE_M / self.resolution_m - 1e-9)
            last = min(len(self.layers) - 1, layer + reach)
            heights = list(range(max(lowest, layer - reach), last + 1))
        if not heights:
            return np.empty((0, 3))
        at = np.floor((point[:2] - self.low[:2]) / self.resolution_m).astype(np.int64)
        x, y = np.maximum(at - reach, 0)
        part = self.layers[
            heights[0] : heights[-1] + 1,
            x : max(int(at[0]) + reach + 1, 0),
            y : max(int(at[1]) + reach + 1, 0),
        ]
        found = np.argwhere(part)
        places = np.empty((len(found), 3))
        places[:, 0] = self.low[0] + (found[:, 1] + x + 0.5) * self.resolution_m
        places[:, 1] = self.low[1] + (found[:, 2] + y + 0.5) * self.resolution_m
        places[:, 2] = self.floor_m + (found[:, 0] + heights[0]) * self.resolution_m
        away = ((places - point) ** 2).sum(1)
        order = np.argsort(away, kind='stable')
        result: Floats = places[order[away[order] <= within_m**2]]
        return result


class SpaceBuilder:
    """Makes spaces of a map that changes; distances are renewed only where it did."""

    def __init__(self, body: Body | None = None, margin_m: float = 0.6) -> None:
        """margin_m: up to which room beside the body distances are told apart."""
        self.body = body or Body()
        within('margin_m', margin_m, 0.1, 10.0)
        self._margin_m = margin_m
        self._field: DistanceField | None = None

    def build(self, voxels: VoxelMap) -> Space:
        """Return the space of what is blocked in the map now; what is unknown counts as free."""
        config = voxels.config
        return self.of_blocked(voxels.blocked, voxels.low, config.resolution_m, config.floor_m)

    def of_blocked(
        self, blocked: Bools, low: Floats, resolution_m: float, floor_m: float = 0.0
    ) -> Space:
        """Return the space of blocked voxels (X, Y, Z), whose lowest corner is low (3,).

        ValueError if the floor is not on a plane between voxels or the map lies above it.
        """
        body = self.body
        layers = (floor_m - float(low[2])) / resolution_m
        require(
            layers >= -1e-6 and abs(layers - round(layers)) < 1e-3,
            'the floor must be a whole number of voxels above the lowest one',
        )
        first = round(layers) + math.ceil(body.step_m / resolution_m - 1e-9)
        top = round(layers) + math.ceil(body.ground_height_m / resolution_m - 1e-9)
        solid = blocked.copy(order='K')
        solid[:, :, :first] = False
        radius = max(body.ground_radius_m, body.air_radius_m)
        reach = min(math.ceil((radius + self._margin_m) / resolution_m), REACH_MAX)
        field = self._field
        if field is None or field.squares.shape != solid.shape or field.reach != reach:
            field = self._field = DistanceField(solid.shape, reach)
        field.update(_grown(solid))
        ground = flat_squares(_grown(solid[:, :, first:top].any(2)), reach)
        air = field.squares.copy(order='K')
        return Space(np.array(low, np.float64), resolution_m, floor_m, body, air, ground, reach)


def _grown(marked: Bools) -> Bools:
    """Return marks of any dimension with all their neighbours, diagonal ones included.

    The distance between the middles of a voxel and a neighbour of an occupied one is the distance
    between the nearest points of the voxel and the occupied one.
    """
    for axis in range(marked.ndim):
        wider: npt.NDArray[np.bool_] = marked.copy(order='K')
        here: list[slice] = [slice(None)] * marked.ndim
        there = list(here)
        here[axis], there[axis] = slice(1, None), slice(None, -1)
        wider[tuple(here)] |= marked[tuple(there)]
        wider[tuple(there)] |= marked[tuple(here)]
        marked = wider
    return marked
