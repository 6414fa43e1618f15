"""Maps voxels and plans paths on the ground and in the air: AGRNav's navigation, without ROS.

From points to voxels (``voxels``, ``rays``, ``voxel_map``), from voxels to the places where the
robot fits (``distance_field``, ``space``), and from those to a motion (``geometric``,
``kinodynamic``, ``spline``, ``refine``), which ``planner`` joins and ``replanning`` keeps up to
date. ``doc/navigation.md`` tells how they are put together.
"""

from offload_ros.navigation.destination import Destination, Whither
from offload_ros.navigation.following import Setpoint
from offload_ros.navigation.plan_config import PlanConfig
from offload_ros.navigation.planner import Plan, Planner, Status
from offload_ros.navigation.replan_config import Outcome, ReplanConfig, Report, State
from offload_ros.navigation.replanning import Replanning
from offload_ros.navigation.space import Body, Space, SpaceBuilder
from offload_ros.navigation.spline import Spline
from offload_ros.navigation.voxel_map import VoxelMap, VoxelMapConfig
from offload_ros.navigation.voxels import GridPose, VoxelGrid, packed, unpacked

__all__ = [
    'Body',
    'Destination',
    'GridPose',
    'Outcome',
    'Plan',
    'PlanConfig',
    'Planner',
    'ReplanConfig',
    'Replanning',
    'Report',
    'Setpoint',
    'Space',
    'SpaceBuilder',
    'Spline',
    'State',
    'Status',
    'VoxelGrid',
    'VoxelMap',
    'VoxelMapConfig',
    'Whither',
    'packed',
    'unpacked',
]
