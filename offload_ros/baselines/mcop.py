"""MCOP: minimum-cost offloading partitioning by phases of merging.

Wu, Knottenbelt and Wolter, "An Efficient Application Partitioning Algorithm in Mobile
Environments", IEEE TPDS 2019 (arXiv 1510.07986); described here from knowledge of the literature.
An undirected graph: vertices cost w_local on the robot and w_cloud on the server, an edge costs its
transfer where its ends are apart. What cannot be offloaded is merged into one source. Then, in the
manner of Stoer and Wagner, each phase grows a set A from the source by the vertex with the largest
w(A, v) - (w_local(v) - w_cloud(v)); the last one, t, alone on the server is a candidate of cost
C_local - (w_local(t) - w_cloud(t)) + sum w(t, .); the last two are merged. The best candidate wins,
or the whole on the robot.

It is greedy: with gains on vertices the last one of a phase need not give the least cut that
separates the last two. Undirected edges also pay a tensor once for each of its readers. Both make
it worse than DSCCS at times; ``benchmarks/partition_gap.py`` says how often.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from offload_ros.baselines.problem import Objective, Problem
from offload_ros.baselines.serial_cost import SerialCosts
from offload_ros.graph.profile import Floats
from offload_ros.graph.split_plan import Plan

Flags = NDArray[np.bool_]
_FAR = 1e12  # a transfer that never ends; infinity itself would make differences meaningless
TRADE_OFFS = (0.75, 0.5, 0.25)


@dataclass(frozen=True)
class WeightedGraph:
    """``gain`` (m,): w_local - w_cloud. ``edges`` (m, m): symmetric, zero diagonal. Vertex 0 is
    what stays on the robot. ``local_cost``: all of it there. ``vertex`` (n,): of each operator."""

    gain: Floats
    edges: Floats
    local_cost: float
    vertex: NDArray[np.int64]

    @classmethod
    def of_costs(cls, costs: SerialCosts) -> WeightedGraph:
        """Inputs, and the receiver of the outputs, are vertex 0; the other operators follow in
        order. An edge has one weight for both directions: the mean of the two transfers."""
        profile = costs.profile
        movable = np.array([not operator.is_input for operator in profile.operators])
        vertex = np.where(movable, np.cumsum(movable), 0).tolist()
        transfer = np.minimum(0.5 * (costs.up + costs.down), _FAR)
        edges = np.zeros((1 + movable.sum(), 1 + movable.sum()))
        for place, readers in enumerate(profile.consumers):
            ends = [vertex[reader] for reader in readers]
            for end in ends:
                edges[vertex[place], end] += transfer[place]
                edges[end, vertex[place]] += transfer[place]
            operator = profile.operators[place]
            if operator.is_output and not operator.is_input:
                weight = min(float(costs.down[place]), _FAR)
                edges[vertex[place], 0] += weight
                edges[0, vertex[place]] += weight
        np.fill_diagonal(edges, 0.0)
        gain = np.concatenate([[0.0], (costs.robot - costs.server)[movable]])
        return cls(gain, edges, float(costs.robot.sum()), np.array(vertex))

    def operators(self, on_server: Flags) -> Flags:
        """(n,) sides of operators from those of vertices (m,); vertex 0 is on the robot."""
        sides: Flags = on_server[self.vertex]
        return sides

    def cost(self, on_server: Flags) -> float:
        """Of vertices ``on_server`` (m,), by this model."""
        cut = self.edges[np.ix_(on_server, ~on_server)].sum()
        return float(self.local_cost - self.gain[on_server].sum() + cut)


def merging_phases(graph: WeightedGraph) -> tuple[Flags, float]:
    """(m,) which vertices go to the server, and the cost by the graph's own model."""
    gain, edges = graph.gain.copy(), graph.edges.copy()
    members = [[vertex] for vertex in range(len(gain))]
    alive = np.ones(len(gain), dtype=bool)
    best: list[int] = []
    best_cost = graph.local_cost
    for _ in range(len(gain) - 1):
        before, last, connection = _grow(gain, edges, alive)
        cost = graph.local_cost - gain[last] + connection
        if cost < best_cost:
            best, best_cost = list(members[last]), float(cost)
        members[before] += members[last]
        gain[before] += gain[last]
        edges[before] += edges[last]
        edges[:, before] += edges[:, last]
        edges[before, before] = 0.0
        alive[last] = False
        edges[last] = edges[:, last] = 0.0
    on_server = np.zeros(len(gain), dtype=bool)
    on_server[best] = True
    return on_server, best_cost


def _grow(gain: Floats, edges: Floats, alive: Flags) -> tuple[int, int, float]:
    """One phase: the last two vertices taken into A, and what the last is connected with."""
    outside = np.flatnonzero(alive)[1:]  # vertex 0, the source, is never merged away
    keys = edges[0, outside] - gain[outside]
    before, last = 0, 0
    for _ in range(len(outside)):
        position = int(np.argmax(keys))
        before, last = last, int(outside[position])
        keys = keys + edges[last, outside]
        keys[position] = -np.inf
    return before, last, float(edges[last].sum())


def mcop(problem: Problem) -> Plan:
    """For latency: the phases on times. For energy: on energies, and where that is not in time on
    weighted sums of both, each relative to the robot alone, up to times alone."""
    layers = problem.subject.layers
    time = SerialCosts.of_time(layers.profile, problem.link)

    def best(costs: SerialCosts) -> Flags:
        graph = WeightedGraph.of_costs(costs)
        return layers.expand(graph.operators(merging_phases(graph)[0]))

    if problem.objective is Objective.LATENCY:
        return problem.plan(best(time))
    energy = SerialCosts.of_energy(layers.profile, problem.link, problem.power)
    objectives = [energy, *(weighted(time, energy, share) for share in TRADE_OFFS), time]
    return problem.plan(problem.best_cut([best(costs) for costs in objectives]))


def weighted(time: SerialCosts, energy: SerialCosts, time_share: float) -> SerialCosts:
    """time_share * T / T_local + (1 - time_share) * E / E_local."""
    local_s, local_j = float(time.robot.sum()), float(energy.robot.sum())
    if local_s <= 0.0 or local_j <= 0.0:
        return time
    return energy.scaled((1.0 - time_share) / local_j).plus(time_share / local_s, time)
