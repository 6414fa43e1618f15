"""Moves a spline's control points to where it is smooth, clear of obstacles and within limits.

Fast-Planner's cost (Zhou et al., 2019) with AGRNav's term for bends on the ground (ICRA 2024), by
L-BFGS with analytic gradients. Both ends keep place, velocity and acceleration exactly. What drives
stays on the floor: those control points move in the plane only.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
import time

import numpy as np
from scipy.optimize import minimize

from offload_ros.navigation.plan_config import Limits, RefineConfig
from offload_ros.navigation.space import Space
from offload_ros.navigation.spline import Spline
from offload_ros.tracking.checks import Bools, Floats

_ENDS = 3  # control points at each end that are given
_TINY_M = 1e-3
# A spline's places at a knot and half way to the next, from four control points.
_SAMPLES = np.array([[1.0, 4.0, 1.0, 0.0], [0.125, 2.875, 2.875, 0.125]]) / 6


class _TimeUp(Exception):
    """Ends the optimiser, whose call-backs cannot in every version of SciPy."""


@dataclass(frozen=True, eq=False)
class Waypoints:
    """Knots (W,) that are to be at places (W, 3)."""

    knots: np.ndarray
    places: Floats


class Cost:
    """What a spline of so many control points and that step costs."""

    def __init__(
        self,
        space: Space,
        config: RefineConfig,
        limits: Limits,
        step_s: float,
        ground: Bools,
        waypoints: Waypoints,
    ) -> None:
        """ground (N,): control points that are on the floor."""
        self.space, self.config, self.limits, self.step_s = space, config, limits, step_s
        # A bend on the ground is one of three control points there.
        self._driven = ground[:-2] & ground[1:-1] & ground[2:]
        self._waypoints = waypoints

    def __call__(self, points: Floats) -> tuple[float, Floats]:
        """Return the cost of control points (N, 3) and its gradient (N, 3)."""
        gradient = np.zeros_like(points)
        cost = self.smoothness(points, gradient)
        cost += self.clearance(points, gradient)
        cost += self.feasibility(points, gradient)
        cost += self.waypoints(points, gradient)
        cost += self.curvature(points, gradient)
        return cost, gradient

    def smoothness(self, points: Floats, gradient: Floats) -> float:
        """Squared third differences."""
        third = points[3:] - 3 * points[2:-1] + 3 * points[1:-2] - points[:-3]
        weight = self.config.smoothness
        pull = 2 * weight * third
        gradient[3:] += pull
        gradient[2:-1] -= 3 * pull
        gradient[1:-2] += 3 * pull
        gradient[:-3] -= pull
        return weight * float((third**2).sum())

    def clearance(self, points: Floats, gradient: Floats) -> float:
        """Squared lack of room, at the knots and half way between."""
        pieces = len(points) - 3
        parts = [points[k : k + pieces] for k in range(4)]
        places = np.concatenate(
            [sum(w * part for w, part in zip(row, parts, strict=True)) for row in _SAMPLES]
        )
        room, slope = self.space.margin(places)
        lack = np.maximum(self.config.margin_m - room, 0.0)
        if not lack.any():
            return 0.0
        weight = self.config.clearance
        pull = -2 * weight * lack[:, None] * slope
        for row, half in zip(_SAMPLES, (pull[:pieces], pull[pieces:]), strict=True):
            for k, share in enumerate(row):
                gradient[k : k + pieces] += share * half
        return weight * float((lack**2).sum())

    def feasibility(self, points: Floats, gradient: Floats) -> float:
        """Squared excess of squared speeds and accelerations."""
        weight, step = self.config.feasibility, self.step_s
        speed = np.diff(points, axis=0) / step
        rate = np.diff(speed, axis=0) / step
        over = np.maximum((speed**2).sum(1) - self.limits.speed_mps**2, 0.0)
        hard = np.maximum((rate**2).sum(1) - self.limits.acceleration_mps2**2, 0.0)
        if over.any():
            pull = 4 * weight * over[:, None] * speed / step
            gradient[1:] += pull
            gradient[:-1] -= pull
        if hard.any():
            pull = 4 * weight * hard[:, None] * rate / step**2
            gradient[2:] += pull
            gradient[1:-1] -= 2 * pull
            gradient[:-2] += pull
        return weight * float((over**2).sum() + (hard**2).sum())

    def waypoints(self, points: Floats, gradient: Floats) -> float:
        """Squared distances of knots from where they are to be."""
        knots = self._waypoints.knots
        if not len(knots):
            return 0.0
        off = (points[knots] + 4 * points[knots + 1] + points[knots + 2]) / 6
        off = off - self._waypoints.places
        weight = self.config.waypoint
        for k, share in enumerate(_SAMPLES[0, :3]):
            np.add.at(gradient, knots + k, 2 * weight * share * off)
        return weight * float((off**2).sum())

    def curvature(self, points: Floats, gradient: Floats) -> float:
        """Squared excess of turning angle per length, where three control points are driven."""
        before, after = np.diff(points[:-1, :2], axis=0), np.diff(points[1:, :2], axis=0)
        length, other = (before**2).sum(1), (after**2).sum(1)
        middle = np.flatnonzero(self._driven & (length > _TINY_M**2) & (other > _TINY_M**2))
        if not len(middle):
            return 0.0
        before, after, length, other = (values[middle] for values in (before, after, length, other))
        cross = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0]
        angle = np.arctan2(cross, (before * after).sum(1))
        root = np.sqrt(length)
        bend = np.abs(angle) / root
        excess = np.maximum(bend - self.config.curvature_max, 0.0)
        weight = self.config.curvature
        outer = 2 * weight * excess
        # An angle changes across a vector, by the inverse of its length; the length along it.
        turn = (outer * np.sign(angle) / root)[:, None]
        across_before = np.stack((before[:, 1], -before[:, 0]), 1) / length[:, None]
        across_after = np.stack((-after[:, 1], after[:, 0]), 1) / other[:, None]
        by_before = turn * across_before - (outer * bend / length)[:, None] * before
        by_after = turn * across_after
        np.add.at(gradient[:, :2], middle, -by_before)
        np.add.at(gradient[:, :2], middle + 1, by_before - by_after)
        np.add.at(gradient[:, :2], middle + 2, by_after)
        return weight * float((excess**2).sum())


def refined(
    space: Space,
    spline: Spline,
    ground: Bools,
    waypoints: Waypoints,
    config: RefineConfig,
    limits: Limits,
    deadline_s: float,
) -> Spline:
    """Return a spline with the same ends that costs less.

    ground (N,): control points that stay on the floor. It may still break limits or touch
    something: whoever uses it checks. deadline_s: of time.monotonic.
    """
    points = spline.points.copy()
    free = np.zeros(points.shape, np.bool_)
    free[_ENDS:-_ENDS] = True
    free[ground, 2] = False
    if not free.any() or config.iterations == 0:
        return spline
    cost = Cost(space, config, limits, spline.step_s, ground, waypoints)
    until = time.thread_time() + config.limit_s

    best: tuple[float, Floats] = (np.inf, points[free])

    def of_free(values: Floats) -> tuple[float, Floats]:
        nonlocal best
        points[free] = values
        total, gradient = cost(points)
        if total < best[0]:
            best = total, values.copy()
        if time.monotonic() > deadline_s or time.thread_time() > until:
            raise _TimeUp
        return total, gradient[free]

    size = np.array(space.ground.shape) * space.resolution_m
    low = np.broadcast_to(np.array([*space.low[:2], space.floor_m]), points.shape)[free]
    high = np.broadcast_to(np.array([*(space.low[:2] + size), space.top_m]), points.shape)[free]
    start = np.clip(points[free], low, high)
    with suppress(_TimeUp):
        minimize(
            of_free, start, jac=True, method='L-BFGS-B', bounds=np.stack((low, high), 1),
            options={'maxiter': config.iterations, 'ftol': 1e-6},
        )  # fmt: skip
    points[free] = best[1]
    return Spline(points, spline.step_s)
