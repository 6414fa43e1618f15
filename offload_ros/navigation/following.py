"""Motions set in time: where the robot should be now, from one motion to the next, and braking."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
import math

import numpy as np

from offload_ros.navigation.planner import Plan
from offload_ros.navigation.space import SAMPLE_M, Space
from offload_ros.navigation.spline import Spline
from offload_ros.tracking.checks import Floats


@dataclass(frozen=True, eq=False)
class Setpoint:
    """Where the robot should be, how fast and with what acceleration, each (3,): m, m/s, m/s²."""

    position: Floats
    velocity: Floats
    acceleration: Floats


@dataclass(frozen=True, eq=False)
class Timed:
    """A plan's motion that begins at a time of the caller's clock.

    asked (3,): the goal it was planned for. From ``braked_s`` on it is followed more and more
    slowly, and rests ``braking_s`` later: on the path, since only that was checked. While it brakes
    in a bend, both accelerations add up, to at most twice the limit.
    """

    plan: Plan
    asked: Floats
    begins_s: float
    braked_s: float = math.inf
    braking_s: float = 0.0

    @cached_property
    def spline(self) -> Spline:
        """The motion itself; only plans that have one are set in time."""
        assert self.plan.spline is not None
        return self.plan.spline

    @cached_property
    def _path(self) -> tuple[Floats, Floats]:
        return self.spline.sampled(SAMPLE_M)

    @property
    def ends_s(self) -> float:
        """When it comes to rest."""
        end_s = self.begins_s + self.spline.duration_s
        if self.braked_s >= end_s:
            return end_s
        # A brake that outlasts the motion ends with the clock of the brake all the same.
        return self.braked_s + self.braking_s

    @property
    def brakes(self) -> bool:
        """Whether it has been told to stop."""
        return self.braked_s < math.inf

    def phase(self, now_s: float) -> tuple[float, float]:
        """Return the time along the spline, and how fast that runs: 1, or less when braking."""
        past = now_s - self.braked_s
        if past <= 0:
            return now_s - self.begins_s, 1.0
        if past >= self.braking_s:
            return self.braked_s - self.begins_s + self.braking_s / 2, 0.0
        share = past / self.braking_s
        return self.braked_s - self.begins_s + past * (1 - share / 2), 1 - share

    def at(self, now_s: float) -> Setpoint:
        """Return what is due at a time; before the begin and after the end, rest."""
        time, rate = self.phase(now_s)
        position, velocity, acceleration = self.spline.at(time)
        slowing = velocity / self.braking_s if 0 < rate < 1 else 0.0
        return Setpoint(position, velocity * rate, acceleration * rate**2 - slowing)

    def braked(self, now_s: float, deceleration: float) -> Timed:
        """Return the same motion that stops from now on; unchanged if it does so already."""
        if self.brakes:
            return self
        # It may be about to speed up.
        ahead_s = self.fastest(now_s, 0.0) / deceleration
        speed = self.fastest(now_s, ahead_s)
        return replace(self, braked_s=now_s, braking_s=max(speed / deceleration, 0.05))

    def fastest(self, now_s: float, ahead_s: float) -> float:
        """Return the largest speed from now until ahead_s later, m/s."""
        begun = self.phase(now_s)[0]
        _, velocity, _ = self.spline.at(begun + np.linspace(0.0, ahead_s, 11))
        return float(np.sqrt((velocity**2).sum(-1).max()))

    def blocked_in(self, space: Space, now_s: float, until_s: float = math.inf) -> float | None:
        """Return the seconds until it would touch something before until_s; None: it will not."""
        begun = self.phase(now_s)[0]
        times, places = self._path
        ahead = (times >= begun) & (times <= until_s - self.begins_s)
        bad = np.flatnonzero(~space.fits(places[ahead]))
        return float(times[ahead][bad[0]] - begun) if len(bad) else None

    def ahead(self, now_s: float) -> Floats:
        """Return places (N, 3) along what is left of it."""
        times, places = self._path
        left: Floats = places[times >= min(self.phase(now_s)[0], times[-1])]
        return left

    def price(self, space: Space, from_s: float, air_price: float) -> float:
        """Return what is left from a time on, in seconds; those in the air count air_price."""
        times, places = self._path
        up = space.airborne(places)
        left = np.diff(np.maximum(times, from_s - self.begins_s))
        return float((left * np.where(up[1:] | up[:-1], air_price, 1.0)).sum())
