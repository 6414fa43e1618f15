"""The room: floor, walls, ceiling and what hangs on the walls. Frame: map, origin mid-floor."""

from __future__ import annotations

from dataclasses import dataclass, replace
import math

import numpy as np

from offload_ros.sim.config import WorldConfig
from offload_ros.sim.objects.registry import pick
from offload_ros.sim.shapes import Array, Colour, Part, box, footprint, turned
from offload_ros.sim.textures import FLOORS

WALL_M = 0.12
WALL_COLOURS: tuple[Colour, ...] = (
    (0.86, 0.78, 0.64),
    (0.62, 0.74, 0.80),
    (0.68, 0.78, 0.66),
    (0.84, 0.68, 0.62),
    (0.74, 0.70, 0.82),
    (0.82, 0.82, 0.76),
    (0.60, 0.68, 0.70),
)
FLOOR_COLOURS: tuple[Colour, ...] = ((0.72, 0.56, 0.40), (0.66, 0.64, 0.60), (0.55, 0.50, 0.46))


@dataclass(frozen=True)
class Wall:
    """A stretch of wall: middle of its foot (x, y), length, and the yaw that it faces into."""

    x: float
    y: float
    length: float
    yaw: float


@dataclass(frozen=True)
class Room:
    """The empty room.

    walls are the four outer ones (objects stand with their backs to them); parts are everything
    that is drawn apart from floor and ceiling, in the map frame; footprints are convex polygons
    (K, 2) that nobody may enter.
    """

    length_m: float
    width_m: float
    height_m: float
    floor_texture: str
    floor_colour: Colour
    walls: tuple[Wall, ...]
    parts: tuple[Part, ...]
    footprints: tuple[Array, ...]


def build_room(config: WorldConfig, rng: np.random.Generator) -> Room:
    """Draw the walls, their colours, an inner wall and the decoration."""
    half_x, half_y = config.length_m / 2, config.width_m / 2
    outer = (
        Wall(half_x, 0, config.width_m, math.pi),
        Wall(0, half_y, config.length_m, -math.pi / 2),
        Wall(-half_x, 0, config.width_m, 0),
        Wall(0, -half_y, config.length_m, math.pi / 2),
    )
    order = rng.permutation(len(WALL_COLOURS))
    brick = int(rng.integers(4))
    parts: list[Part] = []
    for index, wall in enumerate(outer):
        colour = pick(rng, (WALL_COLOURS[int(order[index])],))
        parts += _wall_parts(wall, config.wall_height_m, colour, brick == index)
    solids = list(parts)
    if config.inner_wall:
        inner = _inner_wall(config, rng, pick(rng, (WALL_COLOURS[int(order[4])],)))
        solids.append(inner)
        parts.append(inner)
    for index, wall in enumerate(outer):
        parts += _decoration(wall, ('window', 'picture', 'door', 'picture')[index], rng)
    blocked = [part for solid in solids for part in footprint([solid], below_m=2.0)]
    return Room(
        config.length_m,
        config.width_m,
        config.wall_height_m,
        str(rng.choice(sorted(FLOORS))),
        pick(rng, FLOOR_COLOURS),
        outer,
        tuple(parts),
        tuple(blocked),
    )


def _placed(part: Part, wall: Wall) -> Part:
    """Move a part from the wall's frame (x into the room, y along the wall) to the map."""
    x, y, z = part.position
    c, s = math.cos(wall.yaw), math.sin(wall.yaw)
    return replace(
        part,
        position=(wall.x + c * x - s * y, wall.y + s * x + c * y, z),
        rotation=turned(yaw_deg=math.degrees(wall.yaw)),
    )


def _wall_parts(wall: Wall, height: float, colour: Colour, brick: bool) -> list[Part]:
    """Return the wall and its skirting board."""
    length = wall.length + 2 * WALL_M
    texture = 'bricks' if brick else 'plaster'
    return [
        _placed(
            box((WALL_M, length, height), (-WALL_M / 2, 0, height / 2), colour, texture=texture),
            wall,
        ),
        _placed(box((0.02, wall.length, 0.09), (0.01, 0, 0.045), (0.93, 0.92, 0.9)), wall),
    ]


def _inner_wall(config: WorldConfig, rng: np.random.Generator, colour: Colour) -> Part:
    """Return a wall that juts into the room from one of the long sides."""
    length = config.width_m * float(rng.uniform(0.3, 0.42))
    x = float(rng.uniform(-0.18, 0.18)) * config.length_m
    side = 1 if rng.random() < 0.5 else -1
    y = side * (config.width_m - length) / 2
    height = config.wall_height_m
    return box((WALL_M, length, height), (x, y, height / 2), colour, texture='plaster')


def _decoration(wall: Wall, what: str, rng: np.random.Generator) -> list[Part]:
    """Return a window, a picture or a closed door on the wall."""
    y = float(rng.uniform(-0.3, 0.3)) * wall.length
    frame: Colour = (0.92, 0.91, 0.88)
    if what == 'door':
        wood = pick(rng, ((0.55, 0.38, 0.24), (0.88, 0.86, 0.82), (0.35, 0.45, 0.5)))
        pieces = [
            box((0.05, 1.0, 2.06), (0.015, y, 1.03), frame),
            box((0.06, 0.86, 1.98), (0.02, y, 0.99), wood, texture='wood'),
            box((0.1, 0.1, 0.03), (0.05, y - 0.33, 1.0), (0.7, 0.7, 0.72)),
        ]
    else:
        wide = float(rng.uniform(0.9, 1.5))
        tall = wide * (0.8 if what == 'window' else 0.7)
        pieces = [
            box((0.04, wide + 0.1, tall + 0.1), (0.01, y, 1.55), frame),
            box((0.05, wide, tall), (0.015, y, 1.55), (1.0, 1.0, 1.0), texture=what),
        ]
    return [_placed(piece, wall) for piece in pieces]
