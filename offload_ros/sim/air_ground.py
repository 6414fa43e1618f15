"""A robot that drives and hovers: motion in three dimensions, collisions, and energy by mode."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import math

import numpy as np
from scipy.spatial import cKDTree

from offload_ros.sim.config import AirConfig
from offload_ros.sim.freespace import Obstacles
from offload_ros.sim.layout import Placed
from offload_ros.sim.robot import Pose, Robot, towards
from offload_ros.sim.room import Room
from offload_ros.sim.shapes import Array
from offload_ros.sim.solids import all_filled

SPACING_M = 0.06
PERSON_M = 2.0  # so high nobody is flown over
ON_FLOOR_M = 1e-3
_REACH_M = 0.8


class Solids:
    """What fills the room, for clearances of an upright cylinder at any height; points (N, 3) in
    the map frame."""

    def __init__(self, room: Room, objects: Sequence[Placed]) -> None:
        """Fill walls and objects with points."""
        parts = [all_filled(room.parts, SPACING_M)]
        for placed in objects:
            c, s = math.cos(placed.yaw), math.sin(placed.yaw)
            points = all_filled(placed.shape.parts, SPACING_M)
            turned = points @ np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])
            parts.append(turned + np.array([placed.x, placed.y, placed.z]))
        self.points: Array = np.concatenate(parts)
        self._tree = cKDTree(self.points[:, :2])
        self._height_m = room.height_m

    def clearance(self, at: Array, low_m: float, high_m: float) -> float:
        """Return the distance of the axis at (2,), from low_m to high_m above the floor, from the
        nearest solid, at most 0.8 m; 0 where it sticks in the ceiling."""
        if high_m > self._height_m:
            return 0.0
        near = self.points[self._tree.query_ball_point(at, _REACH_M)]
        level = (near[:, 2] > low_m - SPACING_M / 2) & (near[:, 2] < high_m + SPACING_M / 2)
        if not level.any():
            return _REACH_M
        return float(np.hypot(*(near[level, :2] - at).T).min())


@dataclass
class AirGround(Robot):
    """It rolls on wheels that turn freely, pushed by its rotors, so it also goes sideways on the
    floor. Told to climb it takes off, and it lands when it is told to sink to the floor. Without
    commands it stands or hovers.

    z_m: of its lowest point above the floor, which odometry knows exactly. energy_j: spent so far.
    """

    air: AirConfig = field(default_factory=AirConfig)
    solids: Solids | None = None
    z_m: float = 0.0
    lateral_mps: float = 0.0
    climb_mps: float = 0.0
    energy_j: float = 0.0
    _lift: tuple[float, float] = (0.0, 0.0)

    @property
    def airborne(self) -> bool:
        """Return whether it flies."""
        return self.z_m > ON_FLOOR_M

    def command(
        self,
        linear_mps: float,
        angular_radps: float,
        now_s: float,
        lateral_mps: float = 0.0,
        climb_mps: float = 0.0,
    ) -> None:
        """Take a command, also sideways (left) and upwards."""
        if not (math.isfinite(lateral_mps) and math.isfinite(climb_mps)):
            raise ValueError('a velocity command must be finite')
        super().command(linear_mps, angular_radps, now_s)
        fast, quick = self.config.linear_limit_mps, self.air.climb_limit_mps
        self._lift = max(-fast, min(fast, lateral_mps)), max(-quick, min(quick, climb_mps))

    def step(
        self,
        dt_s: float,
        now_s: float,
        obstacles: Obstacles,
        people: Sequence[tuple[Array, float]],
    ) -> None:
        """Move for dt_s, ending at now_s. What is in the way is known from ``solids``: on the floor
        it passes below what is higher than itself."""
        late = now_s - self._wished_at_s > self.config.cmd_vel_timeout_s + 1e-9
        linear, angular = (0.0, 0.0) if late else self._wish
        lateral, climb = (0.0, 0.0) if late else self._lift
        base, air = self.config, self.air
        change = (air if self.airborne else base).linear_acceleration_mps2 * dt_s
        self.linear_mps = towards(self.linear_mps, linear, change)
        self.lateral_mps = towards(self.lateral_mps, lateral, change)
        self.climb_mps = towards(self.climb_mps, climb, air.linear_acceleration_mps2 * dt_s)
        if not self.airborne:
            self.climb_mps = max(0.0, self.climb_mps)
        self.angular_radps = towards(
            self.angular_radps, angular, base.angular_acceleration_radps2 * dt_s
        )
        self._move(dt_s, people)
        self.energy_j += dt_s * self.power_w()

    def _move(self, dt_s: float, people: Sequence[tuple[Array, float]]) -> None:
        turn = self.angular_radps * dt_s
        ahead, left = self.linear_mps * dt_s, self.lateral_mps * dt_s
        height = max(0.0, self.z_m + self.climb_mps * dt_s)
        self.blocked = False
        if ahead or left or height != self.z_m:
            after = self._room(shifted(self.pose, ahead, left, turn), height, people)
            if after < 0 and after <= self._room(self.pose, self.z_m, people):
                # Held where it is; it may still turn, and go where there is more room.
                self.blocked = True
                self.linear_mps = self.lateral_mps = self.climb_mps = 0.0
                ahead, left, height = 0.0, 0.0, self.z_m
        self.pose = shifted(self.pose, ahead, left, turn)
        scale, twist, veer = self._bias
        self.odometry = shifted(
            self.odometry,
            ahead * (1 + scale),
            left * (1 + scale),
            turn * (1 + twist) + math.hypot(ahead, left) * veer,
        )
        self.z_m = height
        if not self.airborne and self.climb_mps <= 0.0:  # landed
            self.z_m = self.climb_mps = 0.0

    def power_w(self) -> float:
        """Return what it takes now, watts: by the model in ``AirConfig``."""
        air = self.air
        if self.airborne:
            return air.idle_w + air.hover_w + air.climb_w_per_mps * max(0.0, self.climb_mps)
        return air.idle_w + air.drive_w_per_mps * math.hypot(self.linear_mps, self.lateral_mps)

    def _room(self, pose: Pose, z_m: float, people: Sequence[tuple[Array, float]]) -> float:
        """Return the free distance around it; negative where it would touch something."""
        at, air = np.array([pose.x, pose.y]), self.air
        low, radius = z_m, air.radius_m
        if z_m <= ON_FLOOR_M:
            low, radius = air.step_m + SPACING_M / 2, self.config.radius_m
        gaps = [_REACH_M]
        if self.solids is not None:
            gaps.append(self.solids.clearance(at, low, z_m + air.height_m))
        if z_m < PERSON_M:
            gaps += [float(np.linalg.norm(at - centre)) - apart for centre, apart in people]
        return min(gaps) - radius


def shifted(pose: Pose, ahead_m: float, left_m: float, turn_rad: float) -> Pose:
    """Return a pose moved ahead and to the left, as it looks in the middle of its turn."""
    middle = pose.yaw + turn_rad / 2
    c, s = math.cos(middle), math.sin(middle)
    return Pose(
        pose.x + c * ahead_m - s * left_m,
        pose.y + s * ahead_m + c * left_m,
        (pose.yaw + turn_rad + math.pi) % (2 * math.pi) - math.pi,
    )
