"""The server's side: runs the models of its own models.yaml for all robots on the network."""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue


def generate_launch_description():
    """One server; give each server of a network a name of its own."""
    share = get_package_share_directory('offload_ros')
    config = os.path.join(share, 'config')
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'name', default_value='offload_server', description='name of this server'
            ),
            DeclareLaunchArgument(
                'namespace', default_value='', description='namespace of this server'
            ),
            DeclareLaunchArgument(
                'models_file',
                default_value=os.path.join(config, 'models.yaml'),
                description='models.yaml: the models that this server runs',
            ),
            DeclareLaunchArgument(
                'models',
                default_value='',
                description='which models of the file, e.g. kapao,agrnav; empty: all',
            ),
            DeclareLaunchArgument(
                'params_file',
                default_value=os.path.join(config, 'server.yaml'),
                description='parameters of the server',
            ),
            DeclareLaunchArgument(
                'device', default_value='cpu', description='where to compute: cpu, cuda, cuda:1'
            ),
            DeclareLaunchArgument(
                'threads',
                default_value='0',
                description='CPU threads of an operator; 0: all',
            ),
            DeclareLaunchArgument(
                'backend',
                default_value='in_process',
                choices=['in_process', 'ray'],
                description='what computes: this process, or replicas of the models (Ray)',
            ),
            DeclareLaunchArgument(
                'replicas',
                default_value='1',
                description='backend:=ray: processes that each hold all models',
            ),
            DeclareLaunchArgument(
                'key_file',
                default_value='',
                description='pre-shared key (ros2 run offload_ros make_key FILE): the same file on '
                'robot and server keeps strangers out and encrypts; empty: none',
            ),
            DeclareLaunchArgument(
                'autostart',
                default_value='true',
                choices=['true', 'false'],
                description='configure and activate at start; false: by ros2 lifecycle set',
            ),
            DeclareLaunchArgument(
                'log_level',
                default_value='info',
                choices=['debug', 'info', 'warn', 'error'],
                description='least severity that is logged',
            ),
            DeclareLaunchArgument(
                'tcp_port',
                default_value='5100',
                description='network:=routed by TCP: the port where robots connect',
            ),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(os.path.join(share, 'launch', 'middleware.launch.py'))
            ),
            Node(
                package='offload_ros',
                executable='offload_server',
                name=LaunchConfiguration('name'),
                namespace=LaunchConfiguration('namespace'),
                output='screen',
                parameters=[
                    LaunchConfiguration('params_file'),
                    {
                        'models_file': LaunchConfiguration('models_file'),
                        'models': ParameterValue(LaunchConfiguration('models'), value_type=str),
                        'device': LaunchConfiguration('device'),
                        'key_file': LaunchConfiguration('key_file'),
                        'threads': ParameterValue(LaunchConfiguration('threads'), value_type=int),
                        'backend': LaunchConfiguration('backend'),
                        'replicas': ParameterValue(LaunchConfiguration('replicas'), value_type=int),
                        'autostart': ParameterValue(
                            LaunchConfiguration('autostart'), value_type=bool
                        ),
                    },
                ],
                arguments=['--ros-args', '--log-level', LaunchConfiguration('log_level')],
            ),
        ]
    )
