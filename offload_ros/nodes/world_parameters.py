"""The parameters of the simulated world: one table, and what a world is built from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rcl_interfaces.msg import (
    FloatingPointRange,
    IntegerRange,
    ParameterDescriptor,
    SetParametersResult,
)
from rclpy.node import Node
from rclpy.parameter import Parameter

from offload_ros.sim import (
    AirConfig,
    CameraConfig,
    LidarConfig,
    PersonConfig,
    RobotConfig,
    WorldConfig,
)

MOTIONS = ('cmd_vel', 'patrol')


@dataclass(frozen=True)
class Setting:
    """A parameter: default value, description, range, and whether it is fixed after the start."""

    default: Any
    text: str
    low: float | None = None
    high: float | None = None
    fixed: bool = False
    choices: tuple[str, ...] = ()

    def descriptor(self) -> ParameterDescriptor:
        """Return the ROS descriptor."""
        descriptor = ParameterDescriptor(description=self.text, read_only=self.fixed)
        if self.choices:
            descriptor.additional_constraints = 'one of: ' + ', '.join(self.choices)
        if self.low is None or self.high is None:
            return descriptor
        if isinstance(self.default, int):
            descriptor.integer_range = [
                IntegerRange(from_value=int(self.low), to_value=int(self.high), step=1)
            ]
        else:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=self.low, to_value=self.high, step=0.0)
            ]
        return descriptor


SETTINGS: dict[str, Setting] = {
    'seed': Setting(0, 'Seed of the world: equal seeds give equal worlds.', 0, 2**31 - 1, True),
    'room_length_m': Setting(10.0, 'Length of the room, m.', 4.0, 20.0, True),
    'room_width_m': Setting(8.0, 'Width of the room, m.', 4.0, 20.0, True),
    'object_count': Setting(20, 'Number of objects in the room.', 0, 60, True),
    'person_count': Setting(1, 'Number of walking people.', 0, 6, True),
    'person_pause_s': Setting(
        2.0, 'How long people stand where they have come, on average, seconds.', 0.0, 60.0, True
    ),
    'light': Setting(0, 'Seed of the light in the room; 0: even white light.', 0, 2**31 - 1, True),
    'camera_width_px': Setting(320, 'Width of the pictures, pixels.', 16, 1920, True),
    'camera_height_px': Setting(240, 'Height of the pictures, pixels.', 16, 1200, True),
    'camera_horizontal_fov_deg': Setting(
        65.0, 'Horizontal field of view of the camera, degrees.', 20.0, 120.0, True
    ),
    'camera_pitch_up_deg': Setting(
        5.0, 'How far the camera looks up from the horizontal, degrees.', -45.0, 45.0, True
    ),
    'odom_drift': Setting(
        0.0,
        'Drift of the odometry as a fraction of the distance driven, typical (one sigma).',
        0.0,
        0.2,
        True,
    ),
    'linear_limit_mps': Setting(1.2, 'Fastest driving speed, m/s.', 0.05, 3.0, True),
    'angular_limit_radps': Setting(2.0, 'Fastest turning speed, rad/s.', 0.1, 6.0, True),
    'robot_flies': Setting(
        False,
        'The robot also flies: cmd_vel moves it up (linear.z) and in the air sideways (linear.y). '
        'It is half a metre high.',
        fixed=True,
    ),
    'frame_prefix': Setting(
        '', 'Put before every frame but map, for several robots, e.g. robot1/.', fixed=True
    ),
    'reliable_sensors': Setting(
        False, 'Publish images, clouds and scans reliable instead of best effort.', fixed=True
    ),
    'publish_clock': Setting(
        True, 'Publish /clock; switch off in all but one of several worlds.', fixed=True
    ),
    'real_time_factor': Setting(1.0, 'Simulated seconds per second, if reachable.', 0.05, 20.0),
    'camera_hz': Setting(10.0, 'Rate of colour and depth pictures, Hz; 0 is off.', 0.0, 60.0),
    'depth': Setting(True, 'Publish depth pictures.'),
    'cloud_hz': Setting(5.0, 'Rate of point clouds, Hz; 0 is off.', 0.0, 50.0),
    'scan_hz': Setting(10.0, 'Rate of laser scans, Hz; 0 is off.', 0.0, 50.0),
    'odom_hz': Setting(30.0, 'Rate of odometry and transforms, Hz; 0 is off.', 0.0, 100.0),
    'ground_truth_hz': Setting(10.0, 'Rate of the ground truth, Hz; 0 is off.', 0.0, 100.0),
    'person_speed_mps': Setting(0.8, 'Walking speed of people, m/s.', 0.1, 2.0),
    'goal_every_s': Setting(
        0.0,
        'A random free place goes out on goal_pose so often, simulated seconds; 0 is never.',
        0.0,
        3600.0,
    ),
    'cmd_vel_timeout_ms': Setting(
        500, 'The robot stops when no command came for so many simulated milliseconds.', 50, 10000
    ),
    'robot_motion': Setting(
        'cmd_vel',
        'cmd_vel: driven by commands; patrol: on a seeded tour, looking at people and objects.',
        choices=MOTIONS,
    ),
}


def declare(node: Node) -> dict[str, Any]:
    """Declare every parameter and return the values; ValueError for a value not among choices."""
    for name, setting in SETTINGS.items():
        node.declare_parameter(name, setting.default, setting.descriptor())
    values = read(node)
    verdict = check([node.get_parameter(name) for name in SETTINGS])
    if not verdict.successful:
        raise ValueError(verdict.reason)
    return values


def read(node: Node) -> dict[str, Any]:
    """Return the present value of every parameter."""
    return {name: node.get_parameter(name).value for name in SETTINGS}


def check(parameters: list[Parameter[Any]]) -> SetParametersResult:
    """Refuse what a range cannot express."""
    for parameter in parameters:
        setting = SETTINGS.get(parameter.name)
        if setting and setting.choices and parameter.value not in setting.choices:
            allowed = ', '.join(setting.choices)
            return SetParametersResult(
                successful=False,
                reason=f'{parameter.name} must be one of {allowed}, not {parameter.value!r}',
            )
    return SetParametersResult(successful=True)


def world_config(values: dict[str, Any]) -> WorldConfig:
    """Return the world that the parameters describe."""
    flies = values['robot_flies']
    low = {'height_m': 0.35} if flies else {}
    return WorldConfig(
        length_m=values['room_length_m'],
        width_m=values['room_width_m'],
        object_count=values['object_count'],
        light=values['light'],
        camera=CameraConfig(
            width_px=values['camera_width_px'],
            height_px=values['camera_height_px'],
            horizontal_fov_deg=values['camera_horizontal_fov_deg'],
            pitch_up_deg=values['camera_pitch_up_deg'],
            **low,
        ),
        lidar=LidarConfig(cloud_height_m=0.45) if flies else LidarConfig(),
        air=AirConfig() if flies else None,
        robot=RobotConfig(
            mast_height_m=0.5 if flies else RobotConfig.mast_height_m,
            linear_limit_mps=values['linear_limit_mps'],
            angular_limit_radps=values['angular_limit_radps'],
            cmd_vel_timeout_s=values['cmd_vel_timeout_ms'] / 1000,
            drift_fraction=values['odom_drift'],
        ),
        person=PersonConfig(
            count=values['person_count'],
            speed_mps=values['person_speed_mps'],
            pause_mean_s=values['person_pause_s'],
        ),
    )
