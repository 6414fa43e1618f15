"""Distances to the nearest marked voxel, up to a reach, updated only where something changed.

Exact (Felzenszwalb and Huttenlocher, "Distance transforms of sampled functions", 2012): OpenCV's
exact transform of each layer, then the minimum over the layers within reach. SciPy's transform of
the whole grid takes fifteen times as long; its values up to the reach are the same.
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from offload_ros.tracking.checks import Bools, require, within

Squares = npt.NDArray[np.uint16]
REACH_MAX = 180  # twice its square still fits 16 bits


class DistanceField:
    """Squared distances in voxels, from middle to middle, of a grid whose marks change."""

    def __init__(self, shape: tuple[int, int, int], reach: int) -> None:
        """Begin without a mark. shape: X, Y, Z.

        reach: in voxels, 1 to ``REACH_MAX``; what is further away counts as so far.
        """
        within('reach', reach, 1, REACH_MAX)
        require(min(shape) >= 1, f'a grid has at least one voxel, not {shape}')
        x, y, z = shape
        self.reach = reach
        self._far = np.uint16(reach * reach)
        # Layers first in memory, so that OpenCV gets each as it lies.
        self._marked = np.zeros((z, x, y), np.bool_)
        self._flat = np.full((z, x, y), self._far, np.uint16)  # within the layer only
        self._squares = np.full((z, x, y), self._far, np.uint16)

    @property
    def squares(self) -> Squares:
        """Squared distances (X, Y, Z), at most reach squared; not to be written to."""
        squares: Squares = self._squares.transpose(1, 2, 0)
        return squares

    def update(self, marked: Bools) -> int:
        """Take marks (X, Y, Z) in place of those before; return how many voxels had to be redone.

        ValueError for another shape.
        """
        layers = marked.transpose(2, 0, 1)
        require(
            layers.shape == self._marked.shape,
            f'marks must be {self.squares.shape}, not {marked.shape}',
        )
        changed = layers != self._marked
        if not changed.any():
            return 0
        z, x, y = (_range(changed, axis) for axis in range(3))
        self._marked = np.ascontiguousarray(layers)
        x, y = (_wider(part, self.reach) for part in (x, y))
        for layer in range(z.start, z.stop):
            if changed[layer].any():
                self._renew_layer(layer, x, y)
        z = _wider(z, self.reach)
        count, _, _ = self._marked.shape
        below = slice(max(0, z.start - self.reach), min(count, z.stop + self.reach))
        flat = self._flat[below, x, y]
        best = flat.copy()
        for step in range(1, min(self.reach, len(flat))):
            further = flat + np.uint16(step * step)
            np.minimum(best[step:], further[:-step], out=best[step:])
            np.minimum(best[:-step], further[step:], out=best[:-step])
        inner = slice(z.start - below.start, min(z.stop, count) - below.start)
        done = best[inner]
        self._squares[z, x, y] = done
        return int(done.size)

    def _renew_layer(self, layer: int, x: slice, y: slice) -> None:
        """Renew the distances within one layer in a window, from marks that may lie around it."""
        wide_x, wide_y = _wider(x, self.reach), _wider(y, self.reach)
        marks = self._marked[layer, wide_x, wide_y]
        window = self._flat[layer, x, y]
        x0, y0 = x.start - wide_x.start, y.start - wide_y.start
        squares = flat_squares(marks, self.reach)
        window[:] = squares[x0 : x0 + window.shape[0], y0 : y0 + window.shape[1]]


def flat_squares(marks: Bools, reach: int) -> Squares:
    """Return squared distances (X, Y) in cells to the nearest mark, at most reach squared."""
    if not marks.any():
        return np.full(marks.shape, reach * reach, np.uint16)
    cells = cv2.distanceTransform((~marks).view(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Whole numbers by nature; the root in between is exact enough to find them again.
    squares: Squares = np.rint(np.minimum(cells * cells, reach * reach)).astype(np.uint16)
    return squares


def _range(changed: Bools, axis: int) -> slice:
    """Return the shortest range along an axis that holds every change."""
    others = tuple(other for other in range(3) if other != axis)
    places = np.flatnonzero(changed.any(others))
    return slice(int(places[0]), int(places[-1]) + 1)


def _wider(part: slice, by: int) -> slice:
    return slice(max(0, part.start - by), part.stop + by)
