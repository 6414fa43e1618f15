"""The last word on a command: whatever it is, the robot can still stop before an obstacle."""

from __future__ import annotations

import math

import numpy as np

from offload_ros.tracking.checks import Floats
from offload_ros.tracking.follow_config import Limits
from offload_ros.tracking.occupancy import MapView, distances

_SHARES = np.array([1.0, 0.85, 0.7, 0.55, 0.4, 0.25, 0.12, 0.0])
_STEPS = 24
_SLACK_M = 0.004


def stopping_paths(
    speed_mps: float, turn_radps: float, commands: Floats, limits: Limits, reaction_s: float
) -> Floats:
    """Return the places (T, C, 2), in the robot's frame, until it stands after each command.

    speed_mps and turn_radps are the present ones; commands (C, 2: m/s, rad/s) are obeyed at the
    limits' accelerations for reaction_s, then the robot brakes.
    """
    speeds = np.full(len(commands), speed_mps)
    turns = np.full(len(commands), turn_radps)
    fastest = float(np.abs(commands[:, 0]).max(initial=abs(speed_mps)))
    dt = (reaction_s + fastest / limits.linear_mps2 + 1e-3) / _STEPS
    x, y, yaw = np.zeros(len(commands)), np.zeros(len(commands)), np.zeros(len(commands))
    places = [np.stack([x, y], 1)]
    for step in range(_STEPS):
        driving = step * dt < reaction_s
        goal = commands[:, 0] if driving else np.zeros(len(commands))
        spin = commands[:, 1] if driving else np.zeros(len(commands))
        change = limits.linear_mps2 * dt
        after = speeds + np.clip(goal - speeds, -change, change)
        change = limits.angular_radps2 * dt
        turns = turns + np.clip(spin - turns, -change, change)
        middle = yaw + turns * dt / 2
        # The faster of both ends: a path that is a little too long is on the safe side.
        way = np.where(np.abs(after) > np.abs(speeds), after, speeds) * dt
        x, y = x + way * np.cos(middle), y + way * np.sin(middle)
        yaw, speeds = yaw + turns * dt, after
        places.append(np.stack([x, y], 1))
    return np.stack(places)


def safe_command(
    linear_mps: float,
    angular_radps: float,
    speed_mps: float,
    turn_radps: float,
    obstacles: Floats,
    limits: Limits,
    margin_m: float,
    reaction_s: float,
    extra_m: Floats | None = None,
) -> tuple[float, float]:
    """Return the command, its linear speed lowered until the robot can stop before obstacles.

    obstacles (N, 2) are points of the scan in the robot's frame. The robot is a circle, so turning
    touches nothing. Within margin_m of an obstacle already, it may only drive away from it.
    extra_m (N,): additional distance to each point, as from the legs of people.
    """
    if not len(obstacles):
        return linear_mps, angular_radps
    shares = _SHARES * linear_mps
    commands = np.stack([shares, np.full(len(shares), angular_radps)], 1)
    paths = stopping_paths(speed_mps, turn_radps, commands, limits, reaction_s)
    extra = np.zeros(len(obstacles)) if extra_m is None else extra_m
    reach = limits.footprint_m + margin_m + float(extra.max()) + float(np.hypot(*paths.T).max())
    close = np.hypot(obstacles[:, 0], obstacles[:, 1]) < reach + 0.5
    near, extra = obstacles[close], extra[close]
    if not len(near):
        return linear_mps, angular_radps
    apart = np.hypot(paths[:, :, None, 0] - near[:, 0], paths[:, :, None, 1] - near[:, 1])
    gaps = (apart - extra).min(2)
    room = limits.footprint_m + margin_m
    now = float(gaps[0, 0])
    worst, end = gaps.min(0), gaps[-1]
    inside = (worst >= now - _SLACK_M) & (end >= now)
    safe = worst >= room if now >= room else inside
    safe[-1] = True  # nothing is safer than to brake
    return float(commands[int(np.argmax(safe)), 0]), angular_radps


class Surroundings:
    """Distances to what the map and the newest scan show, in a square around the robot."""

    _HALF_M = 4.0

    def __init__(
        self, view: MapView, points: Floats, centre: Floats, people: Floats, extra_m: float
    ) -> None:
        """Take scan points (N, 2) in the map's frame and the robot's place (2,).

        people (M, 2) are points that may be somebody's legs: those are extra_m nearer.
        """
        step = view.resolution_m
        half = math.ceil(self._HALF_M / step)
        corner = np.floor((centre - view.low) / step).astype(np.int64) - half
        occupied = np.zeros((2 * half, 2 * half), np.bool_)
        n = len(view.occupied)
        (ax, bx), (ay, by) = ((max(0, int(c)), min(n, int(c) + 2 * half)) for c in corner)
        if ax < bx and ay < by:
            occupied[ax - corner[0] : bx - corner[0], ay - corner[1] : by - corner[1]] = (
                view.occupied[ax:bx, ay:by]
            )
        if len(points):
            cell = np.floor((points - view.low) / step).astype(np.int64) - corner
            cell = cell[((cell >= 0) & (cell < 2 * half)).all(1)]
            occupied[cell[:, 0], cell[:, 1]] = True
        distance = distances(occupied, step)
        legs = np.zeros_like(occupied)
        cell = np.floor((people - view.low) / step).astype(np.int64) - corner
        cell = cell[((cell >= 0) & (cell < 2 * half)).all(1)]
        legs[cell[:, 0], cell[:, 1]] = True
        distance = np.minimum(distance, distances(legs, step) - np.float32(extra_m))
        self._view = MapView(view.low + corner * step, step, occupied, ~occupied, distance)

    def clearance(self, points: Floats) -> Floats:
        """Return the distance (...) of points (..., 2) to the nearest obstacle."""
        return self._view.clearance(points)
