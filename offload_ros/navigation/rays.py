"""Which voxels rays pass through: exactly, and without a loop over rays or voxels.

A ray enters a new voxel wherever it crosses a plane of the grid (Amanatides and Woo, "A fast voxel
traversal algorithm for ray tracing", 1987). The order does not matter to a map, so all crossings of
one axis are computed at once: there that axis' index is known, and the others follow by rounding.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from offload_ros.tracking.checks import Floats

Cells = npt.NDArray[np.int64]


def traversed(origin: Floats, ends: Floats) -> Cells:
    """Return voxels (M, 3) that segments from origin (3,) to ends (N, 3) pass through.

    Coordinates are in voxels. Voxels of start and end are included; one may come several times.
    Where one passes through an edge or corner exactly, one of those that meet there is enough.
    """
    if not len(ends):
        return np.empty((0, 3), np.int64)
    start = np.floor(origin).astype(np.int64)
    last = np.floor(ends).astype(np.int64)
    along = ends - origin
    found = [start[None], last]
    for axis in range(3):
        count = np.abs(last[:, axis] - start[axis])
        ray = np.repeat(np.arange(len(ends)), count)
        if not len(ray):
            continue
        # 0, 1, 2, … within each ray
        step = np.arange(len(ray)) - np.repeat(np.cumsum(count) - count, count)
        forward = along[ray, axis] > 0
        plane = np.where(forward, start[axis] + 1 + step, start[axis] - step)
        share = (plane - origin[axis]) / along[ray, axis]
        cells = np.empty((len(ray), 3), np.int64)
        for other in range(3):
            if other == axis:
                cells[:, axis] = np.where(forward, plane, plane - 1)
            else:
                at = np.floor(origin[other] + share * along[ray, other]).astype(np.int64)
                low = np.minimum(start[other], last[ray, other])
                cells[:, other] = np.clip(at, low, np.maximum(start[other], last[ray, other]))
        found.append(cells)
    return np.concatenate(found)
