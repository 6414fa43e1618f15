"""Puts objects into the room: none overlaps another, and people can still walk around."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np

from offload_ros.sim.config import WorldConfig
from offload_ros.sim.freespace import FreeSpace, Obstacles
from offload_ros.sim.objects import KINDS, size_of
from offload_ros.sim.room import Room
from offload_ros.sim.shapes import Array, Shape, footprint, scaled

# Nobody is taller, so what begins above this height blocks nobody.
HEADROOM_M = 1.95
GAP_M = 0.12
TRIES = 80


@dataclass(frozen=True)
class Placed:
    """An object in the room: pose of its base in the map frame, yaw in radians, size in metres."""

    kind: str
    shape: Shape
    x: float
    y: float
    z: float
    yaw: float
    size: tuple[float, float, float]
    footprints: tuple[Array, ...]


@dataclass(frozen=True)
class Layout:
    """All objects of a room, and the floor that they leave free."""

    objects: tuple[Placed, ...]
    free: FreeSpace


def build_layout(config: WorldConfig, room: Room, rng: np.random.Generator) -> Layout:
    """Place the configured number of objects.

    A layout that leaves people less than a quarter of the floor to walk on is drawn again, the
    later the fewer objects, so that a crowded configuration still gives a world.
    """
    count = config.object_count
    for attempt in range(16):
        objects = _place_all(config, room, _kinds(config, count, rng), rng)
        polygons = [*room.footprints, *(p for o in objects for p in o.footprints if o.z == 0)]
        free = FreeSpace(room.length_m, room.width_m, Obstacles(polygons))
        if free.region(config.person.clearance_m).mean() >= 0.25:
            return Layout(tuple(objects), free)
        if attempt >= 3:
            count = int(count * 0.8)
    raise ValueError('the room is too small for anybody to walk in: make it larger')


def _kinds(config: WorldConfig, count: int, rng: np.random.Generator) -> list[str]:
    """Return the kinds to place, each once before one comes twice."""
    names = sorted(config.kinds or KINDS)
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += [names[int(i)] for i in rng.permutation(len(names))]
    return drawn[:count]


def _place_all(
    config: WorldConfig, room: Room, names: Sequence[str], rng: np.random.Generator
) -> list[Placed]:
    """Place what stands at walls first, then what stands free, then what stands on top."""
    placed: list[Placed] = []
    for name in sorted(names, key=lambda name: ('wall', 'free', 'top').index(KINDS[name].place)):
        shape = scaled(KINDS[name].build(rng), config.object_scale)
        found = _find_place(name, shape, room, placed, rng)
        if found is not None:
            placed.append(found)
    return placed


def _find_place(
    name: str, shape: Shape, room: Room, placed: Sequence[Placed], rng: np.random.Generator
) -> Placed | None:
    """Return the object at a random place where it fits, or None."""
    place = KINDS[name].place
    if place == 'top':
        on_top = _on_support(name, shape, placed, rng)
        if on_top is not None:
            return on_top
    blocked = [*room.footprints, *(p for o in placed if o.z == 0 for p in o.footprints)]
    base = footprint(shape.parts, HEADROOM_M)
    circles = [_around(polygon) for polygon in blocked]
    centres = np.array([centre for centre, _ in circles])
    radii = np.array([radius for _, radius in circles])
    gap = 0.0 if place == 'wall' else GAP_M
    for _ in range(TRIES):
        if place == 'wall':
            x, y, yaw = _at_wall(shape, room, rng)
        else:
            x = float(rng.uniform(-1, 1)) * (room.length_m / 2 - 0.3)
            y = float(rng.uniform(-1, 1)) * (room.width_m / 2 - 0.3)
            yaw = float(rng.uniform(-math.pi, math.pi))
        candidate = _put(name, shape, base, x, y, 0.0, yaw)
        clear = True
        for polygon in candidate.footprints:
            centre, radius = _around(polygon)
            apart = np.linalg.norm(centres - centre, axis=1)
            near = np.flatnonzero(apart < radii + radius + gap)
            clear = clear and not any(too_close(polygon, blocked[int(i)], gap) for i in near)
        if clear:
            return candidate
    return None


def _at_wall(shape: Shape, room: Room, rng: np.random.Generator) -> tuple[float, float, float]:
    """Return a pose with the back (-x) of the shape 4 cm from a random wall."""
    depth, width, _ = size_of(shape)
    wall = room.walls[int(rng.integers(len(room.walls)))]
    room_to_slide = max(0.0, wall.length / 2 - width / 2 - 0.1)
    along = float(rng.uniform(-1, 1)) * room_to_slide
    into = depth / 2 + 0.04
    c, s = math.cos(wall.yaw), math.sin(wall.yaw)
    return wall.x + c * into - s * along, wall.y + s * into + c * along, wall.yaw


def _on_support(
    name: str, shape: Shape, placed: Sequence[Placed], rng: np.random.Generator
) -> Placed | None:
    """Return the object on another one's top, clear of what stands there already."""
    own = footprint(shape.parts, HEADROOM_M)
    supports = [o for o in placed if o.shape.support is not None and o.z == 0]
    for index in rng.permutation(len(supports)):
        base = supports[int(index)]
        top = base.shape.support
        assert top is not None
        others = [o for o in placed if o.z > 0]
        reach = math.hypot(*size_of(shape)[:2]) / 2
        for _ in range(10):
            u = float(rng.uniform(-1, 1)) * max(0.0, top.half_x - reach)
            v = float(rng.uniform(-1, 1)) * max(0.0, top.half_y - reach)
            if reach > min(top.half_x, top.half_y) + 0.06:
                break  # too big to stand there
            c, s = math.cos(base.yaw), math.sin(base.yaw)
            x, y = base.x + c * u - s * v, base.y + s * u + c * v
            yaw = base.yaw + float(rng.uniform(-0.6, 0.6))
            candidate = _put(name, shape, own, x, y, top.height, yaw)
            if not any(
                too_close(a, b, 0.02)
                for other in others
                for a in candidate.footprints
                for b in other.footprints
            ):
                return candidate
    return None


def _around(polygon: Array) -> tuple[Array, float]:
    """Return centre (2,) and radius of a circle around a polygon (K, 2)."""
    centre = (polygon.min(0) + polygon.max(0)) / 2
    return centre, float(np.linalg.norm(polygon - centre, axis=1).max())


def _put(
    name: str, shape: Shape, polygons: list[Array], x: float, y: float, z: float, yaw: float
) -> Placed:
    """Return the object at a pose; polygons are its footprint at the origin."""
    c, s = math.cos(yaw), math.sin(yaw)
    turn = np.array([[c, -s], [s, c]])
    moved = tuple(polygon @ turn.T + (x, y) for polygon in polygons)
    return Placed(name, shape, x, y, z, yaw, size_of(shape), moved)


def too_close(first: Array, second: Array, gap: float) -> bool:
    """Return whether two convex polygons (K, 2) overlap or come closer than gap.

    Some edge of one of two convex polygons separates them, or they overlap.
    """
    for one, other in ((first, second), (second, first)):
        edges = np.roll(one, -1, 0) - one
        normals = np.stack([edges[:, 1], -edges[:, 0]], 1)
        normals /= np.linalg.norm(normals, axis=1, keepdims=True)
        beyond = (other @ normals.T - (one * normals).sum(1)).min(0)
        if (beyond > gap).any():
            return False
    return True
