"""SPSO-GA: least energy under a deadline by a discrete particle swarm with genetic operators.

Chen et al., IEEE TPDS 33(3), 2022 (abstract), with the details of that family of algorithms.
Operators are first merged into layers. A particle has one gene per layer, the side that computes
it. Fitness: energy where the deadline holds, otherwise the completion time; in time beats late.
Per iteration a particle, with probability w, mutates one gene; takes a random segment (two-point
crossover), with probability c1, of its own best and then, with c2, of the swarm's best. c1 falls
and c2 rises over the iterations; w adapts to each particle: it is large while many genes differ
from the swarm's best.

The energy is the robot's, from the schedule's states. Unlike the original's, half of the first
swarm are the best cuts at one place of the execution order, beside random particles: of a deep
network almost every random particle is useless. ``SwarmOptions.seeded`` turns that off.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
import math

import numpy as np
from numpy.typing import NDArray

from offload_ros.baselines.problem import Objective, Problem
from offload_ros.graph.profile import Floats
from offload_ros.graph.split_plan import Plan

Flags = NDArray[np.bool_]
DEADLINE_S = 1.0


@dataclass(frozen=True)
class SwarmOptions:
    """Of the search. It ends early when ``patience`` iterations brought nothing better. ``seeded``:
    cuts at one place are in the first swarm."""

    particles: int = 100
    iterations: int = 1000
    patience: int = 60
    inertia: tuple[float, float] = (0.4, 0.9)  # least and largest w
    own: tuple[float, float] = (0.9, 0.2)  # c1, first and last
    common: tuple[float, float] = (0.4, 0.9)  # c2, first and last
    seed: int = 0
    seeded: bool = True

    def __post_init__(self) -> None:
        if self.particles < 2 or self.iterations < 0 or self.patience < 1:
            raise ValueError(
                'the swarm needs 2 or more particles, 0 or more iterations, patience 1 or more, '
                f'not {self.particles}, {self.iterations}, {self.patience}'
            )
        chances = (*self.inertia, *self.own, *self.common)
        if not all(0.0 <= chance <= 1.0 for chance in chances):
            raise ValueError('inertia, own and common are probabilities, 0 to 1')


def spso_ga(problem: Problem, options: SwarmOptions | None = None) -> Plan:
    """The best particle found. The objective is always energy under the deadline, 1 s unless
    ``problem`` has another; equal seeds give equal plans."""
    options = options or SwarmOptions()
    deadline_s = problem.deadline_s if math.isfinite(problem.deadline_s) else DEADLINE_S
    problem = replace(problem, objective=Objective.ENERGY, deadline_s=deadline_s)
    return problem.plan(problem.subject.layers.expand(_Swarm(problem, options).best()))


class _Swarm:
    """Positions (P, genes), True: on the server. Inputs of the model have no gene."""

    def __init__(self, problem: Problem, options: SwarmOptions) -> None:
        self._problem = problem
        self._options = options
        self._rng = np.random.default_rng(options.seed)
        operators = problem.subject.layers.profile.operators
        self._genes = np.flatnonzero([not operator.is_input for operator in operators])
        self._layers = len(operators)
        self._known: dict[bytes, float] = {}

    def best(self) -> Flags:
        """(layers,) sides of the best particle."""
        swarm = self._first()
        own, own_rank = swarm.copy(), self._ranks(swarm)
        leader = int(own_rank.argmin())
        best, best_rank = own[leader].copy(), own_rank[leader]
        idle = 0
        for iteration in range(self._options.iterations if swarm.shape[1] else 0):
            swarm = self._moved(swarm, own, best, iteration / self._options.iterations)
            ranks = self._ranks(swarm)
            better = ranks < own_rank
            own[better], own_rank[better] = swarm[better], ranks[better]
            leader = int(own_rank.argmin())
            idle = idle + 1 if own_rank[leader] >= best_rank else 0
            best, best_rank = own[leader].copy(), own_rank[leader]
            if idle >= self._options.patience:
                break
        return self._sides(best[None])[:, 0]

    def _first(self) -> Flags:
        count, genes = self._options.particles, len(self._genes)
        swarm = self._rng.random((count, genes)) < 0.5
        if self._options.seeded:
            # Robot before a place, server from there on; none and all are among them.
            cuts = np.arange(genes)[None] >= np.arange(genes + 1)[:, None]
            best = np.argsort(self._ranks(cuts), kind='stable')[: max(1, count // 2)]
            swarm[: len(best)] = cuts[best]
        return swarm

    def _moved(self, swarm: Flags, own: Flags, best: Flags, progress: float) -> Flags:
        options, rng = self._options, self._rng
        count, genes = swarm.shape
        swarm = swarm.copy()
        least, largest = options.inertia
        differ = np.mean(np.not_equal(swarm, best), axis=1)
        inertia = largest - (largest - least) * np.exp(differ / (differ - 1.01))
        mutated = np.flatnonzero(rng.random(count) < inertia)
        swarm[mutated, rng.integers(0, genes, len(mutated))] ^= True
        leaders: Flags = np.broadcast_to(best, swarm.shape)
        for others, (first, last) in ((own, options.own), (leaders, options.common)):
            crossed = rng.random((count, 1)) < first + (last - first) * progress
            ends = np.sort(rng.integers(0, genes + 1, (count, 2)), axis=1)
            place = np.arange(genes)[None, :]
            inside = np.logical_and(place >= ends[:, :1], place < ends[:, 1:])
            swarm = np.where(inside & crossed, others, swarm)
        return swarm

    def _sides(self, swarm: Flags) -> Flags:
        """(layers, P)."""
        sides = np.zeros((self._layers, len(swarm)), dtype=bool)
        sides[self._genes] = swarm.T
        return sides

    def _ranks(self, swarm: Flags) -> Floats:
        """(P,) fitness; every position is evaluated once."""
        keys = [row.tobytes() for row in np.packbits(swarm, axis=1)]
        fresh = {key: index for index, key in enumerate(keys) if key not in self._known}
        if fresh:
            costs = self._problem.subject.layer_evaluator.cut_costs(
                self._sides(swarm[list(fresh.values())]), self._problem.link, self._problem.power
            )
            ranks = self._problem.rank(costs).tolist()
            self._known.update(zip(fresh, ranks, strict=True))
        return np.array([self._known[key] for key in keys])
