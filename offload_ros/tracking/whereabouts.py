"""Where the person will be, and where a lost person may be.

While the person is seen, a few futures with weights: going on, slowing down, turning. Once lost, a
cloud of particles that walk as people do and that vanish where the camera looks and sees nobody.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np

from offload_ros.tracking.checks import Bools, Floats, within
from offload_ros.tracking.kalman import Gaussian
from offload_ros.tracking.occupancy import MapView
from offload_ros.tracking.visibility import in_sight

# Turn in radians, share of the speed, weight.
FUTURES = ((0.0, 1.0, 0.5), (0.0, 0.2, 0.14), (0.9, 0.9, 0.18), (-0.9, 0.9, 0.18))


@dataclass(frozen=True)
class WalkConfig:
    """How people walk: the body keeps clearance_m to obstacles, and a speed lasts persist_s."""

    particles: int = 240
    clearance_m: float = 0.2
    speed_min_mps: float = 0.4
    speed_max_mps: float = 1.2
    persist_s: float = 3.0
    stand_share: float = 0.2
    detect_share: float = 0.8

    def __post_init__(self) -> None:
        within('particles', self.particles, 10, 5000)
        within('clearance_m', self.clearance_m, 0.0, 1.0)
        within('speed_min_mps', self.speed_min_mps, 0.0, 5.0)
        within('speed_max_mps', self.speed_max_mps, self.speed_min_mps, 10.0)
        within('persist_s', self.persist_s, 0.1, 600.0)
        within('stand_share', self.stand_share, 0.0, 1.0)
        within('detect_share', self.detect_share, 0.01, 0.999)


def futures(
    belief: Gaussian, view: MapView, times_s: Floats, config: WalkConfig
) -> tuple[Floats, Floats]:
    """Return positions (F, T, 2) at times_s (T,) from now, and weights (F,) that sum to 1.

    Nobody walks into an obstacle: a future ends where it would.
    """
    speed = float(np.hypot(*belief.velocity))
    velocity = belief.velocity * min(1.0, config.speed_max_mps * 1.2 / max(speed, 1e-6))
    turns = np.array([turn for turn, _, _ in FUTURES])
    shares = np.array([share for _, share, _ in FUTURES])
    c, s = np.cos(turns) * shares, np.sin(turns) * shares
    velocities = np.stack([c * velocity[0] - s * velocity[1], s * velocity[0] + c * velocity[1]], 1)
    # A pace lasts for a while, not for ever; that it ends suddenly is a future of its own.
    lasts = 2 * config.persist_s
    way = lasts * (1 - np.exp(-times_s / lasts))
    paths = belief.position + velocities[:, None, :] * way[None, :, None]
    blocked = view.clearance(paths) < config.clearance_m
    # Who stands close to an obstacle already may go on along it.
    blocked &= (view.clearance(belief.position[None]) >= config.clearance_m)[:, None]
    stopped = np.logical_or.accumulate(blocked, 1)
    last = np.maximum(np.argmax(stopped, 1) - 1, 0)
    ends = np.where(stopped[:, :1], belief.position, paths[np.arange(len(paths)), last])
    paths = np.where(stopped[:, :, None], ends[:, None, :], paths)
    return paths, np.array([weight for _, _, weight in FUTURES])


class Whereabouts:
    """The particles. Deterministic for a seed and the same calls."""

    def __init__(self, config: WalkConfig, seed: int = 0) -> None:
        """Begin without knowing anything: ``positions`` is empty."""
        self.config = config
        self._rng = np.random.default_rng(seed)
        self.positions: Floats = np.empty((0, 2))
        self._velocities: Floats = np.empty((0, 2))
        self.weights: Floats = np.empty(0)

    def seen(self, belief: Gaussian) -> None:
        """Begin anew at a belief of the present."""
        count = self.config.particles
        spread = np.linalg.cholesky(belief.covariance + 1e-9 * np.eye(4))
        states = belief.mean + self._rng.standard_normal((count, 4)) @ spread.T
        self.positions, self._velocities = states[:, [0, 2]], states[:, [1, 3]]
        speed = np.hypot(*self._velocities.T)
        factor = np.minimum(1.0, self.config.speed_max_mps / np.maximum(speed, 1e-9))
        self._velocities = self._velocities * factor[:, None]
        self.weights = np.full(count, 1 / count)

    def walk(self, dt_s: float, view: MapView) -> None:
        """Let dt_s pass. Those who meet an obstacle take another direction."""
        if not len(self.positions):
            return
        config, rng = self.config, self._rng
        changed = rng.random(len(self.positions)) < 1 - math.exp(-dt_s / config.persist_s)
        ahead = self.positions + self._velocities * dt_s
        now = view.clearance(self.positions)
        after = view.clearance(ahead)
        stuck = (after < config.clearance_m) & (after < now)
        self.positions = np.where(stuck[:, None], self.positions, ahead)
        fresh = self._draw(len(self.positions))
        self._velocities = np.where((changed | stuck)[:, None], fresh, self._velocities)

    def _draw(self, count: int) -> Floats:
        config, rng = self.config, self._rng
        angle = rng.uniform(-math.pi, math.pi, count)
        speed = rng.uniform(config.speed_min_mps, config.speed_max_mps, count)
        speed = np.where(rng.random(count) < config.stand_share, 0.0, speed)
        return np.stack([speed * np.cos(angle), speed * np.sin(angle)], 1)

    def not_seen(
        self, camera: tuple[float, float, float], half_view: float, reach_m: float, view: MapView
    ) -> None:
        """Nobody was seen from camera (x, y, yaw): particles in sight become less likely."""
        if not len(self.positions):
            return
        gaps = self.positions - np.array(camera[:2])
        bearing = (np.arctan2(gaps[:, 1], gaps[:, 0]) - camera[2] + math.pi) % (
            2 * math.pi
        ) - math.pi
        away = np.hypot(*gaps.T)
        watched = (np.abs(bearing) < half_view * 0.9) & (away < reach_m) & (away > 0.6)
        watched &= in_sight(view, np.array(camera[:2]), self.positions)
        self._weigh(watched)

    def not_scanned(self, origin: Floats, points: Floats, reach_m: float, view: MapView) -> None:
        """Particles that the lidar at origin (2,) would show, but does not, become less likely.

        points (N, 2): what the scan shows and the map does not know, in the map's frame.
        """
        if not len(self.positions):
            return
        gaps = self.positions - origin
        watched = np.hypot(*gaps.T) < reach_m
        watched &= in_sight(view, origin, self.positions)
        if len(points):
            apart = self.positions[:, None] - points
            near = np.hypot(apart[..., 0], apart[..., 1]).min(1) < 0.5
            # Something stands there that the map does not know.
            self.weights = np.where(watched & near, 3.0, 1.0) * self.weights
            watched &= ~near
        self._weigh(watched)

    def _weigh(self, watched: Bools) -> None:
        """Make the watched particles less likely: they would probably have been noticed."""
        weights = np.where(watched, 1 - self.config.detect_share, 1.0) * self.weights
        self.weights = weights / weights.sum()
        if 1 / (self.weights**2).sum() < 0.5 * len(self.weights):
            self._resample()

    def _resample(self) -> None:
        count = len(self.weights)
        at = (np.arange(count) + self._rng.random()) / count
        picked = np.minimum(np.searchsorted(np.cumsum(self.weights), at), count - 1)
        jitter = 0.05 * self._rng.standard_normal((count, 2))
        self.positions = self.positions[picked] + jitter
        self._velocities = self._velocities[picked]
        self.weights = np.full(count, 1 / count)

    def samples(self, count: int, ahead_s: float) -> Floats:
        """Return positions (count, 2) of equal weight, ahead_s from now."""
        at = (np.arange(count) + 0.5) / count
        # Neighbours by direction from the mean, so that the few stand for all.
        middle = self.weights @ self.positions
        gaps = self.positions - middle
        order = np.argsort(np.arctan2(gaps[:, 1], gaps[:, 0]))
        total = np.cumsum(self.weights[order])
        picked = order[np.minimum(np.searchsorted(total, at), len(order) - 1)]
        result: Floats = self.positions[picked] + self._velocities[picked] * ahead_s
        return result
