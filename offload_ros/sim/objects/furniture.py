"""Furniture: what people sit, lie, climb and put things on."""

from __future__ import annotations

import numpy as np

from offload_ros.sim.objects.registry import BRIGHTS, FABRICS, METALS, WOODS, kind, pick, shade
from offload_ros.sim.shapes import Part, Shape, Support, box, cylinder, rod, turned


def legs(
    x: float, y: float, height: float, thickness: float, colour: tuple[float, float, float]
) -> list[Part]:
    """Return four square legs around the middle, x and y from it, standing on the floor."""
    return [
        box((thickness, thickness, height), (sx * x, sy * y, height / 2), colour, texture='wood')
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]


@kind('chair')
def chair(rng: np.random.Generator) -> Shape:
    """Four legs, a seat and a slatted back."""
    colour = pick(rng, WOODS + BRIGHTS)
    seat, width = rng.uniform(0.42, 0.50), rng.uniform(0.40, 0.48)
    back = rng.uniform(0.42, 0.58)
    inset = width / 2 - 0.025
    parts = legs(inset, inset, seat, 0.045, shade(colour, 0.85))
    parts.append(box((width, width, 0.05), (0, 0, seat), colour, texture='wood'))
    for side in (-1, 1):
        parts.append(
            box((0.04, 0.045, back), (-inset, side * inset, seat + back / 2), shade(colour, 0.85))
        )
    for step in range(3):
        z = seat + back * (0.35 + 0.29 * step)
        parts.append(box((0.03, width, back * 0.16), (-inset, 0, z), colour, texture='wood'))
    return Shape(tuple(parts))


@kind('stool')
def stool(rng: np.random.Generator) -> Shape:
    """A round seat on three splayed legs."""
    colour, metal = pick(rng, BRIGHTS + FABRICS), pick(rng, METALS)
    height, radius = rng.uniform(0.45, 0.72), rng.uniform(0.16, 0.21)
    parts = [cylinder(radius, 0.07, (0, 0, height), colour, texture='fabric')]
    feet = []
    for angle in np.deg2rad([60, 180, 300]):
        c, s = float(np.cos(angle)), float(np.sin(angle))
        foot = (c * radius * 1.15, s * radius * 1.15, 0.018)
        top = (c * radius * 0.55, s * radius * 0.55, height - 0.04)
        feet.append(tuple((np.add(foot, top) / 2).tolist()))
        parts.append(rod(foot, top, 0.018, metal))
    for first, second in zip(feet, feet[1:] + feet[:1], strict=True):
        parts.append(rod(first, second, 0.012, metal))
    return Shape(tuple(parts), Support(height + 0.035, 0.10, 0.10))


@kind('table')
def table(rng: np.random.Generator) -> Shape:
    """A wooden top on four legs."""
    colour = pick(rng, WOODS)
    length, depth = rng.uniform(1.1, 1.6), rng.uniform(0.65, 0.85)
    height = rng.uniform(0.68, 0.76)
    parts = legs(depth / 2 - 0.05, length / 2 - 0.06, height, 0.06, shade(colour, 0.8))
    parts.append(box((depth, length, 0.045), (0, 0, height), colour, texture='wood'))
    parts.append(box((depth - 0.1, length - 0.12, 0.09), (0, 0, height - 0.06), shade(colour, 0.8)))
    return Shape(tuple(parts), Support(height + 0.0225, depth / 2 - 0.05, length / 2 - 0.1))


@kind('sofa', 'wall')
def sofa(rng: np.random.Generator) -> Shape:
    """Base, back, two arms, and two or three cushions."""
    colour = pick(rng, FABRICS)
    length, depth = rng.uniform(1.5, 2.0), rng.uniform(0.78, 0.9)
    seats = 2 if length < 1.75 else 3
    dark, light = shade(colour, 0.8), shade(colour, 1.15)
    back = rng.uniform(0.75, 0.88)
    parts = [
        box((depth, length, 0.26), (0, 0, 0.21), dark, texture='fabric'),
        box(
            (0.2, length, back - 0.1),
            (-depth / 2 + 0.1, 0, back / 2 + 0.05),
            dark,
            texture='fabric',
        ),
    ]
    for side in (-1, 1):
        parts.append(
            box((depth, 0.18, 0.5), (0, side * (length / 2 + 0.06), 0.33), dark, texture='fabric')
        )
        for front in (-1, 1):
            parts.append(
                cylinder(
                    0.03,
                    0.08,
                    (front * (depth / 2 - 0.08), side * length * 0.45, 0.04),
                    (0.15, 0.1, 0.08),
                )
            )
    width = (length - 0.1) / seats
    for seat in range(seats):
        y = (seat - (seats - 1) / 2) * width
        parts.append(
            box((depth - 0.24, width - 0.03, 0.13), (0.1, y, 0.40), light, texture='fabric')
        )
        parts.append(
            box(
                (0.14, width - 0.05, 0.36),
                (-depth / 2 + 0.26, y, 0.62),
                light,
                texture='fabric',
                rotation=turned(pitch_deg=-10),
            )
        )
    return Shape(tuple(parts))


@kind('bed', 'wall')
def bed(rng: np.random.Generator) -> Shape:
    """A frame with headboard, mattress, blanket and pillows; the headboard is at the wall."""
    wood, cloth = pick(rng, WOODS), pick(rng, FABRICS)
    length, width = rng.uniform(1.9, 2.05), rng.uniform(0.95, 1.35)
    board = rng.uniform(0.8, 1.0)
    parts = [
        box((length, width, 0.2), (0, 0, 0.2), wood, texture='wood'),
        box((0.06, width + 0.06, board), (-length / 2, 0, board / 2), wood, texture='wood'),
        box((0.05, width + 0.04, 0.42), (length / 2, 0, 0.21), wood, texture='wood'),
        box((length - 0.08, width - 0.04, 0.2), (0, 0, 0.4), (0.95, 0.95, 0.92), texture='fabric'),
        box((length * 0.62, width, 0.07), (length * 0.16, 0, 0.49), cloth, texture='stripes'),
        box((0.02, width + 0.02, 0.2), (length * 0.47, 0, 0.42), cloth, texture='stripes'),
    ]
    for side in (-1, 1):
        parts.append(
            box(
                (length * 0.62, 0.03, 0.2),
                (length * 0.16, side * width / 2, 0.42),
                cloth,
                texture='stripes',
            )
        )
    for y in (0.0,) if width < 1.1 else (-width / 4, width / 4):
        parts.append(
            box(
                (0.36, min(0.55, width * 0.45), 0.12),
                (-length / 2 + 0.28, y, 0.55),
                (1.0, 1.0, 1.0),
                rotation=turned(pitch_deg=-12),
            )
        )
    return Shape(tuple(parts))


@kind('shelf', 'wall')
def shelf(rng: np.random.Generator) -> Shape:
    """An open bookcase filled with books."""
    wood = pick(rng, WOODS)
    width, depth, height = rng.uniform(0.75, 1.1), rng.uniform(0.26, 0.34), rng.uniform(1.5, 1.9)
    boards = 5
    parts = [
        box((0.02, width, height), (-depth / 2, 0, height / 2), shade(wood, 0.7), texture='wood')
    ]
    for side in (-1, 1):
        parts.append(
            box((depth, 0.035, height), (0, side * width / 2, height / 2), wood, texture='wood')
        )
    for level in range(boards):
        z = 0.06 + (height - 0.1) * level / (boards - 1)
        parts.append(box((depth, width, 0.035), (0, 0, z), wood, texture='wood'))
        if level == boards - 1:
            break
        gap = (height - 0.1) / (boards - 1) - 0.04
        y = -width / 2 + 0.03
        while y < width / 2 - 0.14:
            thick, tall = rng.uniform(0.06, 0.13), gap * rng.uniform(0.6, 0.9)
            if rng.random() < 0.85:
                parts.append(
                    box(
                        (depth * 0.7, thick, tall),
                        (0.01, y + thick / 2, z + 0.018 + tall / 2),
                        pick(rng, BRIGHTS + FABRICS),
                    )
                )
            y += thick + 0.006
    return Shape(tuple(parts))


@kind('ladder')
def ladder(rng: np.random.Generator) -> Shape:
    """A step ladder, standing open."""
    colour, tread = pick(rng, BRIGHTS + METALS), pick(rng, METALS)
    height, spread = rng.uniform(1.2, 1.7), rng.uniform(0.34, 0.45)
    bottom, top = 0.26, 0.16
    parts: list[Part] = []
    for side in (-1, 1):
        parts.append(rod((spread, side * bottom, 0.02), (0, side * top, height), 0.02, colour))
        parts.append(rod((-spread, side * bottom, 0.02), (-0.04, side * top, height), 0.018, tread))
    steps = 4 if height < 1.45 else 5
    for step in range(1, steps):
        share = step / steps
        half = bottom + (top - bottom) * share
        parts.append(
            box(
                (0.09, 2 * half, 0.03),
                (spread * (1 - share), 0, height * share),
                tread,
                texture='metal',
            )
        )
    parts.append(box((0.2, 2 * top + 0.06, 0.04), (-0.02, 0, height), colour))
    parts.append(
        rod((-spread * 0.5, -0.2, height * 0.5), (-spread * 0.5, 0.2, height * 0.5), 0.014, tread)
    )
    return Shape(tuple(parts))


@kind('door_frame')
def door_frame(rng: np.random.Generator) -> Shape:
    """Two posts and a lintel to walk through, without a door."""
    colour = pick(rng, WOODS)
    width, height, thick = rng.uniform(1.15, 1.3), rng.uniform(2.05, 2.15), rng.uniform(0.10, 0.14)
    post = (thick, thick, height)
    return Shape(
        (
            box(post, (0, -(width + thick) / 2, height / 2), colour, texture='wood', hull=0),
            box(post, (0, (width + thick) / 2, height / 2), colour, texture='wood', hull=1),
            box(
                (thick, width + 2 * thick, thick),
                (0, 0, height + thick / 2),
                colour,
                texture='wood',
                hull=2,
            ),
        )
    )
