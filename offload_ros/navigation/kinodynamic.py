"""Kinodynamic A*: a motion of pieces of constant acceleration (Fast-Planner, Zhou et al., 2019).

With AGRNav's price for flying (ICRA 2024): a state in the air costs more the higher it is; what its
parent paid is taken off, so that it counts where the robot is and not along the whole way.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import product
import math
import time

import numpy as np

from offload_ros.navigation.plan_config import KinodynamicConfig, Limits
from offload_ros.navigation.space import Space
from offload_ros.navigation.steering import along, least_cost, shot
from offload_ros.tracking.checks import Bools, Floats

_SHOT_STEP_S = 0.03
_SHOT_DURATIONS = (1.0, 1.25, 1.6, 2.0)  # times that of the least cost, which knows no limits


@dataclass(frozen=True, eq=False)
class Motion:
    """A motion in time: positions and velocities (N, 3) every ``step_s`` from the start on.

    arrived: it ends at the goal, at rest.
    """

    step_s: float
    positions: Floats
    velocities: Floats
    arrived: bool


@dataclass(eq=False)
class _Node:
    position: Floats
    velocity: Floats
    cost: float
    parent: _Node | None
    acceleration: Floats  # that led here
    closed: bool = False


class KinodynamicSearch:
    """Searches motions within limits; its primitives are made once."""

    def __init__(self, config: KinodynamicConfig, limits: Limits) -> None:
        self.config, self.limits = config, limits
        half = limits.acceleration_mps2 / 2
        every: Floats = np.array(list(product((-2, -1, 0, 1, 2), repeat=3)), np.float64) * half
        short = np.sqrt((every**2).sum(1)) <= limits.acceleration_mps2 + 1e-9
        self._air: Floats = every[short]
        self._take_off: Floats = every[short & (every[:, 2] >= 0)]
        self._drive: Floats = every[short & (every[:, 2] == 0)]
        self._times = np.arange(1, config.checks + 1) * (config.step_s / config.checks)

    def search(
        self,
        space: Space,
        start: Floats,
        velocity: Floats,
        goal: Floats,
        deadline_s: float,
        flies: bool = True,
    ) -> Motion | None:
        """Return a motion from a state towards goal (3,), at rest there; None if none was found.

        It ends early where it has come as far as the horizon. deadline_s: of time.monotonic.
        flies: it may take off.
        """
        config = self.config
        zero = np.zeros(3)
        first = _Node(start, velocity, 0.0, None, zero)
        best, _ = least_cost(start[None], velocity[None], goal, zero, config.time_weight,
                             self.limits.speed_mps)  # fmt: skip
        nodes = {self._cell(start, space): first}
        heap = [(float(best[0]) * config.heuristic, 0, first)]
        count = 0
        until = time.thread_time() + config.limit_s
        while heap and time.monotonic() < deadline_s and time.thread_time() < until:
            _, _, node = heappop(heap)
            if node.closed:
                continue
            node.closed = True
            if math.dist(node.position, goal) < config.horizon_m / 2:
                coefficients = self._shot(space, node, goal)
                if coefficients is not None:
                    return self._motion(node, coefficients)
            if node is not first and math.dist(node.position, start) >= config.horizon_m:
                return self._motion(node, None)
            for child, estimate in self._children(space, node, goal, flies):
                cell = self._cell(child.position, space)
                known = nodes.get(cell)
                if known is None or (not known.closed and child.cost < known.cost):
                    if known is not None:
                        known.closed = True
                    nodes[cell] = child
                    count += 1
                    heappush(heap, (child.cost + estimate, count, child))
        return None

    def _cell(self, position: Floats, space: Space) -> tuple[int, int, int]:
        x, y, z = ((position - space.low) / self.config.cell_m).tolist()
        return math.floor(x), math.floor(y), math.floor(z)

    def _children(
        self, space: Space, node: _Node, goal: Floats, flies: bool
    ) -> list[tuple[_Node, float]]:
        """Return the states after each admissible primitive, with what f adds to their cost."""
        config = self.config
        acceleration = self._choices(space, node, flies)
        t = self._times[:, None]
        velocity = node.velocity + acceleration * config.step_s
        # A shade over the limit: sums of steps are not exact.
        slow = (velocity**2).sum(1) <= (self.limits.speed_mps + 1e-6) ** 2
        acceleration, velocity = acceleration[slow], velocity[slow]
        if not len(velocity):
            return []
        places = (node.position + node.velocity * t)[None] + acceleration[:, None] * (t * t / 2)
        height = places[..., 2]
        # What lands comes a hair below the floor in the end, and may touch it before.
        low = height < space.floor_m
        height[low & (height > space.floor_m - 0.05)] = space.floor_m
        free = space.fits(places.reshape(-1, 3)).reshape(places.shape[:2]).all(1)
        if not free.any():
            return []
        places, velocity, acceleration = places[free], velocity[free], acceleration[free]
        ends = places[:, -1]
        self._land(space, ends, velocity)
        estimate, _ = least_cost(ends, velocity, goal, np.zeros(3), config.time_weight,
                                 self.limits.speed_mps)  # fmt: skip
        up = space.airborne(ends)
        flying = np.where(
            up, config.flying_per_m * (ends[:, 2] - space.floor_m) + config.flying_base, 0.0
        )
        effort = ((acceleration**2).sum(1) + config.time_weight) * config.step_s
        return [
            (
                _Node(ends[k], velocity[k], node.cost + float(effort[k]), node, acceleration[k]),
                float(estimate[k] * config.heuristic + flying[k]),
            )
            for k in range(len(ends))
        ]

    def _choices(self, space: Space, node: _Node, flies: bool) -> Floats:
        if bool(space.airborne(node.position)):
            return self._air
        return self._take_off if flies and space.body.flies else self._drive

    def _land(self, space: Space, ends: Floats, velocity: Floats) -> None:
        """Put slow states just over the floor onto it: a lattice rarely meets it exactly."""
        low: Bools = ~space.airborne(ends)
        soft = low & (
            np.abs(velocity[:, 2]) <= self.limits.acceleration_mps2 * self.config.step_s / 2
        )
        ends[soft, 2] = space.floor_m
        velocity[soft, 2] = 0.0

    def _shot(self, space: Space, node: _Node, goal: Floats) -> tuple[Floats, float] | None:
        """Return coefficients and duration of the cubic to the goal if it keeps everything."""
        _, times = least_cost(node.position[None], node.velocity[None], goal, np.zeros(3),
                              self.config.time_weight, self.limits.speed_mps)  # fmt: skip
        duration = float(times[0])
        if duration < 1e-3:
            return None
        limits = self.limits
        for longer in _SHOT_DURATIONS:
            took = duration * longer
            coefficients = shot(node.position, node.velocity, goal, np.zeros(3), took)
            count = max(math.ceil(took / _SHOT_STEP_S), 2)
            places, velocity, rate = along(coefficients, np.linspace(0, took, count + 1))
            fast = (velocity**2).sum(1).max() > limits.speed_mps**2 * 1.0001
            hard = (rate**2).sum(1).max() > limits.acceleration_mps2**2 * 1.0001
            if not fast and not hard:
                return (coefficients, took) if space.fits(places).all() else None
        return None

    def _motion(self, node: _Node, last: tuple[Floats, float] | None) -> Motion:
        chain = [node]
        while chain[-1].parent is not None:
            chain.append(chain[-1].parent)
        step = self.config.step_s / self.config.checks
        times = np.concatenate(([0.0], self._times[:-1]))[:, None]
        positions, velocities = [], []
        for before, after in zip(chain[:0:-1], chain[-2::-1], strict=True):
            a = after.acceleration
            positions.append(before.position + before.velocity * times + a * (times * times / 2))
            velocities.append(before.velocity + a * times)
        if last is None:
            positions.append(node.position[None])
            velocities.append(node.velocity[None])
        else:
            coefficients, duration = last
            count = max(math.ceil(duration / step), 1)
            # The last piece is stretched to whole steps by less than one of them.
            places, velocity, _ = along(coefficients, np.linspace(0, duration, count + 1))
            positions.append(places)
            velocities.append(velocity)
        return Motion(step, np.concatenate(positions), np.concatenate(velocities), last is not None)
