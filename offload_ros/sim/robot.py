"""A round differential-drive robot: limits, watchdog, collisions and odometry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import math

import numpy as np

from offload_ros.sim.config import RobotConfig
from offload_ros.sim.freespace import Obstacles
from offload_ros.sim.shapes import Array


@dataclass(frozen=True)
class Pose:
    """A pose on the floor: metres and radians."""

    x: float = 0.0
    y: float = 0.0
    yaw: float = 0.0

    def moved(self, along_m: float, turn_rad: float) -> Pose:
        """Return the pose after driving an arc of that length and turn."""
        middle = self.yaw + turn_rad / 2
        return Pose(
            self.x + along_m * math.cos(middle),
            self.y + along_m * math.sin(middle),
            (self.yaw + turn_rad + math.pi) % (2 * math.pi) - math.pi,
        )

    def inverse(self) -> Pose:
        """Return the pose of the parent frame seen from this one."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        return Pose(-c * self.x - s * self.y, s * self.x - c * self.y, -self.yaw)

    def then(self, child: Pose) -> Pose:
        """Return the child's pose, given in this frame, in the parent frame."""
        c, s = math.cos(self.yaw), math.sin(self.yaw)
        yaw = (self.yaw + child.yaw + math.pi) % (2 * math.pi) - math.pi
        return Pose(self.x + c * child.x - s * child.y, self.y + s * child.x + c * child.y, yaw)


@dataclass
class Robot:
    """The robot's motion. pose is the truth in the map frame, odometry what its wheels tell.

    blocked says that an obstacle held it back in the last step although it was told to move.
    """

    config: RobotConfig
    pose: Pose
    rng: np.random.Generator
    odometry: Pose = field(default_factory=Pose)
    linear_mps: float = 0.0
    angular_radps: float = 0.0
    blocked: bool = False
    _wish: tuple[float, float] = (0.0, 0.0)
    _wished_at_s: float = -math.inf

    def __post_init__(self) -> None:
        self._bias = self.rng.normal(0.0, 1.0, 3) * self.config.drift_fraction

    def command(self, linear_mps: float, angular_radps: float, now_s: float) -> None:
        """Take a velocity command; it holds until the next one or until the watchdog's timeout.

        Speeds beyond the limits are cut. Raises ValueError if a value is not finite.
        """
        if not (math.isfinite(linear_mps) and math.isfinite(angular_radps)):
            raise ValueError('a velocity command must be finite')
        fast, quick = self.config.linear_limit_mps, self.config.angular_limit_radps
        self._wish = (
            max(-fast, min(fast, linear_mps)),
            max(-quick, min(quick, angular_radps)),
        )
        self._wished_at_s = now_s

    def step(
        self,
        dt_s: float,
        now_s: float,
        obstacles: Obstacles,
        people: Sequence[tuple[Array, float]],
    ) -> None:
        """Drive for dt_s, ending at now_s; stop before obstacles and people (centre, radius)."""
        late = now_s - self._wished_at_s > self.config.cmd_vel_timeout_s + 1e-9
        linear, angular = (0.0, 0.0) if late else self._wish
        self.linear_mps = towards(
            self.linear_mps, linear, self.config.linear_acceleration_mps2 * dt_s
        )
        self.angular_radps = towards(
            self.angular_radps, angular, self.config.angular_acceleration_radps2 * dt_s
        )
        along, turn = self.linear_mps * dt_s, self.angular_radps * dt_s
        self.blocked = False
        if along and self._collides(self.pose.moved(along, turn), obstacles, people):
            along, self.linear_mps, self.blocked = 0.0, 0.0, True
        if along or turn:
            self.pose = self.pose.moved(along, turn)
            scale, twist, veer = self._bias
            self.odometry = self.odometry.moved(
                along * (1 + scale), turn * (1 + twist) + abs(along) * veer
            )

    def _collides(
        self, target: Pose, obstacles: Obstacles, people: Sequence[tuple[Array, float]]
    ) -> bool:
        """Return whether the robot would touch something there and not be moving away from it."""
        after = self._clearance(target, obstacles, people)
        return after < 0 and after <= self._clearance(self.pose, obstacles, people)

    def _clearance(
        self, pose: Pose, obstacles: Obstacles, people: Sequence[tuple[Array, float]]
    ) -> float:
        at = np.array([pose.x, pose.y])
        gaps = [float(obstacles.distance(at[None])[0])]
        gaps += [float(np.linalg.norm(at - centre)) - radius for centre, radius in people]
        return min(gaps) - self.config.radius_m


def towards(value: float, target: float, most: float) -> float:
    """Return value moved towards target by at most ``most``."""
    return target if abs(target - value) <= most else value + math.copysign(most, target - value)
