"""What can be chosen about following; every rule is checked on construction."""

from __future__ import annotations

from dataclasses import dataclass, field

from offload_ros.tracking.checks import require, within
from offload_ros.tracking.whereabouts import WalkConfig


@dataclass(frozen=True)
class Limits:
    """Of the robot: speeds, accelerations, and the circle that it fills."""

    linear_mps: float = 1.2
    reverse_mps: float = 1.2
    angular_radps: float = 2.0
    linear_mps2: float = 2.0
    angular_radps2: float = 6.0
    footprint_m: float = 0.22

    def __post_init__(self) -> None:
        within('linear_mps', self.linear_mps, 0.05, 5.0)
        within('reverse_mps', self.reverse_mps, 0.0, 5.0)
        within('angular_radps', self.angular_radps, 0.1, 10.0)
        within('linear_mps2', self.linear_mps2, 0.1, 20.0)
        within('angular_radps2', self.angular_radps2, 0.1, 60.0)
        within('footprint_m', self.footprint_m, 0.05, 2.0)


@dataclass(frozen=True)
class Eye:
    """The camera as the controller sees it: full angle of view, distances at which people show."""

    view_rad: float = 1.134
    near_m: float = 0.6
    far_m: float = 7.0

    def __post_init__(self) -> None:
        within('view_rad', self.view_rad, 0.2, 6.28)
        within('near_m', self.near_m, 0.0, 5.0)
        within('far_m', self.far_m, self.near_m + 0.5, 100.0)

    @property
    def half(self) -> float:
        """Angle from the axis to the edge of the image, radians."""
        return self.view_rad / 2


@dataclass(frozen=True)
class Weights:
    """What a rollout costs; half a metre off the distance costs ``distance`` each second."""

    distance: float = 1.0
    bearing: float = 0.5
    unseen: float = 4.0
    hidden: float = 5.0
    clearance: float = 2.0
    change: float = 0.1
    commit: float = 0.3
    end: float = 1.0
    end_hidden: float = 3.0
    travel: float = 0.6
    cramped: float = 1.5
    turn: float = 0.5
    search: float = 6.0

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            within(name, value, 0.0, 1e3)


@dataclass(frozen=True)
class FollowConfig:
    """How the robot follows.

    distance_m: set point, from robot to person. reserve_m: how much further away it aims to be,
    since it has more trouble to retreat than to catch up. margin_m: kept between footprint and
    obstacles;
    person_keep_m: smallest distance of the robot's centre from the person's that it drives to;
    people_extra_m: kept, besides margin_m, to points of the scan that may be somebody's legs.
    turn_in_place_rad: a standing robot whose heading is off by more turns before it drives.
    look_around_radps: how fast it turns on the spot while there has been nobody yet; 0: not at all.
    fresh_s: a person seen that recently counts as in view; search_s: after that long without the
    person it stands still. result_timeout_s, scan_timeout_s, pose_timeout_s: older input stops it.
    reaction_s: how long a command takes until the wheels obey, for the stopping distance.
    """

    distance_m: float = 2.5
    reserve_m: float = 0.15
    margin_m: float = 0.08
    person_keep_m: float = 0.95
    people_extra_m: float = 0.45
    turn_in_place_rad: float = 0.3
    look_around_radps: float = 0.5
    fresh_s: float = 1.2
    search_s: float = 30.0
    result_timeout_s: float = 1.0
    scan_timeout_s: float = 0.5
    pose_timeout_s: float = 0.5
    reaction_s: float = 0.15
    horizon_s: float = 2.0
    look_ahead_s: float = 3.0
    limits: Limits = field(default_factory=Limits)
    eye: Eye = field(default_factory=Eye)
    weights: Weights = field(default_factory=Weights)
    walk: WalkConfig = field(default_factory=WalkConfig)

    def __post_init__(self) -> None:
        within('distance_m', self.distance_m, 0.5, 10.0)
        within('reserve_m', self.reserve_m, 0.0, 1.0)
        within('margin_m', self.margin_m, 0.0, 1.0)
        within('person_keep_m', self.person_keep_m, self.limits.footprint_m, 5.0)
        within('people_extra_m', self.people_extra_m, 0.0, 2.0)
        require(self.person_keep_m < self.distance_m, 'person_keep_m must be below distance_m')
        within('turn_in_place_rad', self.turn_in_place_rad, 0.05, 3.2)
        within('look_around_radps', self.look_around_radps, 0.0, 3.0)
        within('fresh_s', self.fresh_s, 0.1, 10.0)
        within('search_s', self.search_s, self.fresh_s, 3600.0)
        within('result_timeout_s', self.result_timeout_s, 0.1, 60.0)
        within('scan_timeout_s', self.scan_timeout_s, 0.05, 10.0)
        within('pose_timeout_s', self.pose_timeout_s, 0.05, 10.0)
        within('reaction_s', self.reaction_s, 0.0, 2.0)
        within('horizon_s', self.horizon_s, 0.5, 6.0)
        within('look_ahead_s', self.look_ahead_s, 0.0, 10.0)
