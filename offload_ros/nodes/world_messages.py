"""From the simulated world's arrays to messages.

Large arrays go in as ``array.array``: assigning a numpy array or a list is checked value by value
and takes 30 to 100 times as long.
"""

from __future__ import annotations

from array import array
import math
from typing import Any

from builtin_interfaces.msg import Time
from geometry_msgs.msg import Point, Pose, PoseStamped, TransformStamped
from nav_msgs.msg import Odometry
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import CameraInfo, Image, LaserScan, PointCloud2, PointField

from offload_ros.msg import GroundTruth, ObjectTruth, PersonTruth
from offload_ros.sim import CameraConfig, LidarConfig, Truth
from offload_ros.sim.air_ground import AirGround
from offload_ros.sim.robot import Pose as FloorPose
from offload_ros.sim.robot import Robot
from offload_ros.sim.shapes import Quaternion, Vector

_FIELDS = [
    PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
    for i, name in enumerate('xyz')
]
# Wheels tell x, y and yaw; the rest is known to be level, so its variance only must not be 0.
_COVARIANCE = array(
    'd', [1e-3 if row == column else 0.0 for row in range(6) for column in range(6)]
)


def stamp_of(time_s: float) -> Any:
    """Return the time as builtin_interfaces/Time."""
    nanoseconds = round(time_s * 1e9)
    return Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9)


def _packed(code: str, values: npt.NDArray[Any]) -> array[Any]:
    packed = array(code)
    packed.frombytes(values.tobytes())
    return packed


def image_message(picture: npt.NDArray[Any], stamp: Any, frame: str) -> Any:
    """Return rgb8 for (H, W, 3) uint8, 32FC1 for (H, W) float32 metres (REP-118)."""
    message = Image()
    message.header.stamp, message.header.frame_id = stamp, frame
    message.height, message.width = picture.shape[:2]
    message.encoding = 'rgb8' if picture.ndim == 3 else '32FC1'
    message.step = message.width * picture.itemsize * (3 if picture.ndim == 3 else 1)
    message.data = _packed('B', picture)
    return message


def goal_message(place: FloorPose, stamp: Any, frame: str) -> Any:
    """Return a place on the floor as PoseStamped."""
    message = PoseStamped()
    message.header.stamp, message.header.frame_id = stamp, frame
    message.pose.position.x, message.pose.position.y = place.x, place.y
    message.pose.orientation.z, message.pose.orientation.w = (
        math.sin(place.yaw / 2),
        math.cos(place.yaw / 2),
    )
    return message


def camera_info_message(camera: CameraConfig, stamp: Any, frame: str) -> Any:
    """Return the pinhole model; both pictures share it."""
    message = CameraInfo()
    message.header.stamp, message.header.frame_id = stamp, frame
    message.height, message.width = camera.height_px, camera.width_px
    message.distortion_model = 'plumb_bob'
    message.d = [0.0] * 5
    f, (cx, cy) = camera.focal_px, camera.centre_px
    message.k = [f, 0.0, cx, 0.0, f, cy, 0.0, 0.0, 1.0]
    message.r = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0]
    message.p = [f, 0.0, cx, 0.0, 0.0, f, cy, 0.0, 0.0, 0.0, 1.0, 0.0]
    return message


def cloud_message(points: npt.NDArray[np.float32], stamp: Any, frame: str) -> Any:
    """Return an unordered cloud of (N, 3) float32 points, all valid."""
    message = PointCloud2()
    message.header.stamp, message.header.frame_id = stamp, frame
    message.height, message.width = 1, len(points)
    message.fields = _FIELDS
    message.point_step, message.row_step = 12, 12 * len(points)
    message.is_dense = True
    message.data = _packed('B', points)
    return message


def scan_message(
    ranges: npt.NDArray[np.float32], lidar: LidarConfig, period_s: float, stamp: Any, frame: str
) -> Any:
    """Return the full turn, from behind counter-clockwise; inf for no hit (REP-117)."""
    message = LaserScan()
    message.header.stamp, message.header.frame_id = stamp, frame
    step = 2 * math.pi / len(ranges)
    message.angle_min, message.angle_increment = -math.pi, step
    message.angle_max = -math.pi + step * (len(ranges) - 1)
    message.scan_time = period_s
    message.range_min, message.range_max = lidar.range_min_m, lidar.range_max_m
    message.ranges = _packed('f', ranges)
    return message


def pose_message(pose: FloorPose, z: float = 0.0) -> Any:
    """Return a pose on the floor, or z above it."""
    message = Pose()
    message.position.x, message.position.y, message.position.z = pose.x, pose.y, z
    message.orientation.w, message.orientation.z = math.cos(pose.yaw / 2), math.sin(pose.yaw / 2)
    return message


def odometry_message(robot: Robot, stamp: Any, odom: str, base: str) -> Any:
    """Return what the wheels tell, and of a robot that flies its height and motion in the air."""
    message = Odometry()
    message.header.stamp, message.header.frame_id = stamp, odom
    message.child_frame_id = base
    message.pose.pose = pose_message(robot.odometry)
    message.twist.twist.linear.x = robot.linear_mps
    if isinstance(robot, AirGround):
        message.pose.pose.position.z = robot.z_m
        message.twist.twist.linear.y = robot.lateral_mps
        message.twist.twist.linear.z = robot.climb_mps
    message.twist.twist.angular.z = robot.angular_radps
    message.pose.covariance = message.twist.covariance = _COVARIANCE
    return message


def transform_message(
    stamp: Any, parent: str, child: str, position: Vector, rotation: Quaternion
) -> Any:
    """Return a transform; rotation is (w, x, y, z)."""
    message = TransformStamped()
    message.header.stamp, message.header.frame_id = stamp, parent
    message.child_frame_id = child
    move, turn = message.transform.translation, message.transform.rotation
    move.x, move.y, move.z = position
    turn.w, turn.x, turn.y, turn.z = rotation
    return message


def floor_transform(
    stamp: Any, parent: str, child: str, pose: FloorPose, height_m: float = 0.0
) -> Any:
    """Return the transform to a level frame on the floor, or above it."""
    turn = (math.cos(pose.yaw / 2), 0.0, 0.0, math.sin(pose.yaw / 2))
    return transform_message(stamp, parent, child, (pose.x, pose.y, height_m), turn)


def object_messages(truth: Truth) -> list[Any]:
    """Return the objects; they never move, so this is needed once."""
    messages = []
    for thing in truth.objects:
        message = ObjectTruth(id=thing.id, kind=thing.kind)
        message.pose = pose_message(FloorPose(thing.x, thing.y, thing.yaw), thing.z)
        message.size.x, message.size.y, message.size.z = thing.size
        messages.append(message)
    return messages


def truth_message(
    truth: Truth, objects: list[Any], seed: int, factor: float, stamp: Any, frame: str
) -> Any:
    """Return the ground truth; factor is the achieved real-time factor."""
    message = GroundTruth(seed=seed, real_time_factor=factor, robot_blocked=truth.blocked)
    message.header.stamp, message.header.frame_id = stamp, frame
    message.robot_pose = pose_message(truth.robot, truth.height_m)
    message.robot_energy_j = truth.energy_j
    message.robot_twist.linear.x = truth.linear_mps
    message.robot_twist.linear.y, message.robot_twist.linear.z = truth.in_air_mps
    message.robot_twist.angular.z = truth.angular_radps
    message.objects = objects
    for person in truth.people:
        walker = PersonTruth(id=person.id, walking=person.walking, pose=pose_message(person.pose))
        walker.velocity.x, walker.velocity.y = person.velocity.tolist()
        walker.keypoints = [Point(x=x, y=y, z=z) for x, y, z in person.keypoints.tolist()]
        message.persons.append(walker)
    return message
