"""Pictures on surfaces, drawn from a seed. Square, (N, N, 3) uint8.

Most are nearly white, so that the colour of the part that they lie on tints them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.uint8]
Field = npt.NDArray[np.float64]

EDGE_PX = 64
WALL_PX = 256


def _grey(values: Field) -> Image:
    """Turn brightness in [0, 1] into an RGB image."""
    return np.repeat((np.clip(values, 0, 1) * 255).astype(np.uint8)[:, :, None], 3, 2)


def _grid(size: int = EDGE_PX) -> tuple[Field, Field]:
    """Return row and column coordinates in [0, 1)."""
    steps = np.arange(size) / size
    return np.meshgrid(steps, steps, indexing='ij')  # type: ignore[return-value]


def _noise(rng: np.random.Generator, cells: int, size: int = EDGE_PX) -> Field:
    """Return smooth noise in [0, 1] that repeats at the edges."""
    coarse = rng.random((cells, cells))
    at = np.arange(size) * cells / size
    low = at.astype(int)
    part = at - low
    part = part * part * (3 - 2 * part)
    rows = coarse[low % cells] * (1 - part)[:, None] + coarse[(low + 1) % cells] * part[:, None]
    smooth: Field = rows[:, low % cells] * (1 - part) + rows[:, (low + 1) % cells] * part
    return smooth


def _wood(rng: np.random.Generator) -> Image:
    row, _ = _grid()
    rings = np.sin(2 * np.pi * (5 * row + 1.2 * _noise(rng, 3)))
    return _grey(0.86 + 0.10 * rings + 0.06 * (_noise(rng, 32) - 0.5))


def _fabric(rng: np.random.Generator) -> Image:
    row, column = _grid()
    weave = np.sin(2 * np.pi * 16 * row) * np.sin(2 * np.pi * 16 * column)
    return _grey(0.88 + 0.08 * weave + 0.1 * (_noise(rng, 16) - 0.5))


def _metal(rng: np.random.Generator) -> Image:
    _, column = _grid()
    return _grey(0.88 + 0.1 * np.sin(2 * np.pi * 2 * column) + 0.04 * (_noise(rng, 32) - 0.5))


def _cardboard(rng: np.random.Generator) -> Image:
    row, _ = _grid()
    return _grey(0.93 + 0.03 * np.sin(2 * np.pi * 16 * row) + 0.1 * (_noise(rng, 16) - 0.5))


def _leaves(rng: np.random.Generator) -> Image:
    return _grey(0.55 + 0.6 * (_noise(rng, 16) - 0.2))


def _stripes(rng: np.random.Generator) -> Image:
    _, column = _grid()
    return _grey(np.where((column * 6) % 1 < 0.5, 1.0, 0.72) + 0.05 * (_noise(rng, 32) - 0.5))


def _glow(rng: np.random.Generator) -> Image:
    row, _ = _grid()
    return _grey(0.9 + 0.1 * np.sin(np.pi * row))


def _ball(rng: np.random.Generator) -> Image:
    """Return a bright band around the middle and a dark one beside it."""
    row, _ = _grid()
    image = np.full((EDGE_PX, EDGE_PX, 3), 255, np.uint8)
    image[np.abs(row - 0.5) < 0.14] = (60, 60, 70)
    return image


def _screen(rng: np.random.Generator) -> Image:
    """Return a landscape: sky, sun, hills and a lake."""
    row, column = _grid()
    image = np.empty((EDGE_PX, EDGE_PX, 3), np.float64)
    image[:] = np.stack([90 + 90 * row, 150 + 60 * row, 235 - 20 * row], -1)
    image[(row - 0.28) ** 2 + (column - 0.7) ** 2 < 0.012] = (255, 240, 150)
    image[row > 0.58 + 0.12 * np.sin(2 * np.pi * column + rng.uniform(0, 6))] = (60, 130, 70)
    image[row > 0.78] = (50, 100, 170)
    return image.astype(np.uint8)


def _picture(rng: np.random.Generator) -> Image:
    """Return an abstract painting of coloured blocks."""
    image = np.full((EDGE_PX, EDGE_PX, 3), 235, np.uint8)
    for _ in range(7):
        top, left = rng.integers(0, 48, 2)
        tall, wide = rng.integers(8, 30, 2)
        image[top : top + tall, left : left + wide] = rng.integers(40, 240, 3)
    return image


def _window(rng: np.random.Generator) -> Image:
    """Return a view of the sky through four panes."""
    row, column = _grid()
    image = np.stack([150 + 60 * row, 195 + 30 * row, 240 - 10 * row], -1)
    image[_noise(rng, 6) > 0.66] = (245, 248, 250)
    image[row > 0.8] = (90, 140, 80)
    bars = (np.abs(row - 0.5) < 0.03) | (np.abs(column - 0.5) < 0.03)
    frame = (np.minimum(row, column) < 0.05) | (np.maximum(row, column) > 0.94)
    image[bars | frame] = (250, 250, 250)
    return image.astype(np.uint8)


def _plaster(rng: np.random.Generator) -> Image:
    fine = _noise(rng, 128, WALL_PX) - 0.5
    return _grey(0.96 + 0.05 * (_noise(rng, 8, WALL_PX) - 0.5) + 0.05 * fine)


def _bricks(rng: np.random.Generator) -> Image:
    """Return 20 courses of 24 bricks, for a whole wall."""
    row, column = _grid(WALL_PX)
    course = np.floor(row * 20)
    along = (column * 24 + 0.5 * (course % 2)) % 1
    joint = (((row * 20) % 1) < 0.16) | (along < 0.08)
    brick = rng.random((20, 25))[
        course.astype(int), np.floor(column * 24 + 0.5 * (course % 2)).astype(int)
    ]
    tone = 0.78 + 0.14 * brick
    return _grey(np.where(joint, 1.0, tone))


def _planks(rng: np.random.Generator) -> Image:
    row, column = _grid()
    plank = np.floor(row * 4)
    along = (column + 0.37 * plank) % 1
    joint = (((row * 4) % 1) < 0.04) | (along < 0.012)
    tone = 0.82 + 0.14 * np.sin(plank * 2.3 + rng.uniform(0, 6)) * 0.5
    grain = 0.06 * np.sin(2 * np.pi * (20 * row + 1.5 * _noise(rng, 4)))
    return _grey(np.where(joint, 0.5, tone + grain))


def _tiles(rng: np.random.Generator) -> Image:
    row, column = _grid()
    joint = (((row * 2) % 1) < 0.04) | (((column * 2) % 1) < 0.04)
    dark = (np.floor(row * 2) + np.floor(column * 2)) % 2
    return _grey(np.where(joint, 0.6, 0.95 - 0.13 * dark + 0.05 * (_noise(rng, 16) - 0.5)))


def _carpet(rng: np.random.Generator) -> Image:
    return _grey(0.85 + 0.25 * (_noise(rng, 32) - 0.5) + 0.1 * (_noise(rng, 8) - 0.5))


TEXTURES: dict[str, Callable[[np.random.Generator], Image]] = {
    'wood': _wood,
    'fabric': _fabric,
    'metal': _metal,
    'cardboard': _cardboard,
    'leaves': _leaves,
    'stripes': _stripes,
    'glow': _glow,
    'ball': _ball,
    'screen': _screen,
    'picture': _picture,
    'window': _window,
    'plaster': _plaster,
    'bricks': _bricks,
}
FLOORS: dict[str, Callable[[np.random.Generator], Image]] = {
    'planks': _planks,
    'tiles': _tiles,
    'carpet': _carpet,
}
