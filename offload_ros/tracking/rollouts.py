"""What the robot can do next: motions over a short horizon, all at once.

A dynamic window (Fox, Burgard, Thrun, 1997) whose candidates are a speed and a direction of travel
instead of two speeds: a robot that turns before it drives, and keeps its camera on a walking
person, is then one candidate. Every candidate keeps the limits of speed and acceleration.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from offload_ros.tracking.checks import Bools, Floats, wrapped
from offload_ros.tracking.follow_config import FollowConfig, Limits

STEP_S = 0.125
_GAIN = 3.5  # 1/s, of the heading's error
_AIM = (0.0, 0.1, 0.2, 0.29, 0.45)  # the person stays in view
_AWAY = (0.8, 1.15, 1.57, 2.1, 2.7)  # the camera looks elsewhere for a moment
_HOLD_S = 1.4
_SLOW_MPS = 0.25
PATH_POINTS = 2


@dataclass(frozen=True, eq=False)
class Motion:
    """The robot's pose on the floor and its speeds."""

    x_m: float
    y_m: float
    yaw: float
    linear_mps: float = 0.0
    angular_radps: float = 0.0


@dataclass(frozen=True, eq=False)
class Candidates:
    """Speed (R,) and direction (R,): relative to the person's bearing, or absolute (R,) bool.

    on_path (R,): the direction is that of the way to the best place, or opposite, see ``towards``.
    """

    speed: Floats
    direction: Floats
    absolute: Bools
    on_path: Bools

    def towards(self, directions: tuple[float, ...]) -> Candidates:
        """Return the candidates whose way leads off in these absolute directions."""
        places = np.flatnonzero(self.on_path)
        near = np.resize(np.repeat(directions, len(places) // len(directions)), len(places))
        direction = self.direction.copy()
        direction[places] = near + np.where(self.speed[places] < 0, math.pi, 0.0)
        return Candidates(self.speed, direction, self.absolute, self.on_path)

    def __len__(self) -> int:
        return len(self.speed)


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Positions (T, R, 2), yaw (T, R), speeds (T, R) after each step, first commands (R,)."""

    times_s: Floats
    positions: Floats
    yaw: Floats
    linear: Floats
    angular: Floats
    first_linear: Floats
    first_angular: Floats


def following(limits: Limits) -> Candidates:
    """Return the candidates while the person is in view."""
    speeds = [share * limits.linear_mps for share in (0.0, 0.17, 0.33, 0.5, 0.67, 0.83, 1.0)]
    speeds += [-share * limits.reverse_mps for share in (0.25, 0.5, 0.75, 1.0)]
    aims = [0.0, *(side * angle for angle in _AIM[1:] for side in (1, -1))]
    aways = [side * angle for angle in _AWAY for side in (1, -1)]
    fast = [0.5 * limits.linear_mps, limits.linear_mps]
    fast += [-0.5 * limits.reverse_mps, -limits.reverse_mps]
    pairs = [(v, a) for v in speeds for a in aims] + [(v, a) for v in fast for a in aways]
    return _candidates(pairs, [], limits)


def searching(limits: Limits) -> Candidates:
    """Return the candidates while the person is lost: every direction."""
    angles = [i * math.pi / 8 for i in range(16)]
    speeds = (0.0, 0.5 * limits.linear_mps, limits.linear_mps)
    pairs = [(v, a) for v in speeds for a in angles]
    pairs += [(-0.5 * limits.reverse_mps, a) for a in angles]
    near = [(v, a) for v in speeds for a in (0.0, 0.4, -0.4)]
    return _candidates(near, pairs, limits)


def _candidates(
    relative: list[tuple[float, float]], absolute: list[tuple[float, float]], limits: Limits
) -> Candidates:
    path = [(share * limits.linear_mps, 0.0) for share in (0.33, 0.67, 0.83, 1.0)]
    path += [(-share * limits.reverse_mps, 0.0) for share in (0.4, 0.8)]
    values = np.array(relative + absolute + PATH_POINTS * path)
    counts = np.repeat([0, 1, 2], [len(relative), len(absolute), PATH_POINTS * len(path)])
    return Candidates(values[:, 0], values[:, 1], counts > 0, counts > 1)


def roll_out(
    start: Motion, candidates: Candidates, person: Floats, config: FollowConfig
) -> Rollouts:
    """Drive every candidate for the steps of person (T, 2), predicted at STEP_S, 2 STEP_S, ...

    A candidate that looks away from the person turns back to them after _HOLD_S.
    """
    limits, count = config.limits, len(candidates)
    x, y = np.full(count, start.x_m), np.full(count, start.y_m)
    yaw = np.full(count, start.yaw)
    v, w = np.full(count, start.linear_mps), np.full(count, start.angular_radps)
    up, spin = limits.linear_mps2 * STEP_S, limits.angular_radps2 * STEP_S
    away = ~candidates.absolute & (np.abs(candidates.direction) > _AIM[-1] + 0.1)
    kept = []
    first: tuple[Floats, Floats] = (v, w)
    for step, (px, py) in enumerate(person):
        bearing = np.arctan2(py - y, px - x)
        back = away & (step * STEP_S >= _HOLD_S)
        direction = np.where(back, 0.0, candidates.direction)
        want = np.where(candidates.absolute, direction, bearing + direction)
        error = wrapped(want - yaw)
        turn = np.clip(_GAIN * error, -limits.angular_radps, limits.angular_radps)
        # Who stands turns before driving; who drives slows down in the curve.
        slow = np.abs(v) < _SLOW_MPS
        still = back | (slow & (np.abs(error) > config.turn_in_place_rad))
        drive = np.where(still, 0.0, candidates.speed * np.maximum(np.cos(error), 0.0))
        if step == 0:
            first = drive, turn
        v_next = v + np.clip(drive - v, -up, up)
        w = w + np.clip(turn - w, -spin, spin)
        middle = yaw + w * (STEP_S / 2)
        x = x + (v + v_next) * (STEP_S / 2) * np.cos(middle)
        y = y + (v + v_next) * (STEP_S / 2) * np.sin(middle)
        yaw, v = yaw + w * STEP_S, v_next
        kept.append((x, y, yaw, v, w))
    values = np.array(kept)
    times = STEP_S * np.arange(1.0, len(person) + 1)
    positions = np.stack([values[:, 0], values[:, 1]], -1)
    yaws, linear, angular = values[:, 2], values[:, 3], values[:, 4]
    first_v, first_w = np.array(first[0], np.float64), np.array(first[1], np.float64)
    return Rollouts(times, positions, yaws, linear, angular, first_v, first_w)
