"""A whole system on one machine: simulated world with a robot in it, its manager, a server."""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    SetLaunchConfiguration,
)
from launch.conditions import IfCondition
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue


def choose_motion(context):
    """Whoever follows a person drives by cmd_vel."""
    motion = context.launch_configurations['motion']
    follows = motion == 'follow'
    return [
        SetLaunchConfiguration('robot_motion', 'cmd_vel' if follows else motion),
        SetLaunchConfiguration('follows', 'true' if follows else 'false'),
    ]


def generate_launch_description():
    """World, robot and server; the two latter are the launch files of real robots and servers."""
    share = get_package_share_directory('offload_ros')
    config = os.path.join(share, 'config')

    def included(name, condition=None, **arguments):
        return IncludeLaunchDescription(
            PythonLaunchDescriptionSource(os.path.join(share, 'launch', name)),
            launch_arguments=arguments.items(),
            condition=condition,
        )

    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'namespace', default_value='', description='namespace of the robot, e.g. robot1'
            ),
            DeclareLaunchArgument(
                'models_file',
                default_value=os.path.join(config, 'models.yaml'),
                description='models.yaml, read by robot and server',
            ),
            DeclareLaunchArgument(
                'server',
                default_value='true',
                choices=['true', 'false'],
                description='start a server too; without one the robot computes by itself',
            ),
            DeclareLaunchArgument(
                'motion',
                default_value='patrol',
                choices=['patrol', 'cmd_vel', 'follow'],
                description='the robot drives a tour by itself, obeys cmd_vel, or follows a person',
            ),
            DeclareLaunchArgument('seed', default_value='0', description='which room is built'),
            DeclareLaunchArgument('people', default_value='1', description='how many walk in it'),
            OpaqueFunction(function=choose_motion),
            included('middleware.launch.py'),
            Node(
                package='offload_ros',
                executable='world',
                name='world',
                namespace=LaunchConfiguration('namespace'),
                output='screen',
                parameters=[
                    os.path.join(config, 'world.yaml'),
                    {
                        'robot_motion': LaunchConfiguration('robot_motion'),
                        'seed': ParameterValue(LaunchConfiguration('seed'), value_type=int),
                        'person_count': ParameterValue(
                            LaunchConfiguration('people'), value_type=int
                        ),
                    },
                ],
            ),
            included(
                'robot.launch.py',
                namespace=LaunchConfiguration('namespace'),
                models_file=LaunchConfiguration('models_file'),
                params_file=os.path.join(config, 'robot.yaml'),
                threads='1',
                use_sim_time='true',
            ),
            included(
                'tracker.launch.py',
                IfCondition(LaunchConfiguration('follows')),
                namespace=LaunchConfiguration('namespace'),
                tracker_file=os.path.join(config, 'tracker_world.yaml'),
                use_sim_time='true',
            ),
            # Arguments of an included file stay set for the next ones: a server has no namespace,
            # and parameters of its own.
            included(
                'server.launch.py',
                IfCondition(LaunchConfiguration('server')),
                namespace='',
                params_file=os.path.join(config, 'server.yaml'),
                threads='1',  # three processes share this machine
                models_file=LaunchConfiguration('models_file'),
            ),
        ]
    )
