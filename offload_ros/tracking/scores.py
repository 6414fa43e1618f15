"""What rollouts cost: distance, view of the person, clearance, and what is left to do after."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from offload_ros.tracking.checks import Bools, Floats, wrapped
from offload_ros.tracking.cost_to_go import Places
from offload_ros.tracking.follow_config import FollowConfig
from offload_ros.tracking.occupancy import MapView
from offload_ros.tracking.rollouts import STEP_S, Motion, Rollouts
from offload_ros.tracking.safety import Surroundings
from offload_ros.tracking.visibility import Visibility, look_from

_USUAL_AGE_S = 0.35
_OPEN_M = 1.3
_COMFORT_M = 0.25  # of free space beyond footprint and margin


@dataclass(frozen=True, eq=False)
class Scene:
    """All that one decision looks at; last: the previous command."""

    view: MapView
    around: Surroundings
    motion: Motion
    last: tuple[float, float]
    config: FollowConfig

    @cached_property
    def places(self) -> Places:
        """Return the coarse grid around the robot."""
        return Places.around(np.array([self.motion.x_m, self.motion.y_m]))

    def clearance_costs(self, rollouts: Rollouts) -> Floats:
        """Return the cost (R,) of coming close to obstacles; of touching them, prohibitive."""
        config = self.config
        room = self.around.clearance(rollouts.positions) - config.limits.footprint_m
        room = room - config.margin_m
        now = (
            float(self.around.clearance(np.array([[self.motion.x_m, self.motion.y_m]]))[0])
            - config.limits.footprint_m
            - config.margin_m
        )
        tight = np.clip(1 - room / _COMFORT_M, 0.0, 2.0) ** 2
        cost = config.weights.clearance * tight.mean(0)
        # Half a cell of slack: the robot may stand at an obstacle already.
        hit = room < min(0.0, now - 0.5 * self.view.resolution_m)
        first = np.where(hit.any(0), np.argmax(hit, 0), len(hit))
        soon = np.maximum(0.0, 1 - first / len(hit))
        return np.asarray(cost + 30.0 * soon + 10.0 * hit.any(0))


def distance_cost(away: Floats, set_point_m: float) -> Floats:
    """Return the cost of distances: quadratic near the set point, linear beyond half a metre."""
    off = np.abs(away - set_point_m) / 0.5
    return np.where(off < 1, off**2, 2 * off - 1)


def follow_costs(
    scene: Scene,
    rollouts: Rollouts,
    person: Floats,
    later: Floats,
    shares: Floats,
    looks: list[int],
    age: float,
) -> Floats:
    """Return the cost (R,) of each rollout with the person in view, age seconds ago.

    person (T, 2): expected positions; later (F, L, 2): those of every future at the steps looks,
    shares (F,) their weights.
    """
    config, weights = scene.config, scene.config.weights
    gaps = person[:, None, :] - rollouts.positions
    away = np.hypot(gaps[..., 0], gaps[..., 1])
    bearing = np.abs(wrapped(np.arctan2(gaps[..., 1], gaps[..., 0]) - rollouts.yaw))
    cost = (
        weights.distance
        * config.horizon_s
        * distance_cost(away, config.distance_m + config.reserve_m).mean(0)
    )
    edge = 0.85 * config.eye.half
    inner = min(config.turn_in_place_rad, 0.5 * edge)
    aside = np.clip((bearing - inner) / (edge - inner), 0.0, 1.0) ** 2
    cost += weights.bearing * aside.mean(0) + weights.unseen * _unseen(bearing > edge, age)
    # Driving at somebody is worse than any loss; leaving them is fine.
    start = np.hypot(person[0, 0] - scene.motion.x_m, person[0, 1] - scene.motion.y_m)
    close = np.clip(min(config.person_keep_m, start) - 0.02 - away, 0.0, None).max(0)
    cost += np.where(close > 0, 8.0 + 40.0 * close, 0.0)
    count, steps = later.shape[:2]
    sight = look_from(scene.view, later.reshape(-1, 2), 2 * config.distance_m)
    places = np.broadcast_to(rollouts.positions[looks][None], (count, steps, len(cost), 2)).reshape(
        count * steps, len(cost), 2
    )
    hidden = ~sight.sees(places).reshape(count, steps, len(cost))
    cost += weights.hidden * np.einsum('f,flr->r', shares, hidden) / steps
    v, w = scene.last
    cost += weights.change * (
        np.abs(rollouts.first_linear - v) + 0.3 * np.abs(rollouts.first_angular - w)
    )
    final = bearing[-1]
    return np.asarray(cost + weights.turn * np.clip(final - inner, 0.0, None))


def _unseen(outside: Bools, age: float) -> Floats:
    """Return the mean cost (R,) of looking elsewhere, outside (T, R): short is cheap, long is not.

    The square of the seconds since the person was in view; some age there always is.
    """
    lasting = np.full(outside.shape[1], max(0.0, age - _USUAL_AGE_S))
    total = np.zeros(outside.shape[1])
    for away in outside:
        lasting = np.where(away, lasting + STEP_S, 0.0)
        total += lasting**2
    return total / len(outside)


def good_to_follow(scene: Scene, persons: Floats, shares: Floats, now: Floats) -> Floats:
    """Return the cost (COUNT, COUNT) of being at each place when the person is at one of persons.

    persons (F, 2) with weights shares (F,); now (2,): where the person is, and no robot should be.
    """
    config, weights = scene.config, scene.config.weights
    middles = scene.places.middles
    sight = look_from(scene.view, persons, 2 * config.distance_m)
    gaps = middles[None] - persons[:, None, None, :]
    away = np.hypot(gaps[..., 0], gaps[..., 1])
    each = weights.distance * distance_cost(away, config.distance_m + config.reserve_m)
    each = each + weights.end_hidden * ~sight.sees(middles)
    cost = np.einsum('f,fxy->xy', shares, each)
    # In a corner there is no way back when the person comes.
    cost += weights.cramped * np.clip(1 - scene.view.clearance(middles) / _OPEN_M, 0.0, 1.0)
    near = np.hypot(*np.moveaxis(middles - now, -1, 0)) < config.person_keep_m
    return np.asarray(np.where(near, cost + 5.0, cost))


def search_costs(scene: Scene, rollouts: Rollouts, sight: Visibility, looks: list[int]) -> Floats:
    """Return the cost (R,) of each rollout while the person is lost; sight: from places (M, 2)."""
    weights = scene.config.weights
    here = np.array([scene.motion.x_m, scene.motion.y_m])
    now = _in_view(scene, sight, here[None, None], np.array([[scene.motion.yaw]]))[:, 0, 0]
    seen = _in_view(scene, sight, rollouts.positions[looks], rollouts.yaw[looks])
    # Where the camera looks already nothing is to be found by looking. What is seen sooner counts
    # more; what is seen twice counts once.
    worth = np.linspace(1.0, 0.6, len(looks))[None, :, None]
    found = (seen * worth).max(1)[~now].sum(0) / len(now)
    cost = weights.search * (1.0 - found)
    v, w = scene.last
    change = np.abs(rollouts.first_linear - v) + 0.3 * np.abs(rollouts.first_angular - w)
    result: Floats = cost + weights.change * change
    return result


def _in_view(scene: Scene, sight: Visibility, places: Floats, yaw: Floats) -> Bools:
    """Return whether the points of sight (M) show in pictures from places (L, R, 2) with yaw."""
    gaps = sight.points[:, None, None, :] - places[None]
    away = np.hypot(gaps[..., 0], gaps[..., 1])
    bearing = np.abs(wrapped(np.arctan2(gaps[..., 1], gaps[..., 0]) - yaw[None]))
    seen = (bearing < 0.85 * scene.config.eye.half) & (away > scene.config.eye.near_m)
    return np.asarray(seen & sight.sees(places))


def good_to_search(scene: Scene, sight: Visibility) -> Floats:
    """Return the cost (COUNT, COUNT) of each place: how much of where they may be is hidden."""
    config, weights = scene.config, scene.config.weights
    middles = scene.places.middles
    gaps = middles[None] - sight.points[:, None, None, :]
    away = np.hypot(gaps[..., 0], gaps[..., 1])
    hidden = ~sight.sees(middles)
    far = 0.25 * distance_cost(away, config.distance_m)
    return np.asarray((weights.end_hidden * 1.5 * hidden + far).mean(0))
