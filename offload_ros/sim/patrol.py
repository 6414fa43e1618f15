"""Drives the robot on a tour of its own, with stops at which it looks at people and objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
import math

import numpy as np

from offload_ros.sim.freespace import FreeSpace
from offload_ros.sim.person import wrapped
from offload_ros.sim.robot import Pose
from offload_ros.sim.shapes import Array

LOOK_S = 8.0
STUCK_S = 3.0


@dataclass
class Patrol:
    """A seeded tour: drive to a place, look at the nearest person (or an object), drive on.

    clearance_m is kept to obstacles; speed_mps is the cruising speed.
    """

    free: FreeSpace
    rng: np.random.Generator
    clearance_m: float
    speed_mps: float = 0.5
    _route: list[Array] = field(default_factory=list)
    _look_s: float = LOOK_S
    _stuck_s: float = 0.0
    _target: int = 0

    def command(
        self,
        dt_s: float,
        pose: Pose,
        blocked: bool,
        people: Sequence[Array],
        objects: Sequence[Array],
    ) -> tuple[float, float]:
        """Return (linear m/s, angular rad/s) for the next dt_s; positions (2,) in the map."""
        at = np.array([pose.x, pose.y])
        if self._look_s > 0:
            self._look_s -= dt_s
            return 0.0, self._turn_to_look(at, pose.yaw, people, objects)
        if not self._route:
            self._route = self._next_leg(at, people)
            if not self._route:
                self._look_s = 1.0
                return 0.0, 0.0
        held = blocked or any(self._ahead(at, pose.yaw, person) for person in people)
        self._stuck_s = self._stuck_s + dt_s if held else 0.0
        if self._stuck_s > STUCK_S:
            self._route, self._stuck_s = [], 0.0
            return 0.0, 0.0
        return self._follow(at, pose.yaw, held)

    def _turn_to_look(
        self, at: Array, yaw: float, people: Sequence[Array], objects: Sequence[Array]
    ) -> float:
        if people:
            targets, index = people, int(np.argmin([np.linalg.norm(p - at) for p in people]))
        elif objects:
            targets, index = objects, self._target % len(objects)
        else:
            return 0.3
        ahead = targets[index] - at
        error = wrapped(math.atan2(ahead[1], ahead[0]) - yaw)
        return max(-0.9, min(0.9, 1.8 * error))

    def _next_leg(self, at: Array, people: Sequence[Array]) -> list[Array]:
        """Return the corners of a way to a place from which somebody can be seen, if possible."""
        avoid = [(person, 0.8) for person in people]
        for attempt in range(16):
            goal = self.free.sample(self.clearance_m, self.rng)
            if np.linalg.norm(goal - at) < 1.0:
                continue
            if people and attempt < 12 and not any(self._good_view(goal, p) for p in people):
                continue
            route = self.free.path(at, goal, self.clearance_m, avoid)
            if len(route) > 1:
                self._target = int(self.rng.integers(1 << 16))
                return route[1:]
        return []

    def _good_view(self, place: Array, person: Array) -> bool:
        return 1.5 < float(np.linalg.norm(person - place)) < 4.5 and self.free.sees(place, person)

    def _ahead(self, at: Array, yaw: float, person: Array) -> bool:
        """Return whether a person is close in front."""
        gap = person - at
        angle = wrapped(math.atan2(gap[1], gap[0]) - yaw)
        return float(np.linalg.norm(gap)) < 0.9 and abs(angle) < 1.2

    def _follow(self, at: Array, yaw: float, held: bool) -> tuple[float, float]:
        while self._route and np.linalg.norm(self._route[0] - at) < 0.12:
            self._route.pop(0)
        if not self._route:
            self._look_s = LOOK_S
            return 0.0, 0.0
        gap = self._route[0] - at
        error = wrapped(math.atan2(gap[1], gap[0]) - yaw)
        angular = max(-1.0, min(1.0, 2.0 * error))
        if held or abs(error) > 0.25:
            return 0.0, angular  # turning on the spot is safe, and may free the way
        return min(self.speed_mps, 0.15 + float(np.linalg.norm(gap))), angular
