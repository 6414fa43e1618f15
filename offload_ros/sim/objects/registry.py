"""The kinds of objects, each a builder that draws one specimen from a random generator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from offload_ros.sim.shapes import Colour, Shape, bounds, centred

Builder = Callable[[np.random.Generator], Shape]

PLACES = ('free', 'wall', 'top')


@dataclass(frozen=True)
class Kind:
    """A kind of object.

    place says where it belongs: ``free`` on the floor, ``wall`` with its back to a wall, ``top`` on
    another object's support where one is free.
    """

    name: str
    place: str
    build: Builder


KINDS: dict[str, Kind] = {}


def kind(name: str, place: str = 'free') -> Callable[[Builder], Builder]:
    """Register a builder; its shape is moved to stand on the origin whatever frame it used."""
    if place not in PLACES:
        raise ValueError(f'place must be one of {", ".join(PLACES)}, not {place!r}')
    if name in KINDS:
        raise ValueError(f'the kind {name!r} is registered twice')

    def register(builder: Builder) -> Builder:
        KINDS[name] = Kind(name, place, lambda rng: centred(builder(rng)))
        return builder

    return register


def size_of(shape: Shape) -> tuple[float, float, float]:
    """Return the edge lengths of the bounding box along the object's own axes, metres."""
    low, high = bounds(shape.parts)
    x, y, z = (high - low).tolist()
    return x, y, z


def pick(rng: np.random.Generator, colours: Sequence[Colour]) -> Colour:
    """Return one of the colours, slightly lighter or darker than it is listed."""
    chosen = colours[int(rng.integers(len(colours)))]
    return shade(chosen, float(rng.uniform(0.88, 1.08)))


def shade(colour: Colour, factor: float) -> Colour:
    """Return the colour made darker (factor below 1) or lighter."""
    r, g, b = (min(1.0, channel * factor) for channel in colour)
    return r, g, b


WOODS: tuple[Colour, ...] = (
    (0.72, 0.52, 0.32),
    (0.55, 0.36, 0.20),
    (0.85, 0.70, 0.48),
    (0.42, 0.26, 0.16),
    (0.92, 0.90, 0.86),
)
FABRICS: tuple[Colour, ...] = (
    (0.65, 0.22, 0.20),
    (0.22, 0.38, 0.62),
    (0.30, 0.50, 0.32),
    (0.45, 0.42, 0.45),
    (0.80, 0.68, 0.45),
    (0.42, 0.28, 0.52),
    (0.18, 0.45, 0.50),
)
BRIGHTS: tuple[Colour, ...] = (
    (0.90, 0.20, 0.18),
    (0.15, 0.45, 0.88),
    (0.98, 0.78, 0.12),
    (0.20, 0.68, 0.35),
    (0.95, 0.50, 0.12),
    (0.85, 0.35, 0.65),
)
METALS: tuple[Colour, ...] = ((0.75, 0.77, 0.80), (0.45, 0.47, 0.50), (0.22, 0.23, 0.25))
WHITE: Colour = (0.95, 0.95, 0.94)
BLACK: Colour = (0.08, 0.08, 0.09)
