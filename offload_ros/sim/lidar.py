"""Rays: the 2-D scan, the 3-D point cloud, and any others that a caller wants to cast."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from offload_ros.sim.config import LidarConfig
from offload_ros.sim.gl import mujoco
from offload_ros.sim.scene import ROBOT_GROUP
from offload_ros.sim.shapes import Array

_SEEN = np.array([group != ROBOT_GROUP for group in range(6)], np.uint8)


def scan_angles(config: LidarConfig) -> Array:
    """Return the bearing (N,) of every ray of the scan, radians from -pi, counter-clockwise."""
    return -math.pi + 2 * math.pi * np.arange(config.scan_rays) / config.scan_rays


def scan_directions(config: LidarConfig) -> Array:
    """Return unit vectors (N, 3) of the scan in the lidar's frame."""
    angles = scan_angles(config)
    return np.stack([np.cos(angles), np.sin(angles), np.zeros(len(angles))], 1)


def cloud_directions(config: LidarConfig) -> Array:
    """Return unit vectors (channels * columns, 3) of the cloud in the lidar's frame.

    Channel by channel from the lowest, each from behind counter-clockwise.
    """
    up = np.deg2rad(
        np.linspace(config.cloud_lowest_deg, config.cloud_highest_deg, config.cloud_channels)
    )[:, None]
    around = (-math.pi + 2 * math.pi * np.arange(config.cloud_columns) / config.cloud_columns)[None]
    return np.stack(
        [
            np.cos(up) * np.cos(around),
            np.cos(up) * np.sin(around),
            np.broadcast_to(np.sin(up), (config.cloud_channels, config.cloud_columns)),
        ],
        -1,
    ).reshape(-1, 3)


def cast(
    model: Any, data: Any, origin: Array, directions: Array, reach_m: float
) -> tuple[Array, npt.NDArray[np.int32]]:
    """Cast rays from origin (3,) along unit vectors (N, 3), both in the map frame.

    Returns distances (N,) float64 in metres, inf where nothing is hit within reach_m, and the geoms
    (N,) int32 that were hit, -1 for none. The robot itself is not seen.
    """
    rays = len(directions)
    geoms = np.full(rays, -1, np.int32)
    distances = np.full(rays, -1.0)
    mujoco.mj_multiRay(
        model,
        data,
        np.asarray(origin, np.float64),
        np.ascontiguousarray(directions, np.float64).ravel(),
        _SEEN,
        True,
        -1,
        geoms,
        distances,
        None,
        rays,
        reach_m,
    )
    missed = (geoms < 0) | (distances > reach_m)
    distances[missed] = np.inf
    geoms[missed] = -1
    return distances, geoms
