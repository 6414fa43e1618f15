"""Things of streets, workshops and yards."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from offload_ros.sim.objects.registry import (
    BLACK,
    BRIGHTS,
    FABRICS,
    METALS,
    WHITE,
    kind,
    pick,
    shade,
)
from offload_ros.sim.shapes import (
    Part,
    Shape,
    box,
    cylinder,
    ellipsoid,
    frustum,
    rod,
    torus,
    turned,
)


@kind('cone')
def cone(rng: np.random.Generator) -> Shape:
    """An orange traffic cone with white bands."""
    orange = pick(rng, ((0.98, 0.42, 0.08), (0.95, 0.30, 0.10), (0.98, 0.55, 0.10)))
    height, wide = rng.uniform(0.45, 0.75), rng.uniform(0.13, 0.17)
    edge = wide * 2.5
    parts: list[Part] = [box((edge, edge, 0.035), (0, 0, 0.018), shade(orange, 0.8))]
    levels = (0.0, 0.35, 0.55, 0.68, 0.84, 1.0)
    for step, (low, high) in enumerate(pairwise(levels)):
        bottom, top = wide * (1 - 0.82 * low), wide * (1 - 0.82 * high)
        parts.append(
            frustum(
                bottom,
                top,
                height * (high - low),
                (0, 0, 0.035 + height * (low + high) / 2),
                WHITE if step % 2 else orange,
            )
        )
    return Shape(tuple(parts))


@kind('barrel')
def barrel(rng: np.random.Generator) -> Shape:
    """A steel drum with ribs."""
    colour = pick(
        rng, ((0.16, 0.32, 0.62), (0.66, 0.16, 0.14), (0.20, 0.45, 0.28), (0.90, 0.70, 0.12))
    )
    radius, height = rng.uniform(0.26, 0.31), rng.uniform(0.8, 0.92)
    parts: list[Part] = [
        cylinder(radius, height, (0, 0, height / 2), colour, texture='metal'),
        cylinder(0.035, 0.03, (radius * 0.6, 0, height), METALS[0]),
    ]
    for level in (0.02, 0.34, 0.66, 0.98):
        parts.append(
            cylinder(
                radius + 0.015,
                0.04,
                (0, 0, height * level + (0.5 - level) * 0.04),
                shade(colour, 0.7),
            )
        )
    return Shape(tuple(parts))


@kind('fire_extinguisher')
def fire_extinguisher(rng: np.random.Generator) -> Shape:
    """A red bottle on the floor with valve, handle and hose."""
    red = pick(rng, ((0.86, 0.10, 0.08), (0.78, 0.06, 0.08)))
    radius, body = rng.uniform(0.085, 0.11), rng.uniform(0.42, 0.55)
    top = body + 0.05
    return Shape(
        (
            cylinder(radius * 0.9, 0.03, (0, 0, 0.015), BLACK),
            cylinder(radius, body, (0, 0, body / 2 + 0.02), red),
            ellipsoid((radius, radius, 0.07), (0, 0, body + 0.02), red),
            cylinder(radius + 0.003, body * 0.3, (0, 0, body * 0.5), WHITE),
            cylinder(0.03, 0.09, (0, 0, top + 0.07), METALS[0]),
            box((0.15, 0.03, 0.025), (0.04, 0, top + 0.09), BLACK),
            box((0.15, 0.03, 0.02), (0.05, 0, top + 0.14), BLACK, rotation=turned(pitch_deg=-15)),
            rod((0, 0.02, top + 0.07), (0, radius + 0.05, top - 0.02), 0.014, BLACK),
            rod((0, radius + 0.05, top - 0.02), (0, radius + 0.04, body * 0.35), 0.014, BLACK),
            frustum(0.035, 0.016, 0.12, (0, radius + 0.04, body * 0.3), BLACK),
        )
    )


@kind('bicycle')
def bicycle(rng: np.random.Generator) -> Shape:
    """A bicycle on its stand."""
    colour, wheel = pick(rng, BRIGHTS), rng.uniform(0.29, 0.34)
    base = rng.uniform(0.98, 1.08)
    rear, front = (-base / 2, 0.0, wheel), (base / 2, 0.0, wheel)
    seat, head = (-0.22, 0.0, wheel + 0.48), (base / 2 - 0.16, 0.0, wheel + 0.46)
    crank = (-0.08, 0.0, wheel - 0.03)
    upright = turned(roll_deg=90)
    parts: list[Part] = []
    for x, y, z in (rear, front):
        parts.append(torus(wheel - 0.022, 0.022, (x, y, z), BLACK, rotation=upright))
        parts.append(torus(wheel - 0.05, 0.009, (x, y, z), METALS[0], rotation=upright))
        parts.append(cylinder(0.03, 0.08, (x, y, z), METALS[1], rotation=upright))
        for angle in np.deg2rad([20, 80, 140]):
            dx, dz = (wheel - 0.05) * float(np.cos(angle)), (wheel - 0.05) * float(np.sin(angle))
            parts.append(rod((x - dx, y, z - dz), (x + dx, y, z + dz), 0.004, METALS[0]))
    for start, end in (
        (rear, crank),
        (rear, seat),
        (crank, seat),
        (seat, head),
        (crank, head),
        (head, front),
    ):
        parts.append(rod(start, end, 0.02, colour))
    bar = (head[0] - 0.04, 0.0, head[2] + 0.14)
    parts += [
        rod(head, bar, 0.016, METALS[1]),
        rod((bar[0], -0.24, bar[2]), (bar[0], 0.24, bar[2]), 0.016, BLACK),
        ellipsoid((0.14, 0.07, 0.035), (seat[0] - 0.03, 0, seat[2] + 0.07), BLACK),
        rod(seat, (seat[0] - 0.03, 0, seat[2] + 0.06), 0.016, METALS[1]),
        cylinder(0.09, 0.02, crank, METALS[1], rotation=upright),
        rod((crank[0], -0.1, crank[2] - 0.1), (crank[0], 0.1, crank[2] + 0.1), 0.012, BLACK),
        rod(crank, (crank[0] - 0.08, 0.16, 0.015), 0.012, METALS[1]),
    ]
    return Shape(tuple(parts))


@kind('sign')
def sign(rng: np.random.Generator) -> Shape:
    """A round or triangular warning sign on a post with a heavy foot."""
    post = pick(rng, METALS)
    height, radius = rng.uniform(1.1, 1.5), rng.uniform(0.22, 0.28)
    facing = turned(pitch_deg=90)
    red = pick(rng, ((0.85, 0.10, 0.10), (0.80, 0.12, 0.14)))
    return Shape(
        (
            box((0.4, 0.4, 0.06), (0, 0, 0.03), (0.25, 0.25, 0.26)),
            cylinder(0.022, height, (0, 0, height / 2), post),
            cylinder(radius, 0.02, (0.03, 0, height), red, rotation=facing),
            cylinder(radius * 0.93, 0.006, (0.042, 0, height), WHITE, rotation=facing),
            cylinder(radius * 0.87, 0.006, (0.045, 0, height), red, rotation=facing),
            box((0.006, radius * 1.35, radius * 0.34), (0.048, 0, height), WHITE),
        )
    )


@kind('cart')
def cart(rng: np.random.Generator) -> Shape:
    """A hand cart: platform on four wheels with a push bar."""
    colour, metal = pick(rng, BRIGHTS + FABRICS), pick(rng, METALS)
    length, width = rng.uniform(0.7, 0.9), rng.uniform(0.45, 0.55)
    tall = rng.uniform(0.85, 1.0)
    parts: list[Part] = [box((length, width, 0.05), (0, 0, 0.19), colour)]
    for x in (-1, 1):
        for y in (-1, 1):
            parts.append(
                cylinder(
                    0.075,
                    0.045,
                    (x * (length / 2 - 0.1), y * (width / 2 - 0.05), 0.075),
                    BLACK,
                    rotation=turned(roll_deg=90),
                )
            )
    back = -length / 2 + 0.03
    for side in (-1, 1):
        parts.append(
            rod(
                (back, side * (width / 2 - 0.05), 0.2),
                (back - 0.06, side * (width / 2 - 0.05), tall),
                0.02,
                metal,
            )
        )
    for share in (0.6, 1.0):
        lean, z = back - 0.06 * share, 0.2 + (tall - 0.2) * share
        parts.append(rod((lean, -width / 2 + 0.05, z), (lean, width / 2 - 0.05, z), 0.02, metal))
    return Shape(tuple(parts))
