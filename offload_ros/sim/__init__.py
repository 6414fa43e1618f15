"""A simulated world without ROS: rooms, objects, walking people, a robot and its sensors.

with World(seed=1, config=WorldConfig(object_count=12)) as world:
    world.step(0.1, (0.3, 0.0))
    picture, depth = world.render()
"""

from offload_ros.sim.config import (
    AirConfig,
    CameraConfig,
    LidarConfig,
    PersonConfig,
    RobotConfig,
    WorldConfig,
)
from offload_ros.sim.objects import KINDS
from offload_ros.sim.person_body import KEYPOINTS
from offload_ros.sim.world import ObjectTruth, PersonTruth, Truth, World

__all__ = [
    'KEYPOINTS',
    'KINDS',
    'AirConfig',
    'CameraConfig',
    'LidarConfig',
    'ObjectTruth',
    'PersonConfig',
    'PersonTruth',
    'RobotConfig',
    'Truth',
    'World',
    'WorldConfig',
]
