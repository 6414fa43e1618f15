"""Machines of a household."""

from __future__ import annotations

import numpy as np

from offload_ros.sim.objects.registry import (
    BLACK,
    BRIGHTS,
    METALS,
    WHITE,
    WOODS,
    kind,
    pick,
    shade,
)
from offload_ros.sim.shapes import Part, Shape, box, cylinder, frustum, rod, sphere, torus, turned


@kind('fridge', 'wall')
def fridge(rng: np.random.Generator) -> Shape:
    """Two doors above each other with long handles."""
    colour = pick(rng, (WHITE, (0.78, 0.80, 0.82), (0.72, 0.18, 0.16), (0.55, 0.75, 0.72)))
    width, depth, height = rng.uniform(0.58, 0.7), rng.uniform(0.55, 0.65), rng.uniform(1.5, 1.8)
    split = height * rng.uniform(0.6, 0.7)
    front = depth / 2
    parts = [
        box((depth, width, height - 0.04), (0, 0, height / 2 + 0.02), shade(colour, 0.72)),
        box((depth - 0.06, width - 0.06, 0.05), (0, 0, 0.025), BLACK),
    ]
    for low, high in ((0.06, split), (split, height)):
        middle, tall = (low + high) / 2, high - low - 0.025
        parts.append(box((0.05, width, tall), (front + 0.03, 0, middle), colour))
        parts.append(
            box((0.03, 0.03, tall * 0.5), (front + 0.085, -width / 2 + 0.07, middle), METALS[1])
        )
    return Shape(tuple(parts))


@kind('washing_machine', 'wall')
def washing_machine(rng: np.random.Generator) -> Shape:
    """A white cube with a round glass door and a panel."""
    colour = pick(rng, (WHITE, (0.80, 0.82, 0.85)))
    size = rng.uniform(0.56, 0.62)
    height, front = rng.uniform(0.80, 0.88), size / 2
    facing = turned(pitch_deg=90)
    parts = [
        box((size, size, height), (0, 0, height / 2), colour),
        box((0.012, size, 0.12), (front, 0, height - 0.07), shade(colour, 0.75)),
        cylinder(0.2, 0.05, (front + 0.01, 0, height * 0.45), METALS[1], rotation=facing),
        cylinder(0.155, 0.07, (front + 0.012, 0, height * 0.45), (0.12, 0.2, 0.3), rotation=facing),
        cylinder(0.035, 0.04, (front + 0.015, size * 0.3, height - 0.07), BLACK, rotation=facing),
        box((0.014, 0.18, 0.06), (front + 0.002, -size * 0.2, height - 0.07), (0.1, 0.3, 0.35)),
    ]
    return Shape(tuple(parts))


@kind('tv', 'wall')
def tv(rng: np.random.Generator) -> Shape:
    """A lit screen on a low cabinet."""
    wood = pick(rng, WOODS)
    width, tall, low = rng.uniform(0.95, 1.25), rng.uniform(0.55, 0.7), rng.uniform(0.4, 0.55)
    parts = [
        box((0.4, width * 1.05, low), (0, 0, low / 2), wood, texture='wood'),
        box((0.02, width * 0.5, low * 0.7), (0.2, -width * 0.26, low / 2), shade(wood, 0.75)),
        box((0.02, width * 0.5, low * 0.7), (0.2, width * 0.26, low / 2), shade(wood, 0.75)),
        box((0.2, width * 0.4, 0.03), (-0.05, 0, low + 0.015), BLACK),
        box((0.05, 0.12, 0.12), (-0.06, 0, low + 0.08), BLACK),
        box((0.05, width, tall), (-0.05, 0, low + 0.1 + tall / 2), BLACK),
        box(
            (0.012, width - 0.06, tall - 0.06),
            (-0.024, 0, low + 0.1 + tall / 2),
            (1.0, 1.0, 1.0),
            texture='screen',
        ),
    ]
    return Shape(tuple(parts))


@kind('lamp')
def lamp(rng: np.random.Generator) -> Shape:
    """A floor lamp: foot, pole and a bright shade."""
    metal = pick(rng, METALS)
    height, wide = rng.uniform(1.3, 1.65), rng.uniform(0.19, 0.26)
    warm = pick(rng, ((1.0, 0.92, 0.62), (1.0, 0.80, 0.55), (0.95, 0.95, 0.85)))
    parts = [
        cylinder(0.16, 0.03, (0, 0, 0.015), metal),
        cylinder(0.016, height - 0.2, (0, 0, height / 2 - 0.1), metal),
        frustum(wide, wide * 0.55, 0.3, (0, 0, height - 0.12), warm, texture='glow'),
    ]
    return Shape(tuple(parts))


@kind('fan')
def fan(rng: np.random.Generator) -> Shape:
    """A pedestal fan with three blades in a ring."""
    metal, blade = pick(rng, (*METALS, WHITE)), pick(rng, BRIGHTS)
    height, ring = rng.uniform(1.0, 1.25), rng.uniform(0.2, 0.26)
    facing = turned(pitch_deg=90)
    parts: list[Part] = [
        cylinder(0.19, 0.035, (0, 0, 0.018), metal),
        cylinder(0.02, height, (0, 0, height / 2), metal),
        cylinder(0.07, 0.16, (0, 0, height), metal, rotation=facing),
        sphere(0.045, (0.11, 0, height), blade),
        torus(ring, 0.014, (0.1, 0, height), metal, rotation=facing),
    ]
    for angle in (90, 210, 330):
        c, s = float(np.cos(np.deg2rad(angle))), float(np.sin(np.deg2rad(angle)))
        parts.append(
            box(
                (0.012, ring * 0.5, ring * 0.85),
                (0.1, c * ring * 0.5, height + s * ring * 0.5),
                blade,
                rotation=turned(roll_deg=angle - 90),
            )
        )
        parts.append(
            rod((0.12, 0, height), (0.11, c * ring, height + s * ring), 0.008, shade(metal, 0.8))
        )
    return Shape(tuple(parts))


@kind('laptop', 'top')
def laptop(rng: np.random.Generator) -> Shape:
    """An open laptop with a lit screen."""
    colour = pick(rng, METALS)
    width, depth = rng.uniform(0.34, 0.42), rng.uniform(0.23, 0.28)
    tilt = turned(pitch_deg=-15)
    lean = 0.13 * depth
    return Shape(
        (
            box((depth, width, 0.022), (0, 0, 0.011), colour),
            box((depth * 0.5, width * 0.85, 0.004), (-depth * 0.12, 0, 0.024), BLACK),
            box(
                (0.012, width, depth),
                (-depth / 2 - lean, 0, depth / 2 + 0.02),
                colour,
                rotation=tilt,
            ),
            box(
                (0.006, width * 0.92, depth * 0.88),
                (-depth / 2 - lean + 0.008, 0, depth / 2 + 0.022),
                (1.0, 1.0, 1.0),
                texture='screen',
                rotation=tilt,
            ),
        )
    )
