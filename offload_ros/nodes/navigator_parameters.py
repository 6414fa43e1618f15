"""The parameters of the navigator: one table, and the configuration that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rclpy.node import Node

from offload_ros.navigation.driving import DriveConfig
from offload_ros.navigation.plan_config import Limits, PlanConfig
from offload_ros.navigation.space import Body
from offload_ros.navigation.system import NavigationConfig
from offload_ros.navigation.voxel_map import VoxelMapConfig
from offload_ros.navigation.voxels import VoxelGrid
from offload_ros.nodes.parameters import declare, value_of
from offload_ros.nodes.tracker_parameters import Setting

_BODY, _DRIVE, _VOXELS = Body(), DriveConfig(), VoxelMapConfig()
SETTINGS: dict[str, Setting] = {
    'model': Setting(
        'agrnav', 'whose results complete the scene: inference/result/<model>', fixed=True
    ),
    'fixed_frame': Setting('odom', 'frame of the map, of goals and paths', fixed=True),
    'base_frame': Setting('base_link', 'frame of the robot', fixed=True),
    'ask_hz': Setting(
        1.8, 'how often the observed voxels go out to be completed, Hz; 0: never', 0.0, 10.0
    ),
    'grid_width': Setting(128, "voxels of the network's grid along x", 8, 1024, True),
    'grid_height': Setting(16, '... upwards', 8, 256, True),
    'grid_depth': Setting(128, '... along y', 8, 1024, True),
    'grid_voxel_m': Setting(0.15, 'edge of its voxels (m)', 0.02, 1.0, True),
    'obstacles_from': Setting(
        2, "the first of the network's classes that is an obstacle", 1, 255, True
    ),
    'columns': Setting(
        False,
        'a predicted voxel marks its whole column, as AGRNav publishes it: it is not flown over',
        fixed=True,
    ),
    'resolution_m': Setting(_VOXELS.resolution_m, "edge of the map's voxels (m)", 0.05, 0.5, True),
    'hit_probability': Setting(
        0.85,
        'that a voxel is occupied in which one ray ended; AGRNav has 0.65, which loses thin poles',
        0.51,
        0.99,
        True,
    ),
    'map_length_m': Setting(_VOXELS.length_m, 'width and depth of the map (m)', 5.0, 50.0, True),
    'map_height_m': Setting(3.0, 'height of the map (m)', 0.5, 10.0, True),
    'flies': Setting(True, 'the robot can fly: cmd_vel.linear.z lifts it', fixed=True),
    'sideways': Setting(True, 'the robot drives in any direction; false: it turns first'),
    'ground_radius_m': Setting(
        _BODY.ground_radius_m, 'of the robot on the floor (m)', 0.05, 2.0, True
    ),
    'robot_height_m': Setting(_BODY.ground_height_m, 'of the robot (m)', 0.11, 3.0, True),
    'air_radius_m': Setting(
        _BODY.air_radius_m, 'of the ball that it needs in the air (m)', 0.05, 2.0, True
    ),
    'step_m': Setting(_BODY.step_m, 'what is lower is driven over (m)', 0.0, 0.5, True),
    'ceiling_m': Setting(2.0, 'it flies no higher (m)', 0.2, 50.0, True),
    'speed_mps': Setting(1.0, 'top speed of planned motions (m/s)', 0.05, 10.0, True),
    'acceleration_mps2': Setting(
        1.2, 'top acceleration of planned motions (m/s^2)', 0.05, 10.0, True
    ),
    'turn_limit_radps': Setting(_DRIVE.turn_radps, 'fastest turn (rad/s)', 0.05, 10.0),
    'drive': Setting(True, 'false: map and plan, but never move'),
}


def declare_all(node: Node) -> NavigationConfig:
    """Declare every parameter; what they ask for. ``ValueError`` says what is wrong."""
    for name, each in SETTINGS.items():
        declare(node, name, each.default, each.text, each.low, each.high, read_only=each.fixed)
    v: dict[str, Any] = {name: value_of(node, name) for name in SETTINGS}
    voxel = v['grid_voxel_m']
    grid = VoxelGrid(
        v['grid_width'],
        v['grid_height'],
        v['grid_depth'],
        voxel,
        (-v['grid_width'] * voxel / 2, -v['grid_depth'] * voxel / 2, -voxel),
    )
    voxels = replace(
        _VOXELS,
        resolution_m=v['resolution_m'],
        length_m=v['map_length_m'],
        height_m=v['map_height_m'],
        hit=v['hit_probability'],
        margin_m=min(_VOXELS.margin_m, 0.3 * v['map_length_m']),
        columns=v['columns'],
    )
    body = Body(
        ground_radius_m=v['ground_radius_m'],
        ground_height_m=v['robot_height_m'],
        air_radius_m=v['air_radius_m'],
        step_m=v['step_m'],
        ceiling_m=v['ceiling_m'],
        flies=v['flies'],
    )
    return NavigationConfig(
        fixed_frame=v['fixed_frame'],
        base_frame=v['base_frame'],
        grid=grid,
        obstacles_from=v['obstacles_from'],
        voxels=voxels,
        body=body,
        plan=PlanConfig(limits=Limits(v['speed_mps'], v['acceleration_mps2'])),
        drive=driving_of(v),
    )


def driving_of(values: Mapping[str, Any]) -> DriveConfig:
    """How the robot is driven along a motion, by all parameters."""
    return replace(
        _DRIVE,
        sideways=values['sideways'],
        turn_radps=values['turn_limit_radps'],
        speed_mps=1.2 * values['speed_mps'],
    )
