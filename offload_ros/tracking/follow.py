"""Follows a person at a distance, keeps them in view, and looks for them when they are lost."""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from offload_ros.tracking.checks import Floats, finite, require, wrapped_angle
from offload_ros.tracking.cost_to_go import cost_to_go, descent, driving_cost
from offload_ros.tracking.follow_config import FollowConfig
from offload_ros.tracking.kalman import Gaussian, predict
from offload_ros.tracking.legs import ScanFilter, unmapped
from offload_ros.tracking.occupancy import MapView
from offload_ros.tracking.rollouts import (
    STEP_S,
    Candidates,
    Motion,
    Rollouts,
    following,
    roll_out,
    searching,
)
from offload_ros.tracking.safety import Surroundings, safe_command
from offload_ros.tracking.scores import (
    Scene,
    follow_costs,
    good_to_follow,
    good_to_search,
    search_costs,
)
from offload_ros.tracking.tracks import Track
from offload_ros.tracking.visibility import look_from
from offload_ros.tracking.whereabouts import Whereabouts, futures

WAITING, FOLLOWING, SEARCHING, LOST, STALE = 'waiting', 'following', 'searching', 'lost', 'stale'
_SAMPLES = 12
_WAY_STEPS = (3, 6)
_STAY_S = 3.0
_SCAN_REACH_M = 6.0
_WAY_S_PER_M = 0.7
_LOOKS_S = (0.6, 1.25, 2.0)


@dataclass(frozen=True, eq=False)
class Target:
    """The person to follow: the filter's belief at seen_s, when they were last detected."""

    belief: Gaussian
    seen_s: float
    intensity: float = 1.0

    @staticmethod
    def of(track: Track) -> Target:
        """Return the target that a tracker's track is."""
        filtered = track.filtered
        return Target(filtered.belief, filtered.seen_s, filtered.noise.intensity)


@dataclass(frozen=True, eq=False)
class Scan:
    """Points (N, 2) of the lidar in the robot's frame (x forward), of the instant stamp_s."""

    points: Floats
    stamp_s: float

    def __post_init__(self) -> None:
        object.__setattr__(self, 'points', finite('points', self.points, (None, 2)))
        require(math.isfinite(self.stamp_s), 'a stamp must be finite')


@dataclass(frozen=True, eq=False)
class Command:
    """Speeds for the robot, what it is doing and why; person (2,): where it expects them now."""

    linear_mps: float
    angular_radps: float
    mode: str
    reason: str = ''
    person: Floats | None = None


class Follower:
    """The controller. Call ``command`` at a steady rate (10 Hz) and ``nobody`` for empty frames."""

    def __init__(self, config: FollowConfig | None = None, seed: int = 0) -> None:
        """Begin without a target."""
        self.config = config or FollowConfig()
        self._following = following(self.config.limits)
        self._searching = searching(self.config.limits)
        self._where = Whereabouts(self.config.walk, seed)
        self._walked_s = -math.inf
        self._called_s = -math.inf
        self._chosen = (0.0, 0.0)
        self._scans = ScanFilter()
        self._plan: tuple[int, int] | None = None
        self._last = (0.0, 0.0)

    def reconfigure(self, config: FollowConfig) -> None:
        """Follow by other rules from the next command on; what is known of the person stays."""
        if config == self.config:
            return
        self.config = config
        self._following = following(config.limits)
        self._searching = searching(config.limits)
        self._plan = None

    @property
    def whereabouts(self) -> Floats:
        """Return where the person may be, (N, 2); empty before there was a target."""
        return self._where.positions

    def nobody(self, camera: tuple[float, float, float], view: MapView) -> None:
        """Take note that the target was not in a picture taken at camera (x, y, yaw)."""
        self._where.not_seen(camera, self.config.eye.half, self.config.eye.far_m * 0.8, view)

    def command(
        self,
        now_s: float,
        motion: Motion,
        motion_s: float,
        scan: Scan | None,
        view: MapView,
        target: Target | None,
        result_s: float,
    ) -> Command:
        """Return the speeds for now.

        motion is the robot's at motion_s in the frame of the map view; result_s is the stamp of the
        newest result, with or without a person. Input that is missing or too old stops the robot.
        """
        config = self.config
        missing = self._missing(now_s, motion, motion_s, scan, result_s)
        if missing or scan is None:
            return self._stop(STALE, missing)
        if target is None:
            return self._look_around(now_s, motion)
        age = now_s - target.seen_s
        here = np.array([motion.x_m, motion.y_m])
        points = _in_map(scan.points, motion)
        self._scans.add(scan.stamp_s, points, here, view)
        person = self._person(target, now_s)
        self._update(now_s, person, age, view)
        if age > config.search_s:
            return self._stop(LOST, f'the person has not been seen for {age:.0f} s')
        legs, _ = self._scans.newest
        around = Surroundings(view, points, here, legs, config.people_extra_m)
        scene = Scene(view, around, motion, self._last, config)
        if age <= config.fresh_s:
            mode, at = FOLLOWING, self._follow_scene(scene, person, max(age, 0.0))
        else:
            mode, at = SEARCHING, self._search_scene(scene)
        linear, angular = self._limited(now_s, motion)
        linear, angular = safe_command(
            linear,
            angular,
            motion.linear_mps,
            motion.angular_radps,
            scan.points,
            config.limits,
            config.margin_m,
            config.reaction_s,
            np.where(unmapped(points, view), config.people_extra_m, 0.0),
        )
        self._last = (linear, angular)
        reason = '' if mode == FOLLOWING else f'not seen for {age:.1f} s'
        return Command(linear, angular, mode, reason, at)

    def _look_around(self, now_s: float, motion: Motion) -> Command:
        """Turn on the spot until there is somebody to follow."""
        rate = min(self.config.look_around_radps, self.config.limits.angular_radps)
        if not rate:
            return self._stop(WAITING, 'nobody to follow yet')
        self._chosen, self._plan = (0.0, rate), None
        self._last = self._limited(now_s, motion)
        return Command(*self._last, WAITING, 'nobody to follow yet: it looks around')

    def _limited(self, now_s: float, motion: Motion) -> tuple[float, float]:
        """Return the chosen speeds, no further from the present ones than the wheels can come."""
        limits = self.config.limits
        time_s = min(max(now_s - self._called_s, 0.02), 0.2) + self.config.reaction_s
        self._called_s = now_s
        result = []
        for wish, present, most in (
            (self._chosen[0], motion.linear_mps, limits.linear_mps2 * time_s),
            (self._chosen[1], motion.angular_radps, limits.angular_radps2 * time_s),
        ):
            result.append(min(max(wish, present - most), present + most))
        return result[0], result[1]

    def _missing(
        self, now_s: float, motion: Motion, motion_s: float, scan: Scan | None, result_s: float
    ) -> str:
        """Return what is missing or too old, or nothing."""
        config = self.config
        values = (now_s, motion.x_m, motion.y_m, motion.yaw)
        speeds = (motion.linear_mps, motion.angular_radps)
        if not all(math.isfinite(value) for value in (*values, *speeds)):
            return 'the pose is not finite'
        if not now_s - motion_s <= config.pose_timeout_s:
            return f'the pose is older than {config.pose_timeout_s:g} s'
        if scan is None or not now_s - scan.stamp_s <= config.scan_timeout_s:
            return f'the scan is missing or older than {config.scan_timeout_s:g} s'
        if not now_s - result_s <= config.result_timeout_s:
            return f'results are missing or older than {config.result_timeout_s:g} s'
        return ''

    def _stop(self, mode: str, reason: str) -> Command:
        self._last, self._plan = (0.0, 0.0), None
        return Command(0.0, 0.0, mode, reason)

    def _person(self, target: Target, now_s: float) -> Gaussian:
        """Return the belief about the target now."""
        age = max(now_s - target.seen_s, 0.0)
        if age <= self.config.fresh_s:
            return self._scans.carried(target.belief, target.seen_s, now_s, target.intensity)
        return predict(target.belief, age, target.intensity)

    def _update(self, now_s: float, person: Gaussian, age: float, view: MapView) -> None:
        """Keep the cloud of places where the person may be."""
        passed = min(now_s - self._walked_s, 1.0) if math.isfinite(self._walked_s) else 0.0
        self._walked_s = now_s
        if age <= self.config.fresh_s or not len(self._where.positions):
            self._where.seen(person)
        elif passed > 0:
            self._where.walk(passed, view)
            points, origin = self._scans.newest
            self._where.not_scanned(origin, points, _SCAN_REACH_M, view)

    def _follow_scene(self, scene: Scene, belief: Gaussian, age: float) -> Floats:
        config = self.config
        steps = round(config.horizon_s / STEP_S)
        times = STEP_S * np.arange(1, steps + 1)
        asked = np.concatenate([times, [config.horizon_s + config.look_ahead_s]])
        paths, shares = futures(belief, scene.view, asked, config.walk)
        # The expected person, for distance and bearing, is mostly the one who goes on.
        expected = paths[0, :-1]
        good = good_to_follow(scene, paths[:, -1], shares, belief.position)
        field, candidates = self._ways(scene, good, self._following)
        rollouts = roll_out(scene.motion, candidates, expected, config)
        looks = [min(steps - 1, round(at / STEP_S) - 1) for at in _LOOKS_S]
        costs = follow_costs(scene, rollouts, expected, paths[:, looks], shares, looks, age)
        self._choose(scene, rollouts, field, costs)
        return belief.position

    def _search_scene(self, scene: Scene) -> Floats:
        config = self.config
        samples = self._where.samples(_SAMPLES, 0.6)
        here = np.array([scene.motion.x_m, scene.motion.y_m])
        nearest = samples[int(np.argmin(np.hypot(*(samples - here).T)))]
        steps = round(config.horizon_s / STEP_S)
        sight = look_from(scene.view, samples, config.eye.far_m)
        field, candidates = self._ways(scene, good_to_search(scene, sight), self._searching)
        person = np.broadcast_to(nearest, (steps, 2))
        rollouts = roll_out(scene.motion, candidates, person, config)
        looks = [min(steps - 1, round(at / STEP_S) - 1) for at in _LOOKS_S]
        costs = search_costs(scene, rollouts, sight, looks)
        self._choose(scene, rollouts, field, costs)
        return self._where.weights @ self._where.positions

    def _ways(
        self, scene: Scene, being: Floats, candidates: Candidates
    ) -> tuple[Floats, Candidates]:
        """Return what is left to do from every place, and candidates that know the way."""
        config = self.config
        driving = driving_cost(
            scene.places,
            scene.view,
            config.limits.footprint_m,
            config.margin_m,
            config.weights.travel,
        )
        # On the way, too, every place costs what it costs to be there.
        field = cost_to_go(_STAY_S * being, driving + _WAY_S_PER_M * being)
        here = np.array([scene.motion.x_m, scene.motion.y_m])
        ways = [
            math.atan2(gap[1], gap[0])
            for gap in (
                place - here for place in descent(scene.places, field, driving, here, _WAY_STEPS)
            )
        ]
        return field, candidates.towards(tuple(ways))

    def _choose(self, scene: Scene, rollouts: Rollouts, field: Floats, costs: Floats) -> None:
        end = scene.places.value(field, rollouts.positions[-1])
        costs = costs + self.config.weights.end * end + scene.clearance_costs(rollouts)
        # Between almost equal plans it would waver, and do neither.
        if self._plan is not None and self._plan[0] == len(costs):
            costs[self._plan[1]] -= self.config.weights.commit
        best = int(np.argmin(costs))
        self._plan = len(costs), best
        self._chosen = float(rollouts.first_linear[best]), float(rollouts.first_angular[best])


def _in_map(points: Floats, motion: Motion) -> Floats:
    yaw = wrapped_angle(motion.yaw)
    c, s = math.cos(yaw), math.sin(yaw)
    turned = points @ np.array([[c, s], [-s, c]])
    result: Floats = turned + np.array([motion.x_m, motion.y_m])
    return result
