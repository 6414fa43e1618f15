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


def choose_app(context):
    """Applications drive by cmd_vel: the follower if it runs, else the navigator."""
    app = context.launch_configurations['app']
    follows, navigates = app in ('kapao', 'both'), app in ('agrnav', 'both')
    alone = app == 'agrnav'
    models = {'none': '', 'both': 'kapao,agrnav'}.get(app, app)
    chosen = {
        'models': context.launch_configurations['models'] or models,
        'robot_motion': context.launch_configurations['motion'] if app == 'none' else 'cmd_vel',
        'follows': follows,
        'navigates': navigates,
        'navigator_drives': alone,
        'robot_flies': alone,
        'goal_every_s': '20.0' if alone else '0.0',
    }
    return [
        SetLaunchConfiguration(key, str(value).lower() if isinstance(value, bool) else value)
        for key, value in chosen.items()
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
                'models',
                default_value='',
                description='which of its models run; empty: those of the app, without one all',
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
                choices=['patrol', 'cmd_vel'],
                description='without an app: the robot drives a tour by itself, or obeys cmd_vel',
            ),
            DeclareLaunchArgument(
                'app',
                default_value='none',
                choices=['none', 'kapao', 'agrnav', 'both'],
                description='kapao: follow a person; agrnav: fly and drive to random places; both: '
                'follow, and complete the map on the way',
            ),
            DeclareLaunchArgument('seed', default_value='0', description='which room is built'),
            DeclareLaunchArgument('people', default_value='1', description='how many walk in it'),
            OpaqueFunction(function=choose_app),
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
                        'robot_flies': ParameterValue(
                            LaunchConfiguration('robot_flies'), value_type=bool
                        ),
                        'goal_every_s': ParameterValue(
                            LaunchConfiguration('goal_every_s'), value_type=float
                        ),
                    },
                ],
            ),
            included(
                'robot.launch.py',
                namespace=LaunchConfiguration('namespace'),
                models_file=LaunchConfiguration('models_file'),
                models=LaunchConfiguration('models'),
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
            included(
                'navigator.launch.py',
                IfCondition(LaunchConfiguration('navigates')),
                namespace=LaunchConfiguration('namespace'),
                drive=LaunchConfiguration('navigator_drives'),
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
                models=LaunchConfiguration('models'),
            ),
        ]
    )
