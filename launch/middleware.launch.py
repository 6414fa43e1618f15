"""What every process of a machine needs from the middleware; included by the other launch files."""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import EnvironmentVariable, LaunchConfiguration

# The Fast DDS 2 of older distributions knows the variable's older name only; newer releases know
# both and would load the file twice.
OLDER = os.environ.get('ROS_DISTRO', '') in ('humble', 'iron')
VARIABLE = 'FASTRTPS_DEFAULT_PROFILES_FILE' if OLDER else 'FASTDDS_DEFAULT_PROFILES_FILE'


def generate_launch_description():
    """Set the Fast DDS profile, unless the shell has set one."""
    share = get_package_share_directory('offload_ros')
    default = os.path.join(share, 'config', 'dds', 'fastdds.xml')
    return LaunchDescription(
        [
            DeclareLaunchArgument(
                'dds_profile',
                default_value=EnvironmentVariable(VARIABLE, default_value=default),
                description='Fast DDS profile file (other middleware ignores it)',
            ),
            SetEnvironmentVariable(VARIABLE, LaunchConfiguration('dds_profile')),
        ]
    )
