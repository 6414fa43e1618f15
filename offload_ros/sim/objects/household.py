"""Things that lie about in a home."""

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
    Support,
    box,
    cylinder,
    ellipsoid,
    frustum,
    rod,
    sphere,
    torus,
    turned,
)


@kind('ball')
def ball(rng: np.random.Generator) -> Shape:
    """A ball in one colour with a contrasting band."""
    radius, colour = rng.uniform(0.13, 0.24), pick(rng, BRIGHTS)
    return Shape((sphere(radius, (0, 0, radius), colour, texture='ball'),))


@kind('box')
def cardboard_box(rng: np.random.Generator) -> Shape:
    """A cardboard box closed with tape."""
    colour = pick(rng, ((0.76, 0.58, 0.38), (0.68, 0.50, 0.32), (0.82, 0.66, 0.46)))
    x, y, z = rng.uniform(0.3, 0.55), rng.uniform(0.3, 0.6), rng.uniform(0.25, 0.5)
    tape = (0.90, 0.82, 0.60)
    return Shape(
        (
            box((x, y, z), (0, 0, z / 2), colour, texture='cardboard'),
            box((x + 0.006, 0.06, 0.008), (0, 0, z), tape),
            box((x + 0.006, 0.06, z * 0.3), (0, 0, z * 0.85), tape),
        ),
        Support(z + 0.004, x / 2 - 0.05, y / 2 - 0.05),
    )


@kind('plant')
def plant(rng: np.random.Generator) -> Shape:
    """A potted plant with a bushy crown or long upright leaves."""
    pot = pick(rng, ((0.75, 0.40, 0.26), (0.92, 0.90, 0.88), (0.30, 0.36, 0.45)))
    green = pick(rng, ((0.16, 0.50, 0.20), (0.30, 0.58, 0.22), (0.12, 0.40, 0.26)))
    radius, tall = rng.uniform(0.13, 0.18), rng.uniform(0.22, 0.3)
    parts: list[Part] = [
        frustum(radius * 0.75, radius, tall, (0, 0, tall / 2), pot),
        cylinder(radius * 0.9, 0.02, (0, 0, tall), (0.24, 0.16, 0.10)),
    ]
    height = rng.uniform(0.6, 1.0)
    if rng.random() < 0.5:
        parts.append(rod((0, 0, tall), (0, 0, tall + height * 0.6), 0.025, (0.42, 0.28, 0.16)))
        for _ in range(7):
            where = rng.normal((0, 0, tall + height * 0.75), 0.09)
            reach = rng.uniform(0.11, 0.17)
            parts.append(
                sphere(
                    reach,
                    (where[0], where[1], where[2]),
                    shade(green, rng.uniform(0.8, 1.25)),
                    texture='leaves',
                )
            )
    else:
        for step in range(9):
            angle = 40.0 * step + rng.uniform(-12, 12)
            lean, size = rng.uniform(8, 40), height * rng.uniform(0.35, 0.5)
            c, s = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
            out = size * np.sin(np.deg2rad(lean))
            parts.append(
                ellipsoid(
                    (0.012, 0.055, size),
                    (c * out, s * out, tall + size * np.cos(np.deg2rad(lean))),
                    shade(green, rng.uniform(0.75, 1.25)),
                    texture='leaves',
                    rotation=turned(pitch_deg=lean, yaw_deg=angle),
                )
            )
    return Shape(tuple(parts))


@kind('bin')
def bin_(rng: np.random.Generator) -> Shape:
    """A pedal bin: tapered, with a lid and a pedal."""
    colour, lid = pick(rng, METALS + FABRICS), pick(rng, (BLACK, WHITE, (0.5, 0.5, 0.52)))
    radius, height = rng.uniform(0.15, 0.2), rng.uniform(0.45, 0.65)
    return Shape(
        (
            frustum(radius * 0.82, radius, height, (0, 0, height / 2), colour, texture='metal'),
            cylinder(radius * 1.06, 0.05, (0, 0, height + 0.02), lid),
            ellipsoid((radius, radius, 0.06), (0, 0, height + 0.04), lid),
            box((0.1, 0.09, 0.025), (radius * 0.95, 0, 0.03), BLACK),
        )
    )


@kind('suitcase')
def suitcase(rng: np.random.Generator) -> Shape:
    """A ribbed trolley case with wheels and a pulled-out handle."""
    colour = pick(rng, BRIGHTS + FABRICS)
    depth, width, height = rng.uniform(0.22, 0.28), rng.uniform(0.38, 0.48), rng.uniform(0.52, 0.68)
    parts = [box((depth, width, height), (0, 0, 0.07 + height / 2), colour)]
    for rib in range(5):
        y = width * (rib - 2) / 5.5
        parts.append(
            box((depth + 0.02, 0.03, height * 0.9), (0, y, 0.07 + height / 2), shade(colour, 0.72))
        )
    for x in (-1, 1):
        for y in (-1, 1):
            parts.append(
                cylinder(
                    0.035,
                    0.03,
                    (x * (depth / 2 - 0.04), y * (width / 2 - 0.05), 0.035),
                    BLACK,
                    rotation=turned(roll_deg=90),
                )
            )
    top = 0.07 + height + rng.uniform(0.25, 0.38)
    back = -depth / 2 + 0.03
    for side in (-1, 1):
        parts.append(
            rod((back, side * 0.09, 0.07 + height), (back, side * 0.09, top), 0.01, METALS[0])
        )
    parts.append(rod((back, -0.1, top), (back, 0.1, top), 0.02, BLACK))
    return Shape(tuple(parts))


@kind('bottle', 'top')
def bottle(rng: np.random.Generator) -> Shape:
    """A bottle with a neck, a cap and a label."""
    glass = pick(rng, ((0.10, 0.38, 0.18), (0.35, 0.18, 0.08), (0.35, 0.62, 0.82)))
    radius, body = rng.uniform(0.042, 0.055), rng.uniform(0.18, 0.24)
    return Shape(
        (
            cylinder(radius, body, (0, 0, body / 2), glass),
            frustum(radius, radius * 0.4, 0.06, (0, 0, body + 0.03), glass),
            cylinder(radius * 0.4, 0.07, (0, 0, body + 0.09), glass),
            cylinder(radius * 0.46, 0.03, (0, 0, body + 0.13), pick(rng, BRIGHTS)),
            cylinder(
                radius + 0.002, body * 0.45, (0, 0, body * 0.5), pick(rng, (WHITE, BRIGHTS[2]))
            ),
        )
    )


@kind('mug', 'top')
def mug(rng: np.random.Generator) -> Shape:
    """A mug with a handle and a dark drink."""
    colour = pick(rng, (*BRIGHTS, WHITE))
    radius, height = rng.uniform(0.055, 0.07), rng.uniform(0.12, 0.15)
    return Shape(
        (
            cylinder(radius, height, (0, 0, height / 2), colour),
            cylinder(radius * 0.88, 0.006, (0, 0, height), (0.22, 0.13, 0.07)),
            torus(
                0.038, 0.012, (0, radius + 0.02, height / 2), colour, rotation=turned(pitch_deg=90)
            ),
        )
    )


@kind('vase', 'top')
def vase(rng: np.random.Generator) -> Shape:
    """A vase with three flowers."""
    colour = pick(rng, ((0.20, 0.35, 0.70), (0.92, 0.92, 0.95), (0.25, 0.55, 0.55)))
    height = rng.uniform(0.16, 0.22)
    parts: list[Part] = [
        ellipsoid((0.07, 0.07, height / 2), (0, 0, height / 2), colour, texture='stripes'),
        frustum(0.035, 0.05, 0.06, (0, 0, height + 0.01), colour),
    ]
    bloom = pick(rng, BRIGHTS)
    for angle in np.deg2rad([20, 140, 260]):
        tip = (
            0.07 * float(np.cos(angle)),
            0.07 * float(np.sin(angle)),
            height + rng.uniform(0.14, 0.2),
        )
        parts.append(rod((0, 0, height), tip, 0.006, (0.2, 0.5, 0.2)))
        parts.append(sphere(0.04, tip, bloom))
        parts.append(sphere(0.018, (tip[0] * 1.1, tip[1] * 1.1, tip[2] + 0.032), BRIGHTS[2]))
    return Shape(tuple(parts))


@kind('teddy')
def teddy(rng: np.random.Generator) -> Shape:
    """A sitting teddy bear."""
    fur = pick(
        rng, ((0.62, 0.42, 0.24), (0.82, 0.66, 0.46), (0.45, 0.30, 0.20), (0.85, 0.82, 0.80))
    )
    s = rng.uniform(0.8, 1.25)
    light = shade(fur, 1.3)
    solids: list[tuple[float, tuple[float, float, float], tuple[float, float, float]]] = [
        (0.15, (0, 0, 0.16), fur),
        (0.11, (0.07, 0, 0.16), light),
        (0.115, (0.02, 0, 0.38), fur),
        (0.05, (0.115, 0, 0.355), light),
        (0.016, (0.165, 0, 0.365), BLACK),
        (0.016, (0.115, 0.042, 0.41), BLACK),
        (0.016, (0.115, -0.042, 0.41), BLACK),
    ]
    for side in (-1, 1):
        solids.append((0.045, (0.0, side * 0.09, 0.47), fur))
        solids.append((0.028, (0.03, side * 0.09, 0.47), light))
        solids.append((0.055, (0.2, side * 0.1, 0.06), light))
    parts = [
        sphere(radius * s, (x * s, y * s, z * s), colour, texture='fabric' if radius > 0.02 else '')
        for radius, (x, y, z), colour in solids
    ]
    for side in (-1, 1):
        parts.append(
            rod(
                (0, side * 0.09 * s, 0.08 * s), (0.18 * s, side * 0.1 * s, 0.06 * s), 0.055 * s, fur
            )
        )
        parts.append(
            rod(
                (0, side * 0.12 * s, 0.26 * s),
                (0.12 * s, side * 0.17 * s, 0.17 * s),
                0.045 * s,
                fur,
            )
        )
    return Shape(tuple(parts))


@kind('bucket')
def bucket(rng: np.random.Generator) -> Shape:
    """An open bucket with a wire handle and water in it."""
    colour = pick(rng, BRIGHTS)
    radius, height = rng.uniform(0.14, 0.19), rng.uniform(0.26, 0.34)
    parts: list[Part] = [
        frustum(radius * 0.72, radius, height, (0, 0, height / 2), colour),
        torus(radius, 0.013, (0, 0, height), shade(colour, 0.8)),
        cylinder(radius * 0.93, 0.006, (0, 0, height), (0.45, 0.65, 0.75)),
    ]
    ends = [
        (0.0, radius * np.cos(a), height + radius * 0.95 * np.sin(a))
        for a in np.linspace(0, np.pi, 6)
    ]
    for first, second in pairwise(ends):
        parts.append(rod(first, second, 0.008, METALS[1]))
    return Shape(tuple(parts))
