"""How a person moves: along collision-free paths, with a gait that fits the speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import math

import numpy as np

from offload_ros.sim.config import PersonConfig
from offload_ros.sim.freespace import FreeSpace
from offload_ros.sim.person_body import Body
from offload_ros.sim.shapes import Array

STRIDE_M = 1.25  # two steps
TURN_RADPS = 2.5
# A route passes others at a distance at which nobody stops for them.
STOP_GAP_M, ROUTE_GAP_M = 0.15, 0.3
PATIENCE_S = 2.0  # how long somebody in the way is waited for


def wrapped(angle: float) -> float:
    """Return the angle in [-pi, pi)."""
    return (angle + math.pi) % (2 * math.pi) - math.pi


@dataclass
class Walker:
    """One person's walk. ``speed_mps`` may be changed at any time.

    position (2,) and yaw are the pose in the map frame; velocity (2,) is the current one.
    """

    body: Body
    config: PersonConfig
    free: FreeSpace
    rng: np.random.Generator
    position: Array
    yaw: float
    speed_mps: float
    velocity: Array = field(default_factory=lambda: np.zeros(2))
    _route: list[Array] = field(default_factory=list)
    _pause_s: float = 0.5
    _blocked_s: float = 0.0
    _phase: float = 0.0
    _swing: float = 0.0
    _look_s: float = 0.0

    @property
    def walking(self) -> bool:
        """Return whether the person moves on at this moment."""
        return bool(self.velocity.any())

    def step(self, dt_s: float, others: Sequence[tuple[Array, float]]) -> None:
        """Walk on for dt_s; others are discs (centre, radius) of robot and people to stay off."""
        self.velocity = np.zeros(2)
        self._look_s += dt_s
        if self._pause_s > 0:
            self._pause_s -= dt_s
        elif not self._route:
            self._choose_route(others)
        else:
            self._advance(dt_s, others)
        moving = float(np.linalg.norm(self.velocity)) / max(self.speed_mps, 1e-6)
        self._swing += (min(1.0, moving) - self._swing) * min(1.0, 5 * dt_s)
        self._phase += 2 * math.pi * float(np.linalg.norm(self.velocity)) * dt_s / STRIDE_M

    def _choose_route(self, others: Sequence[tuple[Array, float]]) -> None:
        """Pick a goal some way off; with everything cut off, wait a little."""
        keep = self.config.clearance_m
        avoid = [(c, r + self.config.radius_m + ROUTE_GAP_M) for c, r in others]
        for _ in range(6):
            goal = self.free.sample(keep, self.rng)
            if np.linalg.norm(goal - self.position) < 1.5:
                continue
            route = self.free.path(self.position, goal, keep, avoid)
            if len(route) > 1:
                self._route = route[1:]
                self._blocked_s = 0.0
                return
        self._pause_s = 0.5

    def _advance(self, dt_s: float, others: Sequence[tuple[Array, float]]) -> None:
        ahead = self._route[0] - self.position
        distance = float(np.linalg.norm(ahead))
        if distance < 1e-6:
            self._arrive()
            return
        error = wrapped(math.atan2(ahead[1], ahead[0]) - self.yaw)
        self.yaw = wrapped(self.yaw + max(-TURN_RADPS * dt_s, min(TURN_RADPS * dt_s, error)))
        # Turn first, walk the more the better the heading fits.
        speed = self.speed_mps * max(0.0, math.cos(error)) ** 2 if abs(error) < 1.4 else 0.0
        move = ahead / distance * min(distance, speed * dt_s)
        if self._in_the_way(move, others):
            self._blocked_s += dt_s
            if self._blocked_s > PATIENCE_S:
                self._route, self._blocked_s = [], 0.0
            return
        self._blocked_s = 0.0
        self.velocity = move / dt_s
        self.position = self.position + move
        if distance - float(np.linalg.norm(move)) < 1e-6:
            self._arrive()

    def _arrive(self) -> None:
        self._route.pop(0)
        if not self._route and self.config.pause_mean_s > 0:
            self._pause_s = float(self.rng.uniform(0.5, 1.5)) * self.config.pause_mean_s

    def _in_the_way(self, move: Array, others: Sequence[tuple[Array, float]]) -> bool:
        """Return whether the move comes too close to somebody and closer than before."""
        for centre, radius in others:
            before = float(np.linalg.norm(self.position - centre))
            after = float(np.linalg.norm(self.position + move - centre))
            if after < radius + self.config.radius_m + STOP_GAP_M and after < before:
                return True
        return False

    def joints(self) -> dict[str, float]:
        """Return the position of every joint (metres and radians) of the present posture."""
        wave, lift = math.sin(self._phase), math.cos(self._phase)
        a = self._swing
        reach = 0.42 * a * min(1.2, 0.5 + 0.6 * self.speed_mps)
        angles = {
            'twist': -0.10 * a * wave,
            'look': 0.35 * (1 - a) * math.sin(0.9 * self._look_s),
            'left_hip': reach * wave + 0.06 * a,
            'right_hip': -reach * wave + 0.06 * a,
            'left_knee': 0.06 + a * (0.10 + 0.85 * max(0.0, lift) ** 2),
            'right_knee': 0.06 + a * (0.10 + 0.85 * max(0.0, -lift) ** 2),
            'left_shoulder': -0.45 * a * wave,
            'right_shoulder': 0.45 * a * wave,
            'left_elbow': 0.15 + a * (0.25 - 0.15 * wave),
            'right_elbow': 0.15 + a * (0.25 + 0.15 * wave),
        }
        return {
            'x': float(self.position[0]),
            'y': float(self.position[1]),
            'z': self._sole_height(angles),
            'yaw': self.yaw,
            **angles,
        }

    def _sole_height(self, angles: dict[str, float]) -> float:
        """Return how far the hips sink so that the lower foot stands on the floor."""
        reaches = [
            self.body.thigh * math.cos(angles[f'{side}_hip'])
            + self.body.shank * math.cos(angles[f'{side}_hip'] - angles[f'{side}_knee'])
            for side in ('left', 'right')
        ]
        return max(reaches) - self.body.thigh - self.body.shank
