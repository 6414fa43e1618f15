"""DSCCS: the layer cut of least serial delay, by a minimum s-t cut.

Liang et al., "DNN surgery", IEEE Transactions on Cloud Computing 2023, light load; after DADS
(INFOCOM 2019). The source side is the robot. Operator v pays its robot time by the arc v -> sink,
its server time by source -> v. A tensor that several operators read is paid once: an auxiliary
vertex between it and its readers carries its transfer. The published code leaves crossings from
server to robot and the result's return free; here they are charged in the same way, with an
auxiliary vertex of their own, so that the cut's value is ``SerialCosts.total`` and no cut is
better.

Heavy load: frames follow each other, and the slowest of robot, link and server bounds the
throughput. Minimising it is NP-hard; ``least_bottleneck`` takes the best of the minimum cuts under
many weightings of the four.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import replace
import math

import networkx
from networkx.algorithms.flow import preflow_push
import numpy as np
from numpy.typing import NDArray

from offload_ros.baselines.problem import Objective, Problem
from offload_ros.baselines.reduction import prefix_totals, serial_bound, together
from offload_ros.baselines.serial_cost import SerialCosts
from offload_ros.graph.profile import Floats, Profile
from offload_ros.graph.schedule import Link
from offload_ros.graph.split_plan import Plan

Flags = NDArray[np.bool_]
# Whole numbers make flow algorithms exact; a path of rounding errors is far below a microsecond.
_UNITS = 1 << 50
_BISECTIONS = 24
_WEIGHTS = 9


def dsccs(problem: Problem, exclude_below_bytes: int = 0) -> Plan:
    """The cut of least serial cost. For energy under a deadline: the cut of least joules, with as
    much weight on time as it takes for the evaluator to find it in time.

    ``exclude_below_bytes``: smaller tensors inside the model never cross the link (20 KB in the
    published code, which makes cuts worse; off by default).
    """
    layers = problem.subject.layers
    # Merging relies on moving a cut to a smaller tensor, which the exclusion may forbid.
    profile = problem.profile if exclude_below_bytes > 0 else layers.profile

    def best(costs: SerialCosts) -> Flags:
        cut = minimum_cut(_without_small(costs, exclude_below_bytes))
        return cut if profile is problem.profile else layers.expand(cut)

    time = SerialCosts.of_time(profile, problem.link)
    if problem.objective is Objective.LATENCY:
        return problem.plan(best(time))
    energy = SerialCosts.of_energy(profile, problem.link, problem.power)

    def in_time(on_server: Flags) -> bool:
        costs = problem.subject.evaluator.cut_costs(on_server[:, None], problem.link)
        return bool(costs.latency_s[0] <= problem.deadline_s)

    cut = best(energy)
    if in_time(cut):
        return problem.plan(cut)
    fastest = best(time)
    if not in_time(fastest):
        return problem.plan(fastest)
    # Watts that a second costs; where the cut is in time, smaller ones are tried.
    low, high, cut = 0.0, 1e4, fastest
    for _ in range(_BISECTIONS):
        weight = math.sqrt(low * high) if low else high / 100.0
        found = best(energy.plus(weight, time))
        if in_time(found):
            high, cut = weight, found
        else:
            low = weight
        if high < 1e-3 or (low and high / low < 1.01):
            break
    return problem.plan(cut)


def minimum_cut(costs: SerialCosts) -> Flags:
    """(n,) sides of the layer cut that minimises ``costs.total``."""
    profile = costs.profile
    values = [*costs.robot, *costs.server, *costs.up, *costs.down]
    largest = sum(value for value in values if math.isfinite(value))
    unit = _UNITS / largest if largest > 0.0 else 1.0
    known = float(prefix_totals(costs).min())
    label = together(profile, serial_bound(costs), known).tolist()
    arcs: dict[tuple[Hashable, Hashable], float] = defaultdict(float)
    for place, operator in enumerate(profile.operators):
        own = label[place]
        if own != 0:
            arcs[0, own] += costs.server[place]
            arcs[own, 'server'] += costs.robot[place]
        others = {label[reader] for reader in profile.consumers[place]}
        if operator.is_output:
            others.add(0)
        others.discard(own)
        if not others:
            continue
        arcs[own, ('up', place)] = costs.up[place]
        arcs[('down', place), own] = costs.down[place]
        for other in others:
            arcs[('up', place), other] = arcs[other, ('down', place)] = math.inf
    graph = networkx.DiGraph()
    graph.add_nodes_from((0, 'server'))
    for (tail, head), cost in arcs.items():
        if math.isinf(cost):
            graph.add_edge(tail, head)  # without a capacity it is infinite
        else:
            graph.add_edge(tail, head, capacity=round(cost * unit))
    _, (robot, _) = networkx.minimum_cut(graph, 0, 'server', flow_func=preflow_push)
    return np.array([each not in robot for each in label], dtype=bool)


def least_bottleneck(problem: Problem) -> Plan:
    """Heavy load: the cut with the least of the four busy times, of the weightings tried."""
    layers = problem.subject.layers
    time = SerialCosts.of_time(layers.profile, problem.link)
    nothing = np.zeros_like(time.robot)
    parts = [
        SerialCosts(layers.profile, time.robot, nothing, nothing, nothing),
        SerialCosts(layers.profile, nothing, time.server, nothing, nothing),
        _link_only(layers.profile, problem.link, nothing),
    ]
    cuts = [np.array([not each.is_input for each in layers.profile.operators])]
    cuts.append(np.zeros(len(layers.profile), dtype=bool))
    exponents = np.linspace(-3.0, 3.0, _WEIGHTS)
    for server_weight in 10.0**exponents:
        for link_weight in 10.0**exponents:
            mixed = parts[0].plus(server_weight, parts[1]).plus(link_weight, parts[2])
            cuts.append(minimum_cut(mixed))
    stages = np.stack([bottleneck_s(layers.profile, problem.link, cut) for cut in cuts])
    return problem.plan(layers.expand(cuts[int(stages.argmin())]))


def bottleneck_s(profile: Profile, link: Link, on_server: Flags) -> float:
    """The longest busy time of robot, server, uplink and downlink for one frame, in s: its inverse
    is the throughput."""
    free = replace(link, delay_s=0.0)
    time = SerialCosts.of_time(profile, free)
    nothing = np.zeros_like(time.robot)
    alone = (
        (time.robot, nothing, nothing, nothing),
        (nothing, time.server, nothing, nothing),
        (nothing, nothing, time.up, nothing),
        (nothing, nothing, nothing, time.down),
    )
    cut = on_server[:, None]
    return max(float(SerialCosts(profile, *each).total(cut)[0]) for each in alone)


def _link_only(profile: Profile, link: Link, nothing: Floats) -> SerialCosts:
    time = SerialCosts.of_time(profile, replace(link, delay_s=0.0))
    return SerialCosts(profile, nothing, nothing, time.up, time.down)


def _without_small(costs: SerialCosts, least_bytes: int) -> SerialCosts:
    """Infinite cost for small tensors inside the model to cross; inputs and outputs may."""
    if least_bytes <= 0:
        return costs
    profile = costs.profile
    small = profile.column('message_bytes') < least_bytes
    inputs = np.array([operator.is_input for operator in profile.operators])
    outputs = np.array([operator.is_output for operator in profile.operators])
    up = np.where(small & ~inputs, np.inf, costs.up)
    down = np.where(small & ~outputs, np.inf, costs.down)
    return replace(costs, up=up, down=down)
