"""Plans a motion to a goal, coarse to fine, and returns none that it has not checked.

As AGR-Planner does it: a way of straight pieces over the whole map, a motion with limits for what
lies ahead, then a spline of both. Where the spline touches something or breaks a limit, a slower
one is tried, and in the end the way itself, at rest in its corners: that one always fits.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
import math
import time

import numpy as np
import numpy.typing as npt

from offload_ros.navigation.destination import Destination, Whither, destination, escape
from offload_ros.navigation.geometric import search
from offload_ros.navigation.kinodynamic import KinodynamicSearch
from offload_ros.navigation.lattice import Found
from offload_ros.navigation.plan_config import PlanConfig
from offload_ros.navigation.refine import Waypoints, refined
from offload_ros.navigation.space import SAMPLE_M, Space
from offload_ros.navigation.spline import Spline, fitted, stop_and_go, timed
from offload_ros.tracking.checks import Bools, Floats, finite

_RESERVE = 0.25  # share of the time that stays for the last resort
_SUNK_M = 0.3  # below the floor by less, a pose is taken as on it
_STOPPED_MPS = 1e-3
_SLOWER = ((0.6, 1.0, 1.0), (0.3, 4.0, 1e3))  # cruise, factors of clearance and feasibility
_TOO_STRETCHED = 1.5


class Status(Enum):
    """What became of a plan."""

    OK = 'ok'
    ESCAPE = 'the robot is too near to something; this motion only leads away from it'
    START_BLOCKED = 'the robot is inside of an obstacle'
    START_OUTSIDE = 'the robot is not on the map'
    GOAL_BLOCKED = 'the goal is inside of an obstacle'
    GOAL_OUTSIDE = 'the goal is not on the map, and nothing on it leads nearer'
    NO_PATH = 'no path leads to the goal'
    CANNOT_STOP = 'no motion goes on from this speed without a collision'
    TIMEOUT = 'no path was found in time'


_NOWHERE = {
    Whither.BLOCKED: Status.GOAL_BLOCKED,
    Whither.UNREACHABLE: Status.NO_PATH,
    Whither.OUTSIDE: Status.GOAL_OUTSIDE,
}


@dataclass(frozen=True, eq=False)
class Plan:
    """A motion and how it came about.

    end: where it ends, and what that is to the goal that was asked for. way (M, 3): of straight
    pieces. kind: refined | stop_and_go | escape.
    """

    status: Status
    spline: Spline | None = None
    end: Destination | None = None
    way: Floats | None = None
    kind: str = ''
    elapsed_s: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether there is a motion to follow."""
        return self.spline is not None


@dataclass(frozen=True, eq=False)
class _Task:
    """A start, its velocity and acceleration, and a goal; each (3,)."""

    space: Space
    start: Floats
    velocity: Floats
    acceleration: Floats
    goal: Floats
    deadline_s: float
    reserve_s: float


class Planner:
    """Plans; keeps nothing from one plan to the next."""

    def __init__(self, config: PlanConfig | None = None) -> None:
        self.config = config or PlanConfig()
        self._kinodynamic = KinodynamicSearch(self.config.kinodynamic, self.config.limits)
        self._step_s = self.config.refine.spacing_m / self.config.limits.speed_mps

    def plan(
        self,
        space: Space,
        start: npt.ArrayLike,
        goal: npt.ArrayLike,
        velocity: npt.ArrayLike = (0.0, 0.0, 0.0),
        acceleration: npt.ArrayLike = (0.0, 0.0, 0.0),
        limit_s: float | None = None,
    ) -> Plan:
        """Return a plan from start to rest at goal, all (3,) in the map, metres and seconds.

        A goal less than 0.1 m over the floor is on it, and so is every goal of a robot that does
        not fly. limit_s: in place of the configuration's. An escape begins at rest, whatever the
        velocity. ValueError for anything that is not finite.
        """
        begun = time.monotonic()
        place, end = finite('start', start, (3,)).copy(), finite('goal', goal, (3,))
        speed, rate = self._possible(
            space,
            place,
            finite('velocity', velocity, (3,)),
            finite('acceleration', acceleration, (3,)),
        )
        limit_s = self.config.limit_s if limit_s is None else limit_s
        task = _Task(space, place, speed, rate, end, begun + limit_s, _RESERVE * limit_s)
        return replace(self._plan(task), elapsed_s=time.monotonic() - begun)

    def _possible(
        self, space: Space, place: Floats, speed: Floats, rate: Floats
    ) -> tuple[Floats, Floats]:
        """Return velocity and acceleration (3,) as they can be, and put place (3,) on the floor.

        Odometry says that a robot moves a little into the floor, or faster than it can.
        """
        limits = self.config.limits
        speed, rate = speed.copy(), rate.copy()
        if space.floor_m - _SUNK_M < place[2] < space.floor_m or not space.body.flies:
            place[2] = space.floor_m
        if not space.body.flies:
            speed[2] = rate[2] = 0.0
        elif place[2] <= space.floor_m and speed[2] <= 0:
            speed[2], rate[2] = 0.0, max(rate[2], 0.0)
        return _shorter(speed, limits.speed_mps), _shorter(rate, limits.acceleration_mps2)

    def _plan(self, task: _Task) -> Plan:
        space, start = task.space, task.start
        if not space.inside(start):
            return Plan(Status.START_OUTSIDE)
        if not space.fits(start[None])[0]:
            return self._escape(space, start)
        config = self.config
        end = destination(space, start, task.goal, config.goal_tolerance_m, config.approach)
        if end.place is None:
            return Plan(_NOWHERE[end.kind], None, end)
        found, way = search(space, start, end.place, config.geometric, task.deadline_s)
        if found is not Found.WAY:
            return Plan(Status.NO_PATH if found is Found.NONE else Status.TIMEOUT, None, end)
        task = replace(task, goal=end.place)
        spline, kind = self._smooth(task, way), 'refined'
        if spline is None:
            spline, kind = self._last_resort(task, way), 'stop_and_go'
        if spline is None:
            return Plan(Status.CANNOT_STOP, None, end, way)
        return Plan(Status.OK, spline, end, way, kind)

    def _escape(self, space: Space, start: Floats) -> Plan:
        """Return a slow straight motion from where the robot does not fit to where it does."""
        place = escape(space, start, self.config.escape_m)
        if place is None:
            return Plan(Status.START_BLOCKED)
        limits = self.config.limits
        slow = replace(limits, speed_mps=max(0.2 * limits.speed_mps, 0.05))
        way = np.array([start, place])
        spline = stop_and_go(way, np.zeros(3), slow, self._step_s)
        return Plan(Status.ESCAPE, spline, Destination(Whither.BESIDE, place), way, 'escape')

    def _smooth(self, task: _Task, way: Floats) -> Spline | None:
        """Return the fastest refined spline that passes the check, of the first good attempts."""
        config, limits = self.config.refine, self.config.limits
        until = task.deadline_s - task.reserve_s
        still = float(np.abs(task.velocity).max()) < _STOPPED_MPS
        best: Spline | None = None
        for number in range(1 + len(_SLOWER)):
            if time.monotonic() > until:
                break
            if number == 0:
                places = self._motion(task, way, until)
                chosen = config
            else:
                cruise, clearance, feasibility = _SLOWER[number - 1]
                speed = math.sqrt(float((task.velocity**2).sum()))
                places = timed(way, speed, limits, cruise * limits.speed_mps, self._step_s)
                chosen = replace(
                    config,
                    clearance=config.clearance * clearance,
                    feasibility=config.feasibility * feasibility,
                )
            if places is None or len(places) < 2:
                continue
            spline, ground = self._guess(task, places)
            waypoints = _mode_changes(task.space, places)
            spline = refined(task.space, spline, ground, waypoints, chosen, limits, until)
            stretch = _stretch(spline, limits.speed_mps, limits.acceleration_mps2)
            if still and stretch > 1:
                # From rest, slower in time is the same path.
                spline = Spline(spline.points, spline.step_s * stretch * (1 + 1e-9))
            if self.flaw(task.space, spline, task.start, task.velocity, task.goal):
                continue
            if best is None or spline.duration_s < best.duration_s:
                best = spline
            if stretch < _TOO_STRETCHED:
                break
        return best

    def _motion(self, task: _Task, way: Floats, until: float) -> Floats | None:
        """Return places (K, 3), one each step, of the kinodynamic motion and the way beyond it."""
        lengths = np.sqrt((np.diff(way, axis=0) ** 2).sum(1))
        horizon = self.config.kinodynamic.horizon_m
        arcs = np.concatenate(([0.0], np.cumsum(lengths)))
        near = arcs[-1] <= horizon
        target = task.goal if near else _on_way(way, arcs, 1.2 * horizon)
        # On the floor where the way is, as far as the motion reaches.
        flies = bool(task.space.airborne(way[arcs < 1.5 * horizon]).any())
        flies = flies or bool(task.space.airborne(target))
        motion = self._kinodynamic.search(
            task.space, task.start, task.velocity, target, until, flies
        )
        if motion is None:
            return None
        times = np.arange(0.0, (len(motion.positions) - 1) * motion.step_s, self._step_s)
        stamps = np.arange(len(motion.positions)) * motion.step_s
        # One that came to rest at a target on the way need not stop there.
        if motion.arrived and not near:
            times = times[: max(2, round(0.7 * len(times)))]
        places = np.stack([np.interp(times, stamps, p) for p in motion.positions.T], -1)
        if motion.arrived and near:
            return np.concatenate((places, task.goal[None]))
        rest = self._rejoined(task.space, places[-1], way, arcs)
        if rest is None:
            return None
        speed = float(np.sqrt((np.diff(places[-2:], axis=0) ** 2).sum())) / self._step_s
        limits = self.config.limits
        further = timed(rest, speed, limits, max(0.7 * limits.speed_mps, speed), self._step_s)
        return np.concatenate((places, further[1:]))

    def _rejoined(self, space: Space, place: Floats, way: Floats, arcs: Floats) -> Floats | None:
        """Return the way from a place beside it to its end, joined as far ahead as is free."""
        dense = _on_way(way, arcs, np.arange(0.0, arcs[-1], 0.25))
        nearest = int(np.argmin(((dense - place) ** 2).sum(1)))
        for ahead in (8, 5, 3, 1):
            number = min(nearest + ahead, len(dense) - 1)
            if space.line_fits(place, dense[number]):
                after = way[arcs > number * 0.25 + 1e-6]
                return np.concatenate((place[None], dense[number][None], after))
        return None

    def _guess(self, task: _Task, places: Floats) -> tuple[Spline, Bools]:
        """Return a spline through places and which control points (N,) are on the floor."""
        spline = fitted(places, task.velocity, task.acceleration, self._step_s)
        points = spline.points.copy()
        floor = task.space.floor_m
        low = ~task.space.airborne(places)
        ground = np.zeros(len(points), np.bool_)
        # Control point k + 1 belongs to place k.
        count = min(len(places), len(points) - 2)
        ground[1 : count + 1] = low[:count]
        ground[0], ground[-1] = ground[1], low[-1]
        ground[-3:] = low[-1]
        inner = np.zeros(len(points), np.bool_)
        inner[3:-3] = True
        points[ground & inner, 2] = floor
        points[inner, 2] = np.maximum(points[inner, 2], floor)
        return Spline(points, spline.step_s), ground

    def _last_resort(self, task: _Task, way: Floats) -> Spline | None:
        """Return the motion along the way that rests in its corners, after braking if it moves."""
        spline = stop_and_go(way, task.velocity, self.config.limits, self._step_s)
        if spline is None or self.flaw(task.space, spline, task.start, task.velocity, task.goal):
            return None
        return spline

    def flaw(
        self, space: Space, spline: Spline, start: Floats, velocity: Floats, goal: Floats
    ) -> str:
        """Return what is wrong with a motion from start with that velocity to goal, or nothing."""
        if not spline.keeps(self.config.limits):
            return 'it breaks the limits of speed or acceleration'
        _, places = spline.sampled(SAMPLE_M)
        # To a micrometre: splines add up what their control points were computed from.
        if np.abs(places[0] - start).max() > 1e-6 or np.abs(places[-1] - goal).max() > 1e-6:
            return 'it does not start and end where it should'
        if np.abs(spline.at(0.0)[1] - velocity).max() > 1e-6:
            return 'it does not start as fast as it should'
        if not space.fits(places).all():
            return 'it touches something'
        return ''


def _shorter(vector: Floats, limit: float) -> Floats:
    length = math.sqrt(float((vector**2).sum()))
    return vector if length <= limit else vector * (limit / length)


def _stretch(spline: Spline, speed: float, acceleration: float) -> float:
    """Return by what factor a spline must be slower to keep the limits; below 1: it keeps them."""
    fastest, hardest = spline.peaks()
    return max(fastest / speed, math.sqrt(hardest / acceleration))


def _on_way(way: Floats, arcs: Floats, at: Floats | float) -> Floats:
    return np.stack([np.interp(at, arcs, way[:, axis]) for axis in range(3)], -1)


def _mode_changes(space: Space, places: Floats) -> Waypoints:
    """Return the places where it takes off or lands as waypoints; those at the ends are fixed."""
    up = space.airborne(places)
    change = np.flatnonzero(up[1:] != up[:-1])
    # Of both places beside a change, the one on the floor.
    knots = np.where(up[change], change + 1, change)
    knots = np.unique(knots[(knots >= 2) & (knots < len(places) - 2)])
    return Waypoints(knots, places[knots])
