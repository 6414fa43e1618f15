"""Solids that objects are made of: where each part is, how far it reaches, what floor it covers.

Lengths in metres. A part lives in its object's frame: x to the front, y to the left, z up, origin
on the floor below the middle of the object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Vector = tuple[float, float, float]
Quaternion = tuple[float, float, float, float]
Colour = tuple[float, float, float]

UPRIGHT: Quaternion = (1.0, 0.0, 0.0, 0.0)
_ROUND = 16  # corners of the polygon drawn around a circle


@dataclass(frozen=True)
class Part:
    """One solid of an object.

    form and size: box (x, y, z edge lengths), sphere (radius), cylinder and capsule (radius,
    length between the ends or cap centres), ellipsoid (x, y, z radii), frustum (bottom radius, top
    radius, height), torus (ring radius, tube radius; the hole points along z).
    rotation is a quaternion (w, x, y, z). Parts of equal ``hull`` share one convex footprint.
    """

    form: str
    size: tuple[float, ...]
    position: Vector
    colour: Colour
    texture: str = ''
    rotation: Quaternion = UPRIGHT
    hull: int = 0


@dataclass(frozen=True)
class Support:
    """A flat top that small objects may stand on: height and half edge lengths, metres."""

    height: float
    half_x: float
    half_y: float


@dataclass(frozen=True)
class Shape:
    """An object: its parts, and the surface it offers to smaller objects."""

    parts: tuple[Part, ...]
    support: Support | None = None


def scaled(shape: Shape, factor: float) -> Shape:
    """Return the same object, larger by a factor about the origin."""

    def times(part: Part) -> Part:
        x, y, z = part.position
        size = tuple(factor * each for each in part.size)
        return replace(part, size=size, position=(factor * x, factor * y, factor * z))

    parts = tuple(times(part) for part in shape.parts)
    if shape.support is None:
        return Shape(parts)
    top = shape.support
    return Shape(parts, Support(factor * top.height, factor * top.half_x, factor * top.half_y))


def turned(roll_deg: float = 0.0, pitch_deg: float = 0.0, yaw_deg: float = 0.0) -> Quaternion:
    """Return the quaternion of a rotation about x, then y, then z of the fixed frame."""
    a, b, c = (math.radians(v) / 2 for v in (roll_deg, pitch_deg, yaw_deg))
    ca, sa, cb, sb, cc, sc = (f(v) for v in (a, b, c) for f in (math.cos, math.sin))
    return (
        ca * cb * cc + sa * sb * sc,
        sa * cb * cc - ca * sb * sc,
        ca * sb * cc + sa * cb * sc,
        ca * cb * sc - sa * sb * cc,
    )


def rotation_matrix(quaternion: Sequence[float]) -> Array:
    """Return the (3, 3) rotation matrix of a quaternion (w, x, y, z)."""
    w, x, y, z = quaternion
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )


def box(size: Vector, position: Vector, colour: Colour, **extra: Any) -> Part:
    """Return a box of the given edge lengths around position."""
    return Part('box', size, position, colour, **extra)


def sphere(radius: float, position: Vector, colour: Colour, **extra: Any) -> Part:
    """Return a sphere around position."""
    return Part('sphere', (radius,), position, colour, **extra)


def ellipsoid(radii: Vector, position: Vector, colour: Colour, **extra: Any) -> Part:
    """Return an ellipsoid around position."""
    return Part('ellipsoid', radii, position, colour, **extra)


def cylinder(radius: float, height: float, position: Vector, colour: Colour, **extra: Any) -> Part:
    """Return an upright (unless rotated) cylinder around position."""
    return Part('cylinder', (radius, height), position, colour, **extra)


def frustum(
    bottom: float, top: float, height: float, position: Vector, colour: Colour, **extra: Any
) -> Part:
    """Return a cone cut off at the top; position is the middle of its axis."""
    return Part('frustum', (bottom, top, height), position, colour, **extra)


def torus(ring: float, tube: float, position: Vector, colour: Colour, **extra: Any) -> Part:
    """Return a ring around position."""
    return Part('torus', (ring, tube), position, colour, **extra)


def rod(start: Vector, end: Vector, radius: float, colour: Colour, **extra: Any) -> Part:
    """Return a capsule between two points."""
    along = np.subtract(end, start)
    length = float(np.linalg.norm(along))
    x, y, z = along / length
    if z < -0.999999:
        rotation: Quaternion = (0.0, 1.0, 0.0, 0.0)
    else:  # the shortest turn that takes the z axis to the rod
        scale = 1 / math.sqrt(2 * (1 + z))
        rotation = ((1 + z) * scale, -y * scale, x * scale, 0.0)
    middle = (np.asarray(start) + np.asarray(end)) / 2
    position = (float(middle[0]), float(middle[1]), float(middle[2]))
    return Part('capsule', (radius, length), position, colour, rotation=rotation, **extra)


def outline(part: Part) -> Array:
    """Return points (K, 3) in the object's frame whose convex hull encloses the part."""
    if part.form == 'box':
        half = np.asarray(part.size) / 2
        signs = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), -1).reshape(-1, 3)
        local = signs * half
    else:
        local = _round_outline(part)
    placed: Array = local @ rotation_matrix(part.rotation).T + np.asarray(part.position)
    return placed


def _round_outline(part: Part) -> Array:
    """Return points around a round part in the part's own frame."""
    size = part.size
    if part.form == 'sphere':
        rings = _ball_rings(size[0], size[0], 0.0)
    elif part.form == 'ellipsoid':
        stretched: Array = _ring_points(_ball_rings(1.0, 1.0, 0.0)) * np.asarray(size)
        return stretched
    elif part.form == 'cylinder':
        rings = [(size[0], -size[1] / 2), (size[0], size[1] / 2)]
    elif part.form == 'capsule':
        rings = _ball_rings(size[0], size[0], size[1] / 2)
    elif part.form == 'frustum':
        rings = [(size[0], -size[2] / 2), (size[1], size[2] / 2)]
    elif part.form == 'torus':
        rings = [(size[0] + size[1], -size[1]), (size[0] + size[1], size[1])]
    else:
        raise ValueError(f'a part is a box, sphere, ..., not {part.form!r}')
    return _ring_points(rings)


def _ball_rings(radius: float, height: float, straight: float) -> list[tuple[float, float]]:
    """Return (radius, z) rings of an octagonal barrel that encloses a ball or a capsule."""
    inner = math.tan(math.pi / 8)
    return [
        (radius * inner, -straight - height),
        (radius, -straight - height * inner),
        (radius, straight + height * inner),
        (radius * inner, straight + height),
    ]


def _ring_points(rings: list[tuple[float, float]]) -> Array:
    """Return the corners of a polygon around each ring (radius, z)."""
    angles = 2 * math.pi * np.arange(_ROUND) / _ROUND
    around = np.stack([np.cos(angles), np.sin(angles)], -1) / math.cos(math.pi / _ROUND)
    return np.concatenate(
        [np.concatenate([around * r, np.full((_ROUND, 1), z)], 1) for r, z in rings]
    )


def extent(part: Part) -> tuple[Array, Array]:
    """Return the lowest and highest coordinates (3,) that the part reaches, exactly."""
    turn = rotation_matrix(part.rotation)
    axis = turn[:, 2]
    across = np.sqrt(np.clip(1 - axis * axis, 0, None))
    size = part.size
    if part.form == 'box':
        reach = np.abs(turn) @ (np.asarray(size) / 2)
    elif part.form == 'ellipsoid':
        reach = np.sqrt((turn * turn) @ np.square(size))
    elif part.form == 'sphere':
        reach = np.full(3, size[0])
    elif part.form == 'cylinder':
        reach = np.abs(axis) * size[1] / 2 + across * size[0]
    elif part.form == 'capsule':
        reach = np.abs(axis) * size[1] / 2 + size[0]
    elif part.form == 'torus':
        reach = across * size[0] + size[1]
    elif part.form == 'frustum':
        up, middle = axis * size[2] / 2, np.asarray(part.position)
        low = np.minimum(-up - across * size[0], up - across * size[1])
        high = np.maximum(-up + across * size[0], up + across * size[1])
        return middle + low, middle + high
    else:
        raise ValueError(f'a part is a box, sphere, ..., not {part.form!r}')
    return np.asarray(part.position) - reach, np.asarray(part.position) + reach


def bounds(parts: Sequence[Part]) -> tuple[Array, Array]:
    """Return the lowest and highest coordinates (3,) of all parts."""
    reaches = [extent(part) for part in parts]
    return np.min([low for low, _ in reaches], 0), np.max([high for _, high in reaches], 0)


def centred(shape: Shape) -> Shape:
    """Return the shape moved so that the middle of its bounding box stands on the origin."""
    low, high = bounds(shape.parts)
    shift = np.array([-(low[0] + high[0]) / 2, -(low[1] + high[1]) / 2, -low[2]])

    def moved(part: Part) -> Part:
        x, y, z = np.asarray(part.position) + shift
        return replace(part, position=(float(x), float(y), float(z)))

    return replace(shape, parts=tuple(moved(part) for part in shape.parts))


def convex_hull(points: Array) -> Array:
    """Return the corners (K, 2), counter-clockwise, of the convex hull of points (N, 2)."""
    ordered = sorted({(round(float(x), 9), round(float(y), 9)) for x, y in points})
    if len(ordered) < 3:
        raise ValueError('a convex hull needs at least three different points')

    def chain(corners: list[tuple[float, float]]) -> list[tuple[float, float]]:
        line: list[tuple[float, float]] = []
        for x, y in corners:
            while len(line) >= 2:
                (ax, ay), (bx, by) = line[-2:]
                if (bx - ax) * (y - ay) - (by - ay) * (x - ax) > 0:
                    break
                line.pop()
            line.append((x, y))
        return line[:-1]

    return np.array(chain(ordered) + chain(ordered[::-1]))


def footprint(parts: Sequence[Part], below_m: float) -> list[Array]:
    """Return convex polygons (K, 2) that cover the floor under all parts that begin below below_m.

    Parts that share a ``hull`` number become one polygon; what hangs higher blocks nobody.
    """
    groups: dict[int, list[Array]] = {}
    for part in parts:
        if extent(part)[0][2] < below_m:
            groups.setdefault(part.hull, []).append(outline(part)[:, :2])
    return [convex_hull(np.concatenate(points)) for _, points in sorted(groups.items())]
