"""The parameters of the person follower: one table, and the configuration that they make."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from rclpy.node import Node

from offload_ros.nodes.parameters import declare, value_of
from offload_ros.tracking.follow_config import FollowConfig, Limits
from offload_ros.tracking.locate import LocateConfig
from offload_ros.tracking.overhangs import OverhangConfig
from offload_ros.tracking.system import SystemConfig
from offload_ros.tracking.tracker import TargetConfig, TrackerConfig

LIDARS = ('scan', 'points', 'both')
TARGETS = ('centre', 'nearest')


@dataclass(frozen=True)
class Setting:
    """A parameter: value at first, description, range, and whether it is fixed after the start."""

    default: Any
    text: str
    low: float | None = None
    high: float | None = None
    fixed: bool = False


_FOLLOW, _LIMITS = FollowConfig(), FollowConfig().limits
SETTINGS: dict[str, Setting] = {
    'model': Setting('kapao', 'whose results are followed: inference/result/<model>', fixed=True),
    'fixed_frame': Setting('odom', 'frame of the map, of places and markers', fixed=True),
    'base_frame': Setting('base_link', "the robot's frame, x forward", fixed=True),
    'lidar': Setting(
        'both',
        'obstacles: scan (LaserScan), points (PointCloud2), or both, which also knows what a scan '
        'passes below',
        fixed=True,
    ),
    'obstacle_low_m': Setting(
        0.05, 'lidar points: lowest that is an obstacle, above the floor (m)', -1.0, 2.0, True
    ),
    'obstacle_high_m': Setting(
        1.9, 'lidar points: highest that is an obstacle, above the floor (m)', 0.0, 5.0, True
    ),
    'slop_ms': Setting(
        100.0, 'how far apart the stamps of result and depth may be (ms)', 0.0, 1000.0, True
    ),
    'target': Setting(
        'centre', 'who is followed at first: centre of the image, or nearest', fixed=True
    ),
    'drive': Setting(True, 'false: track, but never move'),
    'distance_m': Setting(_FOLLOW.distance_m, 'distance kept to the person (m)', 0.5, 10.0),
    'look_around_radps': Setting(
        _FOLLOW.look_around_radps,
        'turns so fast until there is somebody to follow (rad/s); 0: stands still',
        0.0,
        3.0,
    ),
    'lost_stop_s': Setting(
        _FOLLOW.search_s, 'look for a lost person that long, then stand still (s)', 1.2, 3600.0
    ),
    'result_timeout_ms': Setting(
        1000.0 * _FOLLOW.result_timeout_s, 'older results stop the robot (ms)', 100.0, 60e3
    ),
    'turn_in_place_rad': Setting(
        _FOLLOW.turn_in_place_rad,
        'heading error from which a standing robot turns first',
        0.05,
        3.2,
    ),
    'margin_m': Setting(_FOLLOW.margin_m, 'kept between footprint and obstacles (m)', 0.0, 1.0),
    'footprint_m': Setting(_LIMITS.footprint_m, 'radius of the robot (m)', 0.05, 2.0),
    'linear_limit_mps': Setting(_LIMITS.linear_mps, 'fastest driving speed (m/s)', 0.05, 5.0),
    'reverse_limit_mps': Setting(
        _LIMITS.reverse_mps, 'fastest speed backwards (m/s); 0: never backwards', 0.0, 5.0
    ),
    'angular_limit_radps': Setting(_LIMITS.angular_radps, 'fastest turn (rad/s)', 0.1, 10.0),
    'linear_acceleration_mps2': Setting(_LIMITS.linear_mps2, 'acceleration (m/s2)', 0.1, 20.0),
    'angular_acceleration_radps2': Setting(
        _LIMITS.angular_radps2, 'acceleration of turns (rad/s2)', 0.1, 60.0
    ),
    'keypoint_confidence': Setting(
        LocateConfig().confidence_min, 'keypoints below it do not place anybody', 0.0, 1.0
    ),
    'keypoints': Setting(
        LocateConfig().keypoints_min, 'fewest keypoints with depth that place somebody', 1, 17
    ),
}


def declare_all(node: Node) -> SystemConfig:
    """Declare every parameter; what they ask for. ``ValueError`` says what is wrong."""
    for name, each in SETTINGS.items():
        declare(node, name, each.default, each.text, each.low, each.high, read_only=each.fixed)
    return config_of(node, {})


def config_of(node: Node, changes: dict[str, Any]) -> SystemConfig:
    """What the parameters ask for, with ``changes``; ``ValueError`` says what is wrong."""
    v = {name: changes.get(name, value_of(node, name)) for name in SETTINGS}
    for name, choices in (('lidar', LIDARS), ('target', TARGETS)):
        if v[name] not in choices:
            raise ValueError(f'{name} must be one of {", ".join(choices)}, not {v[name]!r}')
    limits = Limits(
        v['linear_limit_mps'],
        min(v['reverse_limit_mps'], v['linear_limit_mps']),
        v['angular_limit_radps'],
        v['linear_acceleration_mps2'],
        v['angular_acceleration_radps2'],
        v['footprint_m'],
    )
    follow = FollowConfig(
        distance_m=v['distance_m'],
        person_keep_m=max(min(_FOLLOW.person_keep_m, 0.5 * v['distance_m']), v['footprint_m']),
        margin_m=v['margin_m'],
        look_around_radps=v['look_around_radps'],
        search_s=v['lost_stop_s'],
        result_timeout_s=v['result_timeout_ms'] / 1000,
        turn_in_place_rad=v['turn_in_place_rad'],
        limits=limits,
    )
    locate = replace(
        LocateConfig(), confidence_min=v['keypoint_confidence'], keypoints_min=v['keypoints']
    )
    return SystemConfig(
        fixed_frame=v['fixed_frame'],
        base_frame=v['base_frame'],
        slop_s=v['slop_ms'] / 1000,
        drive=v['drive'],
        locate=locate,
        tracker=TrackerConfig(target=TargetConfig(choose=v['target'])),
        follow=follow,
        overhangs=OverhangConfig(low_m=v['obstacle_low_m'], high_m=v['obstacle_high_m']),
    )
