"""Keeps map, plan and motion up to date: a state machine in the manner of AGR-Planner's.

AGRNav (ICRA 2024) goes from waiting for a goal to planning, executing and replanning, a second
later or on a collision. Added here: emergency stops, goals that cannot be reached, places and scans
that are missing or jump. No thread and no clock of its own: the caller tells the time.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from offload_ros.navigation.destination import Destination, Whither
from offload_ros.navigation.doubts import CLOSED, doubt, planned_from_rest, takes_off
from offload_ros.navigation.following import Setpoint, Timed
from offload_ros.navigation.plan_config import PlanConfig
from offload_ros.navigation.planner import Plan, Planner, Status
from offload_ros.navigation.replan_config import Outcome, ReplanConfig, Report, State
from offload_ros.navigation.space import Body, Space, SpaceBuilder
from offload_ros.navigation.voxel_map import VoxelMap, VoxelMapConfig
from offload_ros.navigation.voxels import GridPose, VoxelGrid
from offload_ros.tracking.checks import Floats, finite, require

_REACTION_S = 0.1  # from noticing to braking
_BACK_S = 1.0  # by which a clock that goes back began anew; a message may just be late
_CLOSER_M = 0.2
_SAME_PLACE_M, _HELD_MPS, _FELT_VOXELS = 0.15, 0.1, 3.0


class Replanning:
    """Feed it poses, scans, predictions and a goal; call ``step`` some times a second.

    Frames: everything is in the map's fixed frame, metres and seconds. ``setpoint`` may be called
    from another thread while ``step`` plans; nothing else may.
    """

    def __init__(
        self,
        voxels: VoxelMapConfig | None = None,
        body: Body | None = None,
        plan: PlanConfig | None = None,
        config: ReplanConfig | None = None,
    ) -> None:
        self.config = config or ReplanConfig()
        self.voxels = VoxelMap(voxels)
        self.planner = Planner(plan)
        self._builder = SpaceBuilder(body)
        self._now_s = -math.inf
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._goal: Floats | None = None
        self._held = np.full(3, np.inf)
        self._outcome = Outcome.OPEN
        self._status: Status | None = None
        self._end: Destination | None = None
        self._stage_m = math.inf
        self._pose_s, self._place, self._velocity = -math.inf, np.zeros(3), np.zeros(3)
        self._reason = ''
        self._drop_map()

    def _drop_map(self) -> None:
        """Forget map and motion; the goal stays."""
        centre = float(self._place[0]), float(self._place[1])
        self.voxels = VoxelMap(self.voxels.config, centre)
        self._space: Space | None = None
        self._scan_s, self._map_s = -math.inf, self._pose_s
        self._state = State.BLIND
        self._stop_motion()

    def _stop_motion(self) -> None:
        # One tuple, so that another thread sees motions that belong together.
        self._motions: tuple[Timed, ...] = ()
        self._planned: tuple[Plan, Floats] | None = None
        self._retry_s = self._failed_s = -math.inf

    # ---- what comes in

    def pose(self, stamp_s: float, place: npt.ArrayLike, velocity: npt.ArrayLike) -> bool:
        """Take the robot's place and velocity (3,); return whether it jumped there.

        After a jump map and motion are dropped, and the robot stands until a scan came; the goal
        stays. A stamp that is older than the last is left out; one older by more than a second is
        of a clock that began anew, and everything is forgotten. ValueError if not finite.
        """
        where, speed = finite('place', place, (3,)), finite('velocity', velocity, (3,))
        require(math.isfinite(stamp_s), f'stamp_s must be finite, not {stamp_s!r}')
        if stamp_s < self._pose_s - _BACK_S:
            self._now_s = -math.inf
            self._begin_anew()
        elif stamp_s < self._pose_s:
            return False
        passed_s = stamp_s - self._pose_s
        first = not math.isfinite(passed_s)
        far = self.config.jump_m + 2 * self.planner.config.limits.speed_mps * passed_s
        jumped = not first and math.dist(where, self._place) > far
        self._pose_s, self._place, self._velocity = stamp_s, where.copy(), speed.copy()
        if jumped or first:
            self._drop_map()
            self._reason = 'the odometry jumped' if jumped else ''
        elif self.voxels.follow(where[:2]):
            self._space = None
        return jumped

    def scan(
        self, stamp_s: float, origin: npt.ArrayLike, ends: npt.ArrayLike, hit: npt.ArrayLike
    ) -> None:
        """Take rays of a lidar or depth camera, as ``VoxelMap.insert`` does.

        What is older than the map, as after a jump, is left out.
        """
        if stamp_s >= self._map_s:
            self.voxels.insert(origin, ends, hit)
            self._scan_s, self._space = max(stamp_s, self._scan_s), None

    def complete(
        self, stamp_s: float, labels: npt.NDArray[np.uint8], grid: VoxelGrid, pose: GridPose
    ) -> None:
        """Take a network's prediction, as ``VoxelMap.complete`` does.

        stamp_s: of the input, not of its coming. What is older than the map is left out.
        """
        if stamp_s >= self._map_s:
            self.voxels.complete(labels, grid, pose)
            self._space = None

    def goal(self, place: npt.ArrayLike | None) -> None:
        """Take a goal (3,) in place of the last; None: stop. ValueError if it is not finite."""
        if place is None:
            if self._goal is not None:
                self._outcome = Outcome.CANCELLED
            self._goal = None
            return
        self._goal = finite('goal', place, (3,)).copy()
        self._outcome, self._status, self._stage_m = Outcome.OPEN, None, math.inf
        self._retry_s = self._failed_s = -math.inf
        self._held = np.full(3, np.inf)
        self.voxels.trust()

    # ---- what goes out

    def setpoint(self, now_s: float) -> Setpoint | None:
        """Return where the robot should be; None: it should stand, wherever it is."""
        current = _current(self._motions, now_s)
        return None if current is None else current.at(now_s)

    def report(self) -> Report:
        """Return what it is doing, as of the last step."""
        motions = self._motions
        end = motions[-1].plan.end if motions else self._end
        return Report(self._state, self._reason, self._status, end, self._outcome)

    @property
    def motion(self) -> Timed | None:
        """The newest motion, which may not have begun."""
        motions = self._motions
        return motions[-1] if motions else None

    def space(self) -> Space:
        """Return where the robot fits, by the map as it is now."""
        if self._space is None:
            body = self._builder.body
            radius = max(body.ground_radius_m, body.air_radius_m)
            height = max(body.ground_height_m, 2 * body.air_radius_m)
            # Whatever a network says, where the robot is there is nothing else.
            self.voxels.clear_predicted(self._place, radius, height)
            self._space = self._builder.build(self.voxels)
        return self._space

    # ---- what it does

    def step(self, now_s: float) -> Report:
        """Do what is due; return at the latest after a plan's limit of time and a map's renewal."""
        require(math.isfinite(now_s), f'now_s must be finite, not {now_s!r}')
        if now_s < self._now_s - _BACK_S:
            self._begin_anew()
        self._now_s = now_s
        missing = self._missing(now_s)
        self._motions = tuple(
            m for m in self._motions if m is _current(self._motions, now_s) or m.begins_s > now_s
        )
        if missing:
            if self._motions:
                self._brake(now_s, missing)
            else:
                self._state, self._reason, self._planned = State.BLIND, missing, None
        elif self._motions:
            self._follow(now_s)
        elif self._goal is None:
            self._state, self._planned = State.WAITING, None
        else:
            self._from_rest(now_s, self._goal)
        return self.report()

    def _missing(self, now_s: float) -> str:
        if now_s - self._pose_s > self.config.pose_timeout_s:
            return 'no odometry comes'
        if now_s - self._scan_s > self.config.scan_timeout_s:
            return 'no scans come'
        return ''

    def _brake(self, now_s: float, reason: str) -> None:
        """Stop on the path; once at rest, forget the motion."""
        current = _current(self._motions, now_s)
        if current is None or now_s >= current.ends_s:
            self._stop_motion()
            self._state = State.BLIND if self._missing(now_s) else State.PLANNING
        else:
            hardest = self.planner.config.limits.acceleration_mps2
            self._motions = (current.braked(now_s, hardest),)
            self._state = State.STOPPING
        self._reason = reason

    def _from_rest(self, now_s: float, goal: Floats) -> None:
        self._state = State.PLANNING
        if self._planned is not None:
            # Planned in the last step: it begins now, however long that took.
            self._motions = (Timed(*self._planned, now_s),)
            self._planned, self._state, self._reason = None, State.FOLLOWING, ''
            return
        if math.sqrt(float((self._velocity**2).sum())) > self.config.still_mps:
            self._reason = 'waits until the robot stands'
            return
        if now_s < self._retry_s:
            return
        plan = planned_from_rest(self.planner, self.voxels, self.space(), self._place, goal)
        self._space = None  # predictions may be doubted now
        self._status, self._reason, self._end = plan.status, plan.status.value, plan.end
        circles = plan.status is Status.OK and not self._nearer(plan, goal)
        if circles:
            self._status, self._reason = Status.GOAL_OUTSIDE, Status.GOAL_OUTSIDE.value
        if plan.ok and not circles:
            self._planned = plan, goal
        if plan.status is Status.OK and not circles:
            self._failed_s = -math.inf
            return
        self._retry_s = now_s + self.config.retry_s
        if self._failed_s == -math.inf:
            self._failed_s = now_s
        if now_s - self._failed_s >= self.config.give_up_s:
            self._planned = None
            self._goal, self._outcome, self._state = None, Outcome.GIVEN_UP, State.WAITING

    def _goes_on(self, now_s: float) -> bool:
        """Do without predictions on the present motion; return whether nothing else is on it."""
        if not self.voxels.predicted.any():
            return False
        doubt(self.voxels, self._builder.body, self._motions[-1].ahead(now_s))
        self._space = None
        return self._blocked_in(now_s) is None

    def _nearer(self, plan: Plan, goal: Floats) -> bool:
        """Return whether a stage ends nearer to a goal outside the map than all before."""
        if plan.end is None or plan.end.place is None or plan.end.kind is not Whither.STAGE:
            return True
        return math.dist(plan.end.place, goal) < self._stage_m - _CLOSER_M

    def _follow(self, now_s: float) -> None:
        newest = self._motions[-1]
        current = _current(self._motions, now_s) or newest
        if current.brakes:
            self._brake(now_s, self._reason)
            return
        self._state = State.FOLLOWING
        if self._goal is None:
            self._brake(now_s, 'the goal was taken back')
            return
        if now_s >= newest.ends_s:
            self._at_the_end(now_s, newest, self._goal)
            return
        if math.dist(current.at(self._pose_s).position, self._place) > self.config.off_motion_m:
            self._feel(current.at(self._pose_s).position)
            self._brake(now_s, 'the robot is not where it should be')
            return
        if newest.plan.status is Status.ESCAPE:
            return
        lead_s = self.config.lead_s
        blocked_s = self._blocked_in(now_s)
        if blocked_s is not None:
            # A brake covers half of what the motion would in that time.
            hardest = self.planner.config.limits.acceleration_mps2
            stopping_s = current.fastest(now_s, lead_s) / hardest / 2
            if blocked_s < lead_s + stopping_s + _REACTION_S:
                self._brake(now_s, 'something is in the way, and near')
            elif now_s >= self._retry_s:
                self._replan(now_s, self._goal, 'something is in the way', True, blocked=True)
        elif math.dist(newest.asked, self._goal) > self.config.goal_moved_m:
            if not self._replan(now_s, self._goal, 'the goal moved', must=True):
                self._brake(now_s, f'the goal moved: {self._reason}')
        elif self._due(now_s, newest):
            self._replan(now_s, self._goal, '', must=False)

    def _feel(self, due: Floats) -> None:
        """Where the robot is held a second time in the same place, something is that no ray meets:
        it is marked ahead, in the direction of where the robot should be, (3,)."""
        held = math.dist(self._held, self._place) < _SAME_PLACE_M
        self._held = self._place.copy()
        ahead = due - self._place
        far = math.hypot(*ahead[:2])
        if not held or far < 1e-6 or math.sqrt(float((self._velocity**2).sum())) > _HELD_MPS:
            return
        body, step = self._builder.body, self.voxels.config.resolution_m
        # Far enough not to shut the robot in.
        apart = max(body.ground_radius_m, body.air_radius_m) + _FELT_VOXELS * step
        place = self._place + np.array([*(ahead[:2] / far * apart), 0.0])
        self.voxels.feel(place, step, body.ground_height_m)
        self._space = None

    def _due(self, now_s: float, newest: Timed) -> bool:
        config = self.config
        since = now_s - (newest.begins_s - config.lead_s)
        left = newest.ends_s - now_s
        return since >= config.period_s and now_s >= self._retry_s and left > 2 * config.lead_s

    def _blocked_in(self, now_s: float) -> float | None:
        current, newest = _current(self._motions, now_s) or self._motions[-1], self._motions[-1]
        until_s = math.inf if current is newest else newest.begins_s
        found = current.blocked_in(self.space(), now_s, until_s)
        if found is None and current is not newest:
            found = newest.blocked_in(self.space(), newest.begins_s)
            found = None if found is None else found + newest.begins_s - now_s
        return found

    def _replan(
        self, now_s: float, goal: Floats, reason: str, must: bool, blocked: bool = False
    ) -> bool:
        """Plan from where the robot will be; return whether a new motion takes over there, or a
        blocked one may go on."""
        config, space = self.config, self.space()
        self._state, self._reason = State.REPLANNING, reason
        begins_s = now_s + config.lead_s
        running = _current(self._motions, begins_s) or self._motions[-1]
        state = running.at(begins_s)
        plan = self.planner.plan(
            space, state.position, goal, state.velocity, state.acceleration, config.lead_s
        )
        self._status = plan.status
        self._retry_s = now_s + config.retry_s
        self._state = State.FOLLOWING
        if plan.status is not Status.OK or plan.elapsed_s > config.lead_s:
            self._reason = plan.status.value if plan.status is not Status.OK else 'planned too late'
            return blocked and plan.status in CLOSED and self._goes_on(now_s)
        if takes_off(space, plan) and self.voxels.predicted.any():
            # Whether that pays without predictions is found out at rest.
            self._reason = 'a prediction is in the way'
            return blocked and self._goes_on(now_s)
        new = Timed(plan, goal, begins_s)
        if not must and not self._better(new, running, goal):
            return False
        current = _current(self._motions, now_s) or running
        self._motions = (new,) if now_s >= begins_s else (current, new)
        return True

    def _better(self, new: Timed, old: Timed, goal: Floats) -> bool:
        """Return whether a motion ends nearer to the goal than another, or as near but cheaper."""
        ends = [each.spline.at(each.spline.duration_s)[0] for each in (new, old)]
        nearer = math.dist(ends[1], goal) - math.dist(ends[0], goal)
        if abs(nearer) > _CLOSER_M:
            return nearer > 0
        space, price = self.space(), self.config.air_price
        prices = [each.price(space, new.begins_s, price) for each in (new, old)]
        return prices[0] < self.config.keep * prices[1]

    def _at_the_end(self, now_s: float, newest: Timed, goal: Floats) -> None:
        end = newest.plan.end
        stage = end is None or end.kind is Whither.STAGE or newest.plan.status is Status.ESCAPE
        moved = math.dist(newest.asked, goal) > self.config.goal_moved_m
        place = newest.at(now_s).position
        if stage or moved:
            if end is not None and end.kind is Whither.STAGE:
                self._stage_m = min(self._stage_m, math.dist(place, newest.asked))
            self._stop_motion()
            self._from_rest(now_s, goal)
        elif math.dist(place, self._place) <= self.config.arrived_m:
            self._stop_motion()
            self._goal, self._outcome = None, Outcome.ARRIVED
            self._state, self._end = State.WAITING, end
            self._reason = 'arrived' if end is None else f'arrived: {end.kind.value}'
        elif now_s > newest.ends_s + self.config.settle_s:
            self._brake(now_s, 'the robot did not come to the end')


def _current(motions: tuple[Timed, ...], now_s: float) -> Timed | None:
    """Return the motion that is due at a time: the last that has begun, or the first."""
    begun = [each for each in motions if each.begins_s <= now_s]
    return begun[-1] if begun else (motions[0] if motions else None)
