"""What every process of a machine needs from the middleware; included by the other launch files."""

import os
from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    LogInfo,
    OpaqueFunction,
    SetEnvironmentVariable,
    SetLaunchConfiguration,
)

from offload_ros.network.profile_file import write
from offload_ros.network.profiles import NETWORKS, TRANSPORTS, Network, settings_for

ARGUMENTS = ('network', 'peers', 'transport', 'tcp_port', 'dds_profile')
DONE = 'offload_ros_network_is_set'


def set_network(context):
    """Set the environment of all nodes that follow, once: later includes find it set."""
    if DONE in context.launch_configurations:
        return []
    share = Path(get_package_share_directory('offload_ros')) / 'config' / 'dds'
    home = Path(os.environ.get('ROS_HOME') or Path.home() / '.ros') / 'offload_ros'
    values = {name: context.launch_configurations[name] for name in ARGUMENTS}
    settings = settings_for(Network.of(values), context.environment, share, home)
    for path, text in settings.files.items():
        write(path, text)
    for name in settings.removed:
        context.environment.pop(name, None)
    return [
        *(SetEnvironmentVariable(*pair) for pair in settings.variables.items()),
        SetLaunchConfiguration(DONE, 'true'),
        LogInfo(msg=settings.text),
    ]


def generate_launch_description():
    """Tell the middleware which network robot and server are in."""
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'network',
                default_value='auto',
                choices=list(NETWORKS),
                description='where the other side is: lan (one subnet with multicast), routed '
                '(behind a router, with peers), localhost; auto: what the shell has set',
            ),
            DeclareLaunchArgument(
                'peers',
                default_value='',
                description='routed: the other machines, e.g. 10.0.0.2,10.0.1.3:5100',
            ),
            DeclareLaunchArgument(
                'transport',
                default_value='tcp',
                choices=list(TRANSPORTS),
                description='routed: how tensors travel',
            ),
            DeclareLaunchArgument(
                'tcp_port',
                default_value='0',
                description='routed by TCP: the port where this side waits; 0: it connects itself',
            ),
            DeclareLaunchArgument(
                'dds_profile',
                default_value='',
                description="a Fast DDS profile file of your own instead of the network's",
            ),
            OpaqueFunction(function=set_network),
        ]
    )
