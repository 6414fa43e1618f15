"""What can be chosen about a simulated world; every rule is checked on construction."""

from __future__ import annotations

from dataclasses import dataclass, field
import math


def _require(condition: bool, rule: str) -> None:
    if not condition:
        raise ValueError(rule)


def _within(name: str, value: float, low: float, high: float) -> None:
    _require(
        math.isfinite(value) and low <= value <= high,
        f'{name} must be from {low:g} to {high:g}, not {value!r}',
    )


@dataclass(frozen=True)
class CameraConfig:
    """A pinhole RGB-D camera without distortion, looking along the robot's x axis."""

    width_px: int = 320
    height_px: int = 240
    horizontal_fov_deg: float = 65.0
    height_m: float = 0.6
    forward_m: float = 0.12
    pitch_up_deg: float = 5.0
    depth_min_m: float = 0.15
    depth_max_m: float = 12.0

    def __post_init__(self) -> None:
        _within('width_px', self.width_px, 16, 1920)
        _within('height_px', self.height_px, 16, 1200)
        _within('horizontal_fov_deg', self.horizontal_fov_deg, 20, 120)
        _within('height_m', self.height_m, 0.1, 1.5)
        _within('forward_m', self.forward_m, -0.2, 0.3)
        _within('pitch_up_deg', self.pitch_up_deg, -45, 45)
        _within('depth_min_m', self.depth_min_m, 0.05, 1)
        _within('depth_max_m', self.depth_max_m, 1, 50)

    @property
    def focal_px(self) -> float:
        """Focal length in pixels; pixels are square."""
        return self.width_px / 2 / math.tan(math.radians(self.horizontal_fov_deg) / 2)

    @property
    def centre_px(self) -> tuple[float, float]:
        """Principal point (cx, cy); the centre of the first pixel has the coordinates (0, 0)."""
        return (self.width_px - 1) / 2, (self.height_px - 1) / 2


@dataclass(frozen=True)
class LidarConfig:
    """A 2-D scan near the floor and a 3-D lidar on the mast, both over the full turn."""

    scan_rays: int = 360
    scan_height_m: float = 0.2
    cloud_channels: int = 16
    cloud_columns: int = 240
    cloud_height_m: float = 0.8
    cloud_lowest_deg: float = -40.0
    cloud_highest_deg: float = 20.0
    range_min_m: float = 0.1
    range_max_m: float = 12.0

    def __post_init__(self) -> None:
        _within('scan_rays', self.scan_rays, 8, 3600)
        _within('scan_height_m', self.scan_height_m, 0.05, 1.5)
        _within('cloud_channels', self.cloud_channels, 1, 128)
        _within('cloud_columns', self.cloud_columns, 8, 2048)
        _within('cloud_height_m', self.cloud_height_m, 0.05, 1.5)
        _within('cloud_lowest_deg', self.cloud_lowest_deg, -85, 85)
        _within('cloud_highest_deg', self.cloud_highest_deg, -85, 85)
        _require(
            self.cloud_lowest_deg <= self.cloud_highest_deg,
            'cloud_lowest_deg must not be above cloud_highest_deg',
        )
        _within('range_min_m', self.range_min_m, 0.01, 1)
        _within('range_max_m', self.range_max_m, 1, 100)


@dataclass(frozen=True)
class RobotConfig:
    """A round differential-drive base with a mast."""

    radius_m: float = 0.22
    mast_height_m: float = 0.85
    linear_limit_mps: float = 1.2
    angular_limit_radps: float = 2.0
    linear_acceleration_mps2: float = 2.0
    angular_acceleration_radps2: float = 6.0
    cmd_vel_timeout_s: float = 0.5
    drift_fraction: float = 0.0

    def __post_init__(self) -> None:
        _within('radius_m', self.radius_m, 0.1, 0.5)
        _within('mast_height_m', self.mast_height_m, 0.1, 1.8)
        _within('linear_limit_mps', self.linear_limit_mps, 0.05, 3)
        _within('angular_limit_radps', self.angular_limit_radps, 0.1, 6)
        _within('linear_acceleration_mps2', self.linear_acceleration_mps2, 0.1, 20)
        _within('angular_acceleration_radps2', self.angular_acceleration_radps2, 0.1, 60)
        _within('cmd_vel_timeout_s', self.cmd_vel_timeout_s, 0.05, 10)
        _within('drift_fraction', self.drift_fraction, 0, 0.2)


@dataclass(frozen=True)
class AirConfig:
    """How a robot flies, and what driving and flying take.

    It keeps radius_m around its axis free in the air, from its lowest point to height_m above. On
    the floor it passes below what is higher, and rolls over what is no higher than step_m. Power is
    a model: idle_w always, drive_w_per_mps while it drives, hover_w and climb_w_per_mps while it
    flies; the values are those of a robot of some 4 kg with four rotors.
    """

    radius_m: float = 0.25
    height_m: float = 0.5
    step_m: float = 0.1
    climb_limit_mps: float = 0.8
    linear_acceleration_mps2: float = 2.0
    idle_w: float = 15.0
    drive_w_per_mps: float = 25.0
    hover_w: float = 400.0
    climb_w_per_mps: float = 60.0

    def __post_init__(self) -> None:
        _within('radius_m', self.radius_m, 0.1, 0.6)
        _within('height_m', self.height_m, 0.1, 1.5)
        _within('step_m', self.step_m, 0.0, self.height_m / 2)
        _within('climb_limit_mps', self.climb_limit_mps, 0.1, 3)
        _within('linear_acceleration_mps2', self.linear_acceleration_mps2, 0.1, 20)
        for name in ('idle_w', 'drive_w_per_mps', 'hover_w', 'climb_w_per_mps'):
            _within(name, getattr(self, name), 0, 1e4)


@dataclass(frozen=True)
class PersonConfig:
    """How people walk.

    radius_m is how far a striding person's feet and hands reach: robot and people keep it free.
    clearance_m is the same towards walls and objects.
    """

    count: int = 1
    speed_mps: float = 0.8
    pause_mean_s: float = 2.0
    radius_m: float = 0.5
    clearance_m: float = 0.5

    def __post_init__(self) -> None:
        _within('count', self.count, 0, 6)
        _within('speed_mps', self.speed_mps, 0.1, 2)
        _within('pause_mean_s', self.pause_mean_s, 0, 60)
        _within('radius_m', self.radius_m, 0.3, 0.8)
        _within('clearance_m', self.clearance_m, 0.3, 0.8)


@dataclass(frozen=True)
class WorldConfig:
    """The whole world. Same configuration and same seed: same world, same pictures.

    ``kinds`` names the kinds of objects to draw from; empty stands for all. Every kind of the list
    is used once before one is used twice. ``object_scale``: how many times their usual size objects
    are. ``light`` is a seed of direction, strength and tint of
    the light; 0 is even white light. ``air``: the robot also flies.
    """

    length_m: float = 10.0
    width_m: float = 8.0
    wall_height_m: float = 2.6
    inner_wall: bool = True
    object_count: int = 20
    kinds: tuple[str, ...] = ()
    object_scale: float = 1.0
    light: int = 0
    camera: CameraConfig = field(default_factory=CameraConfig)
    lidar: LidarConfig = field(default_factory=LidarConfig)
    robot: RobotConfig = field(default_factory=RobotConfig)
    person: PersonConfig = field(default_factory=PersonConfig)
    air: AirConfig | None = None

    def __post_init__(self) -> None:
        from offload_ros.sim.objects import KINDS

        _within('length_m', self.length_m, 4, 20)
        _within('width_m', self.width_m, 4, 20)
        _within('wall_height_m', self.wall_height_m, 2.3, 5)
        _within('object_count', self.object_count, 0, 60)
        _within('object_scale', self.object_scale, 0.5, 2.0)
        _within('light', self.light, 0, 2**31 - 1)
        unknown = [name for name in self.kinds if name not in KINDS]
        _require(not unknown, f'kinds has {unknown}; it may name {sorted(KINDS)}')
