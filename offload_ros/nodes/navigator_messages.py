"""What the navigator takes and publishes: labels of results; map, path, status, voxels."""

from __future__ import annotations

from array import array
import math
from typing import Any

from geometry_msgs.msg import Point, PoseStamped, Twist
from nav_msgs.msg import OccupancyGrid, Path
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import Image, PointCloud2

from offload_ros.models.errors import InputError
from offload_ros.msg import NavigationStatus
from offload_ros.navigation.driving import Speeds
from offload_ros.navigation.following import Timed
from offload_ros.navigation.replan_config import Report
from offload_ros.navigation.system import Asked
from offload_ros.navigation.voxel_map import VoxelMap
from offload_ros.nodes.tracker_messages import header_of
from offload_ros.nodes.world_messages import cloud_message, stamp_of
from offload_ros.wire.errors import WireError
from offload_ros.wire.tensors import decode

PATH_STEP_M = 0.1


def labels_of(message: Any) -> npt.NDArray[np.uint8]:
    """``labels`` (W, H, D) uint8 of an InferenceResult; ``InputError`` otherwise."""
    for tensor in message.outputs:
        if tensor.name == 'labels':
            try:
                labels = decode(tensor).numpy()
            except WireError as error:
                raise InputError(f'labels of {message.model}: {error}') from None
            if labels.dtype != np.uint8 or labels.ndim != 3:
                raise InputError(
                    f'labels of {message.model} are {labels.dtype} {labels.shape}, not (W, H, D) '
                    'uint8'
                )
            return np.asarray(labels)
    names = ', '.join(tensor.name for tensor in message.outputs) or 'nothing'
    raise InputError(f'{message.model} gives {names}, not labels: is it a SCONet?')


def goal_of(message: Any, fixed_frame: str) -> tuple[float, float, float]:
    """The place of a PoseStamped in the fixed frame; ``InputError`` for another frame."""
    frame = message.header.frame_id
    if frame and frame.lstrip('/') != fixed_frame.lstrip('/'):
        raise InputError(f"a goal must be in frame '{fixed_frame}', not '{frame}'")
    at = message.pose.position
    if not all(math.isfinite(each) for each in (at.x, at.y, at.z)):
        raise InputError('a goal must be finite')
    return at.x, at.y, at.z


def voxels_message(asked: Asked, frame: str) -> Image:
    """Bits of the observed voxels as an image that the manager takes (mono8)."""
    message = Image(header=header_of(asked.stamp_s, frame), encoding='mono8')
    message.height, message.width = asked.bits.shape
    message.step = message.width
    message.data = array('B', asked.bits.tobytes())
    return message


def twist_of(speeds: Speeds) -> Twist:
    """Speeds as a command."""
    message = Twist()
    message.linear.x, message.linear.y = speeds.forward_mps, speeds.left_mps
    message.linear.z, message.angular.z = speeds.up_mps, speeds.turn_radps
    return message


def path_message(motion: Timed | None, now_s: float, frame: str) -> Path:
    """What is left of a motion, a pose each 0.1 m; empty where there is none."""
    path = Path(header=header_of(now_s, frame))
    if motion is None:
        return path
    times, places = motion.spline.sampled(PATH_STEP_M)
    for time_s, place in zip(times, places, strict=True):
        if time_s + motion.begins_s < now_s:
            continue
        pose = PoseStamped(header=path.header)
        pose.header.stamp = stamp_of(max(0.0, time_s + motion.begins_s))
        pose.pose.position = Point(x=float(place[0]), y=float(place[1]), z=float(place[2]))
        pose.pose.orientation.w = 1.0
        path.poses.append(pose)
    return path


def occupancy_message(voxels: VoxelMap, now_s: float, frame: str) -> PointCloud2:
    """The middles of all voxels that are obstacles, observed or predicted."""
    points = voxels.middles(voxels.occupied | voxels.predicted).astype(np.float32)
    return cloud_message(points, stamp_of(now_s), frame)


def grid_message(voxels: VoxelMap, step_m: float, height_m: float, now_s: float, frame: str) -> Any:
    """The map for a robot on the floor: 100 where something from step_m to height_m is in the way,
    0 where the floor or the space above was seen, -1 where nothing is known."""
    config = voxels.config
    level = config.floor_m + (np.arange(config.shape[2]) - 0.5) * config.resolution_m
    concerned = (level > config.floor_m + step_m) & (level < config.floor_m + height_m)
    solid = (voxels.occupied | voxels.predicted)[:, :, concerned].any(2)
    seen = voxels.seen.any(2)
    values = np.where(solid, 100, np.where(seen, 0, -1)).astype(np.int8)
    message = OccupancyGrid(header=header_of(now_s, frame))
    message.info.resolution = config.resolution_m
    message.info.width, message.info.height = values.shape
    message.info.origin.position.x, message.info.origin.position.y = (
        float(each) for each in voxels.low[:2]
    )
    message.info.origin.orientation.w = 1.0
    message.data = array('b', np.ascontiguousarray(values.T).tobytes())
    return message


def status_message(
    report: Report, airborne: bool, trouble: str, now_s: float, frame: str
) -> NavigationStatus:
    """What the navigator does."""
    status = NavigationStatus(header=header_of(now_s, frame))
    status.state = report.state.name.lower()
    status.mode = 'air' if airborne else 'ground'
    status.reason = trouble or report.reason
    status.plan = '' if report.status is None else report.status.value
    status.goal = report.outcome.name.lower()
    place = None if report.end is None else report.end.place
    nan = math.nan
    x, y, z = (nan, nan, nan) if place is None else (float(each) for each in place)
    status.end = Point(x=x, y=y, z=z)
    return status
