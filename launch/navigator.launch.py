"""The navigator: lidar, odometry, goals and SCONet's results to a map, a path and cmd_vel."""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue


def generate_launch_description():
    """One navigator; robot.launch.py runs the network that completes its map."""
    share = get_package_share_directory('offload_ros')
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'namespace', default_value='', description='namespace of this robot, e.g. robot1'
            ),
            DeclareLaunchArgument(
                'navigator_file',
                default_value=os.path.join(share, 'config', 'navigator.yaml'),
                description='parameters of the navigator',
            ),
            DeclareLaunchArgument(
                'drive',
                default_value='true',
                choices=['true', 'false'],
                description='false: map and plan, but never move',
            ),
            DeclareLaunchArgument(
                'use_sim_time',
                default_value='false',
                choices=['true', 'false'],
                description='stamps from /clock instead of the system clock',
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(os.path.join(share, 'launch', 'middleware.launch.py'))
            ),
            Node(
                package='offload_ros',
                executable='agrnav_navigator',
                name='agrnav_navigator',
                namespace=LaunchConfiguration('namespace'),
                output='screen',
                parameters=[
                    LaunchConfiguration('navigator_file'),
                    {
                        'drive': ParameterValue(LaunchConfiguration('drive'), value_type=bool),
                        'use_sim_time': ParameterValue(
                            LaunchConfiguration('use_sim_time'), value_type=bool
                        ),
                    },
                ],
            ),
        ]
    )
