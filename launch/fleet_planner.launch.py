"""The fleet planner: one for all robots and servers of a fleet file, on any machine of theirs."""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node


def generate_launch_description():
    """One planner; managers whose models have strategy fleet follow it."""
    share = get_package_share_directory('offload_ros')
    config = os.path.join(share, 'config')
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'fleet_file',
                default_value=os.path.join(config, 'fleet.yaml'),
                description='the fleet: nodes, links, tasks, models, demand',
            ),
            DeclareLaunchArgument(
                'params_file',
                default_value=os.path.join(config, 'fleet_planner.yaml'),
                description='parameters of the planner',
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(os.path.join(share, 'launch', 'middleware.launch.py'))
            ),
            Node(
                package='offload_ros',
                executable='fleet_planner',
                name='fleet_planner',
                output='screen',
                parameters=[
                    LaunchConfiguration('params_file'),
                    {'fleet_file': LaunchConfiguration('fleet_file')},
                ],
            ),
        ]
    )
