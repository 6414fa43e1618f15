"""The local binary grid that SCONet takes, from points and a pose, and back from its labels.

Axes are W, H, D: x, height, y of the grid's frame (AGRNav, ICRA 2024; the height is the network's
channel axis). One bit per voxel goes over the wire.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
import numpy.typing as npt

from offload_ros.tracking.checks import Floats, finite, require, within

Labels = npt.NDArray[np.uint8]
_MOST_VOXELS = 1 << 26


@dataclass(frozen=True)
class GridPose:
    """Where the robot is in the map, metres and radians; z is the floor's height under it.

    The grid's frame has the robot's place as origin and is turned by yaw about the vertical: a
    grid is always level, whatever the sensor's attitude.
    """

    x_m: float
    y_m: float
    z_m: float = 0.0
    yaw: float = 0.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require(math.isfinite(value), f'{name} of a pose must be finite, not {value!r}')

    def into(self, points: Floats) -> Floats:
        """Return points (N, 3) of the map in the grid's frame."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        x, y, z = (points - (self.x_m, self.y_m, self.z_m)).T
        return np.stack((c * x + s * y, c * y - s * x, z), -1)

    def out_of(self, points: Floats) -> Floats:
        """Return points (N, 3) of the grid's frame in the map."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        x, y, z = points.T
        return np.stack((c * x - s * y + self.x_m, s * x + c * y + self.y_m, z + self.z_m), -1)


@dataclass(frozen=True)
class VoxelGrid:
    """Size of the grid in voxels, their edge, and the grid's lowest corner seen from the robot."""

    width: int = 256
    height: int = 32
    depth: int = 256
    voxel_m: float = 0.1
    low_m: tuple[float, float, float] = (-10.0, -10.0, -0.1)

    def __post_init__(self) -> None:
        for name in ('width', 'height', 'depth'):
            value = getattr(self, name)
            require(
                isinstance(value, int) and value >= 1, f'{name} must be at least 1, not {value!r}'
            )
        require(
            self.width * self.height * self.depth <= _MOST_VOXELS,
            f'a grid has at most {_MOST_VOXELS} voxels',
        )
        within('voxel_m', self.voxel_m, 0.01, 2.0)
        for value in finite('low_m', self.low_m, (3,)):
            within('low_m', float(value), -1e4, 1e4)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of voxels along W, H and D."""
        return self.width, self.height, self.depth

    def cells(self, points: Floats) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """Return indices (N, 3) in W, H, D of points (N, 3) of the grid's frame, and which fit."""
        scaled = np.floor((points - self.low_m) / self.voxel_m)[:, (0, 2, 1)]
        # Clipped, since what is very far away is no whole number that fits.
        cell = np.clip(scaled, -1, _MOST_VOXELS).astype(np.int64)
        return cell, np.asarray(((cell >= 0) & (cell < self.shape)).all(1))

    def occupied(self, points: npt.ArrayLike, pose: GridPose) -> Labels:
        """Return (W, H, D) uint8: 1 where one of the points (N, 3) of the map lies.

        Points that are not finite (holes of a cloud) or outside are left out; ValueError for
        another shape.
        """
        cloud = np.asarray(points, np.float64)
        require(
            cloud.ndim == 2 and cloud.shape[1] == 3, f'points must be (N, 3), not {cloud.shape}'
        )
        cloud = cloud[np.isfinite(cloud).all(1)]
        grid = np.zeros(self.shape, np.uint8)
        cell, inside = self.cells(pose.into(cloud))
        grid[tuple(cell[inside].T)] = 1
        return grid

    def middles(self, marked: npt.NDArray, pose: GridPose) -> Floats:
        """Return the middles (N, 3) in the map of those voxels that are not 0; marked (W, H, D)."""
        require(marked.shape == self.shape, f'the grid must be {self.shape}, not {marked.shape}')
        index: Floats = np.argwhere(marked)[:, (0, 2, 1)].astype(np.float64)
        return pose.out_of((index + 0.5) * self.voxel_m + np.array(self.low_m, np.float64))


def packed(grid: npt.NDArray) -> Labels:
    """Return a grid's voxels as bits, in C order, the first in a byte's highest bit."""
    return np.packbits(np.asarray(grid, np.bool_).reshape(-1))


def unpacked(data: npt.NDArray[np.uint8], shape: tuple[int, int, int]) -> Labels:
    """Return the grid that ``packed`` made bits of; ValueError if their number is not right."""
    count = math.prod(shape)
    require(
        data.dtype == np.uint8 and data.shape == (-(-count // 8),),
        f'{shape} voxels are {-(-count // 8)} bytes, not {data.dtype} {data.shape}',
    )
    return np.unpackbits(data, count=count).reshape(shape)
