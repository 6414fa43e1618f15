"""What the person follower publishes: skeletons, target, status, markers, map, picture."""

from __future__ import annotations

from array import array
import math

import cv2
from geometry_msgs.msg import Point, Point32, PoseWithCovarianceStamped
from nav_msgs.msg import OccupancyGrid
import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import Image
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from offload_ros.msg import FollowStatus, PersonSkeleton, PersonSkeletons, SkeletonPoint
from offload_ros.nodes.world_messages import stamp_of
from offload_ros.tracking.follow import Command
from offload_ros.tracking.occupancy import OccupancyMap
from offload_ros.tracking.system import PersonFollowing, Seen
from offload_ros.tracking.tracks import Track

# COCO keypoints that a bone connects.
BONES = (
    (0, 1), (0, 2), (1, 3), (2, 4), (5, 6), (5, 7), (7, 9), (6, 8), (8, 10),
    (5, 11), (6, 12), (11, 12), (11, 13), (13, 15), (12, 14), (14, 16),
)  # fmt: skip
TARGET, OTHER = (60, 220, 60), (70, 140, 255)  # RGB
_KNOWN_M = 1e3  # a variance that says nothing is known


def header_of(stamp_s: float, frame: str) -> Header:
    """A header."""
    return Header(stamp=stamp_of(stamp_s), frame_id=frame)


def _point(values: npt.NDArray[np.float64]) -> Point32:
    x, y, z = (float(each) for each in values)
    return Point32(x=x, y=y, z=z)


def skeletons_message(
    seen: Seen, following: PersonFollowing, size: tuple[int, int], camera_frame: str
) -> PersonSkeletons:
    """All people of a result; ``size``: (height, width) of the image."""
    height, width = size
    message = PersonSkeletons(camera_frame=camera_frame, width=width, height=height)
    message.header = header_of(seen.stamp_s, following.config.fixed_frame)
    target = following.target
    nowhere = np.full((len(seen.poses[0]) if len(seen.poses) else 17, 3), np.nan)
    for pose, score, place, track in zip(
        seen.poses, seen.scores, seen.located, seen.tracks, strict=True
    ):
        person = PersonSkeleton(confidence=float(score))
        person.id = following.number(track.key) if track is not None else 0
        person.target = target is not None and track is not None and track.key == target.key
        person.position = _point(nowhere[0] if place is None else place.position)
        points = nowhere if place is None else place.keypoints
        person.keypoints = [
            SkeletonPoint(
                x=float(x) / width, y=float(y) / height, confidence=float(c), position=_point(at)
            )
            for (x, y, c), at in zip(pose, points, strict=True)
        ]
        message.persons.append(person)
    return message


def target_message(track: Track, stamp_s: float, frame: str) -> PoseWithCovarianceStamped:
    """Where a person is at a stamp; the x axis is where they walk."""
    belief = track.at(max(stamp_s, track.seen_s))
    message = PoseWithCovarianceStamped(header=header_of(stamp_s, frame))
    pose = message.pose.pose
    pose.position.x, pose.position.y = (float(each) for each in belief.position)
    yaw = math.atan2(belief.velocity[1], belief.velocity[0])
    pose.orientation.z, pose.orientation.w = math.sin(yaw / 2), math.cos(yaw / 2)
    covariance = np.diag([_KNOWN_M] * 6)
    covariance[:2, :2] = belief.covariance[np.ix_([0, 2], [0, 2])]
    covariance[2, 2] = 0.01  # on the floor
    message.pose.covariance = array('d', covariance.ravel().tolist())
    return message


def status_message(
    command: Command, following: PersonFollowing, now_s: float, persons: int
) -> FollowStatus:
    """What the follower does."""
    target, motion = following.target, following.motion
    nan = math.nan
    status = FollowStatus(mode=command.mode, reason=command.reason, persons=persons)
    status.header = header_of(now_s, following.config.fixed_frame)
    status.distance_m = status.unseen_s = status.result_age_s = nan
    status.target_position = Point(x=nan, y=nan, z=nan)
    if target is not None:
        status.target = following.number(target.key)
        status.unseen_s = now_s - target.seen_s
        at = command.person
        if at is None:
            at = target.at(max(now_s, target.seen_s)).position
        status.target_position = Point(x=float(at[0]), y=float(at[1]), z=0.0)
        if motion is not None:
            status.distance_m = math.hypot(at[0] - motion.x_m, at[1] - motion.y_m)
    if math.isfinite(following.result_s):
        status.result_age_s = now_s - following.result_s
    status.result_hz = following.result_hz()
    status.linear_mps, status.angular_radps = command.linear_mps, command.angular_radps
    return status


def marker_messages(seen: Seen, following: PersonFollowing) -> MarkerArray:
    """Skeletons in space and a disc under each person, the target in green."""
    header = header_of(seen.stamp_s, following.config.fixed_frame)
    clear = Marker(header=header, action=Marker.DELETEALL)
    found, target = [clear], following.target
    for index, (place, track) in enumerate(zip(seen.located, seen.tracks, strict=True)):
        if place is None:
            continue
        chosen = target is not None and track is not None and track.key == target.key
        r, g, b = (each / 255 for each in (TARGET if chosen else OTHER))
        colour = ColorRGBA(r=r, g=g, b=b, a=1.0)
        bones = Marker(header=header, ns='bones', id=index, type=Marker.LINE_LIST, color=colour)
        bones.scale.x, bones.pose.orientation.w = 0.03, 1.0
        known = np.asarray(np.isfinite(place.keypoints).all(1))
        for one, other in BONES:
            if known[one] and known[other]:
                bones.points += [_place(place.keypoints[one]), _place(place.keypoints[other])]
        disc = Marker(header=header, ns='places', id=index, type=Marker.CYLINDER, color=colour)
        disc.scale.x = disc.scale.y = 0.5
        disc.scale.z = 0.02
        disc.pose.orientation.w = 1.0
        disc.pose.position = Point(x=float(place.position[0]), y=float(place.position[1]), z=0.01)
        found += [bones, disc] if bones.points else [disc]
    return MarkerArray(markers=found)


def _place(point: npt.NDArray[np.float64]) -> Point:
    x, y, z = (float(each) for each in point)
    return Point(x=x, y=y, z=z)


def grid_message(grid: OccupancyMap, stamp_s: float, frame: str) -> OccupancyGrid:
    """The lidar's map."""
    cells = grid.grid()
    message = OccupancyGrid(header=header_of(stamp_s, frame))
    message.info.map_load_time = message.header.stamp
    message.info.resolution = grid.config.resolution_m
    message.info.width, message.info.height = cells.shape
    x, y = grid.low.tolist()
    message.info.origin.position.x, message.info.origin.position.y = x, y
    message.info.origin.orientation.w = 1.0
    packed = array('b')
    packed.frombytes(np.ascontiguousarray(cells.T).tobytes())
    message.data = packed
    return message


def annotated_message(
    rgb: npt.NDArray[np.uint8], seen: Seen, following: PersonFollowing, frame: str
) -> Image:
    """The picture with skeletons drawn in, rgb8."""
    picture, target = rgb.copy(), following.target
    scale = max(1, round(rgb.shape[1] / 320))
    for pose, score, track in zip(seen.poses, seen.scores, seen.tracks, strict=True):
        chosen = target is not None and track is not None and track.key == target.key
        colour = TARGET if chosen else OTHER
        points = np.rint(np.clip(pose[:, :2], -1e4, 1e4)).astype(int)
        for one, other in BONES:
            cv2.line(
                picture, tuple(points[one].tolist()), tuple(points[other].tolist()), colour, scale
            )
        for point, confidence in zip(points, pose[:, 2], strict=True):
            if confidence > 0:
                cv2.circle(picture, tuple(point.tolist()), 2 * scale, (255, 235, 60), -1)
        name = str(following.number(track.key)) if track is not None else '?'
        corner = (int(points[:, 0].min()), max(10, int(points[:, 1].min()) - 4))
        cv2.putText(
            picture, f'{name} {score:.2f}', corner, cv2.FONT_HERSHEY_SIMPLEX, 0.4 * scale, colour
        )
    message = Image(header=header_of(seen.stamp_s, frame), encoding='rgb8')
    message.height, message.width = picture.shape[:2]
    message.step = 3 * message.width
    message.data = array('B', picture.tobytes())
    return message
