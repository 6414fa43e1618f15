"""The inside of solids, as points: what a voxel grid of the true geometry is made of."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from offload_ros.sim.shapes import Array, Part, rotation_matrix

LEAST = 3  # points across a part, however thin it is


def local_size(part: Part) -> Array:
    """Return edge lengths (3,) of the box around a part in the part's own frame."""
    size = part.size
    if part.form == 'box':
        return np.asarray(size, np.float64)
    if part.form == 'sphere':
        return np.full(3, 2 * size[0])
    if part.form == 'ellipsoid':
        return 2 * np.asarray(size, np.float64)
    if part.form == 'cylinder':
        return np.array([2 * size[0], 2 * size[0], size[1]])
    if part.form == 'capsule':
        return np.array([2 * size[0], 2 * size[0], size[1] + 2 * size[0]])
    if part.form == 'frustum':
        wide = 2 * max(size[0], size[1])
        return np.array([wide, wide, size[2]])
    if part.form == 'torus':
        wide = 2 * (size[0] + size[1])
        return np.array([wide, wide, 2 * size[1]])
    raise ValueError(f'a part is a box, sphere, ..., not {part.form!r}')


def inside(part: Part, points: Array) -> npt.NDArray[np.bool_]:
    """Return which points (N, 3) of the part's own frame are in it or on it."""
    half = local_size(part) / 2 + 1e-9
    within = (np.abs(points) <= half).all(1)
    x, y, z = points.T
    around, size = np.hypot(x, y), part.size
    if part.form == 'box':
        found = within
    elif part.form == 'cylinder':
        found = within & (around <= half[0])
    elif part.form in ('sphere', 'ellipsoid'):
        found = ((points / half) ** 2).sum(1) <= 1.0
    elif part.form == 'capsule':
        beyond = np.maximum(np.abs(z) - size[1] / 2, 0.0)
        found = np.hypot(around, beyond) <= size[0] + 1e-9
    elif part.form == 'frustum':
        share = np.clip(z / size[2] + 0.5, 0.0, 1.0)
        found = within & (around <= size[0] + share * (size[1] - size[0]) + 1e-9)
    else:
        found = np.hypot(around - size[0], z) <= size[1] + 1e-9
    return np.asarray(found)


def filled(part: Part, spacing_m: float) -> Array:
    """Return points (N, 3), in the frame of the part's object, that fill it at most ``spacing_m``
    apart; of a thin part there are three across."""
    edges = local_size(part)
    axes = []
    for edge in edges:
        count = max(LEAST, int(np.ceil(edge / spacing_m)) + 1)
        axes.append(np.linspace(-edge / 2, edge / 2, count))
    points = np.stack(np.meshgrid(*axes, indexing='ij'), -1).reshape(-1, 3)
    points = points[inside(part, points)]
    found: Array = points @ rotation_matrix(part.rotation).T + np.asarray(part.position)
    return found


def all_filled(parts: Sequence[Part], spacing_m: float) -> Array:
    """Return points (N, 3) that fill all parts."""
    if not parts:
        return np.empty((0, 3))
    return np.concatenate([filled(part, spacing_m) for part in parts])
