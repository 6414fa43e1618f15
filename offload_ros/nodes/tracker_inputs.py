"""From messages to what the person follower takes: depth, colour, lidar rays, poses of results."""

from __future__ import annotations

from typing import Any

from cv_bridge import CvBridge, CvBridgeError
import numpy as np
import numpy.typing as npt

from offload_ros.models.config import InputSpec
from offload_ros.models.errors import InputError
from offload_ros.nodes.sensor_inputs import to_tensor
from offload_ros.tracking.depth import DepthImage, depth_in_metres
from offload_ros.tracking.overhangs import nearest_by_direction
from offload_ros.wire.errors import WireError
from offload_ros.wire.tensors import decode

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
_bridge = CvBridge()
_CLOUD = InputSpec(name='points', topic='points', type='sensor_msgs/msg/PointCloud2')


def depth_of(message: Any) -> DepthImage:
    """(H, W) float32 metres, NaN for holes; ``InputError`` for what is no depth image."""
    try:
        image = _bridge.imgmsg_to_cv2(message, desired_encoding='passthrough')
        return depth_in_metres(np.asarray(image), message.encoding)
    except (CvBridgeError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise InputError(f'depth image: {error}') from None


def rgb_of(message: Any) -> npt.NDArray[np.uint8]:
    """(H, W, 3) uint8 RGB; ``InputError`` for what cannot become that."""
    try:
        return np.asarray(_bridge.imgmsg_to_cv2(message, desired_encoding='rgb8'), np.uint8)
    except (CvBridgeError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise InputError(f'colour image: {error}') from None


def rays_of_scan(message: Any) -> tuple[Floats, Bools]:
    """Ends (N, 3) of a LaserScan's rays in its frame, and which met something (REP-117).

    Rays that measured nothing (NaN, too near) are left out. ``InputError`` for senseless messages.
    """
    ranges = np.asarray(message.ranges, np.float64)
    if not len(ranges) or not np.isfinite([message.angle_min, message.angle_increment]).all():
        raise InputError('the scan has no ranges, or no finite angles')
    if not 0 < message.range_max < 1e6:
        raise InputError(f'the scan has a range_max of {message.range_max}')
    angles = message.angle_min + message.angle_increment * np.arange(len(ranges))
    hit = (ranges >= message.range_min) & (ranges <= message.range_max)
    beyond = (ranges > message.range_max) | np.isposinf(ranges)
    kept = hit | beyond
    ranges = np.where(hit, ranges, message.range_max)[kept]
    angles = angles[kept]
    ends = np.stack([ranges * np.cos(angles), ranges * np.sin(angles), np.zeros(len(ranges))], 1)
    return ends, hit[kept]


def points_of(message: Any) -> Floats:
    """Points (N, 3) of a PointCloud2; ``InputError`` for senseless messages."""
    return to_tensor(message, _CLOUD)[0].numpy().astype(np.float64)


def rays_of_cloud(
    points: Floats, low_m: float, high_m: float, height_m: float
) -> tuple[Floats, Bools]:
    """Ends (N, 3) of the nearest obstacle in each direction, in the cloud's frame (z up).

    Obstacles are points from low_m to high_m above the floor; the lidar is height_m above it.
    """
    above = points[:, 2] + height_m
    points = points[(above >= low_m) & (above <= high_m)]
    nearest = nearest_by_direction(points[np.hypot(*points[:, :2].T) > 1e-3], np.zeros(3))
    return nearest, np.ones(len(nearest), np.bool_)


def people_of(message: Any) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """``poses`` (N, 17, 3) and ``boxes`` (N, 5) of an InferenceResult; ``InputError`` otherwise."""
    found: dict[str, npt.NDArray[np.float32]] = {}
    for tensor in message.outputs:
        if tensor.name in ('poses', 'boxes'):
            try:
                found[tensor.name] = decode(tensor).numpy()
            except WireError as error:
                raise InputError(f'{tensor.name} of {message.model}: {error}') from None
    if len(found) < 2:
        names = ', '.join(tensor.name for tensor in message.outputs) or 'nothing'
        raise InputError(f'{message.model} gives {names}, not poses and boxes: is it a KAPAO?')
    return found['poses'], found['boxes']
