"""Follows a person whose keypoints a network finds: the logic of the KAPAO tracker, without ROS.

From keypoints and depth to places in the map (``sync``, ``depth``, ``locate``, ``geometry``), from
places to people and one target (``tracker``, ``tracks``, ``timed_filter``, ``noise_fit``), from the
lidar's scans to a map (``occupancy``, ``visibility``), and from all of it to a velocity
(``follow`` and what it uses). ``doc/tracking.md`` tells how they are put together.
"""

from offload_ros.tracking.appearance import torso_histogram
from offload_ros.tracking.depth import PatchConfig, depth_in_metres
from offload_ros.tracking.follow import Command, Follower, Scan, Target
from offload_ros.tracking.follow_config import Eye, FollowConfig, Limits
from offload_ros.tracking.geometry import PoseBuffer, PoseMissing, Rigid
from offload_ros.tracking.locate import Intrinsics, LocateConfig, Located, locate
from offload_ros.tracking.occupancy import MapConfig, OccupancyMap
from offload_ros.tracking.rollouts import Motion
from offload_ros.tracking.sync import StampPairs
from offload_ros.tracking.timed_filter import FilterConfig, TimedFilter
from offload_ros.tracking.tracker import PeopleTracker, TargetConfig, TrackerConfig
from offload_ros.tracking.tracks import Detection, TrackConfig

__all__ = [
    'Command',
    'Detection',
    'Eye',
    'FilterConfig',
    'FollowConfig',
    'Follower',
    'Intrinsics',
    'Limits',
    'LocateConfig',
    'Located',
    'MapConfig',
    'Motion',
    'OccupancyMap',
    'PatchConfig',
    'PeopleTracker',
    'PoseBuffer',
    'PoseMissing',
    'Rigid',
    'Scan',
    'StampPairs',
    'Target',
    'TargetConfig',
    'TimedFilter',
    'TrackConfig',
    'TrackerConfig',
    'depth_in_metres',
    'locate',
    'torso_histogram',
]
