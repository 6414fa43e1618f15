"""The best layer cut by the evaluator: what every published layer partition is at most as good as.

Candidates: the robot alone, the server alone, the minimum serial cut (DSCCS), the minimum cut with
a cheaper link (work at the same time makes it cheaper than the sum says), and cuts at one place of
the execution order. The best one is improved by moving groups of layers, and runs of them, to the
other side until nothing helps. Where few groups remain, all their cuts are tried.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from offload_ros.baselines.dsccs import dsccs, minimum_cut
from offload_ros.baselines.problem import Objective, Problem
from offload_ros.baselines.reduction import (
    Labels,
    path_bound,
    prefix_cuts,
    prefix_totals,
    together,
)
from offload_ros.baselines.serial_cost import SerialCosts
from offload_ros.graph.profile import Floats
from offload_ros.graph.split_plan import Plan
from offload_ros.graph.timeline import Costs

Flags = NDArray[np.bool_]
LINK_WEIGHT = 0.6
MOST_PREFIXES = 48
FEW_GROUPS = 9
LEAST_MOVE = 5e-4  # of the time on the robot
ROUNDS = 20
_LEAST_GAIN = 1e-4  # relative: what no measured profile can tell apart is not worth a round


def layer_cut(problem: Problem) -> Plan:
    """Never worse, by the evaluator, than device-only, server-only and DSCCS's cut."""
    layers = problem.subject.layers
    time = SerialCosts.of_time(layers.profile, problem.link)
    objectives = [time]
    if problem.objective is not Objective.LATENCY:
        objectives.append(SerialCosts.of_energy(layers.profile, problem.link, problem.power))
    cuts = [minimum_cut(_with_cheaper_link(costs)) for costs in objectives]
    serial = dsccs(problem).on_server
    cuts.append(layers.shrink(serial))
    prefixes = prefix_cuts(layers.profile)
    for costs in objectives:
        best = np.argsort(prefix_totals(costs), kind='stable')[:MOST_PREFIXES]
        cuts += list(prefixes[:, best].T)
    candidates = np.stack(cuts, axis=1)
    costs_ = _costs(problem, candidates)
    found = candidates[:, int(problem.rank(costs_).argmin())]
    found = _improved(problem, found, _labels(problem, time, costs_))
    movable = np.array([not operator.is_input for operator in problem.profile.operators])
    final = [layers.expand(found), movable, np.zeros_like(movable), serial]
    return problem.plan(problem.best_cut(final))


def _with_cheaper_link(costs: SerialCosts) -> SerialCosts:
    return replace(costs, up=LINK_WEIGHT * costs.up, down=LINK_WEIGHT * costs.down)


def _costs(problem: Problem, on_server: Flags) -> Costs:
    evaluator = problem.subject.layer_evaluator
    return evaluator.cut_costs(on_server, problem.link, problem.power_if_needed)


def _labels(problem: Problem, time: SerialCosts, known: Costs) -> Labels:
    """(layers,) which layers move together: those between which a transfer alone is too long."""
    longest = float(known.latency_s.min())
    if problem.objective is Objective.ENERGY:
        # No inference of more seconds than these takes less energy than the best one known.
        watts = min(problem.power.computing_w, problem.power.communicating_w)
        watts = min(watts, problem.power.standby_w)
        within = known.latency_s <= problem.deadline_s
        least_j = float(known.energy_j[within].min()) if within.any() else np.inf
        if np.isfinite(least_j):
            cheapest_s = least_j / watts if watts > 0.0 else np.inf
            longest = min(problem.deadline_s, cheapest_s)
    elif problem.objective is Objective.WEIGHTED:
        # The latency's part of a better plan is at most the best rank known.
        best = float(problem.rank(known).min())
        longest = best * problem.robot_only[0] / problem.weight if problem.weight else np.inf
    return together(time.profile, path_bound(time), longest)


def _improved(problem: Problem, sides: Flags, labels: Labels) -> Flags:
    """The best of all cuts of few groups; else local search from ``sides`` (layers,), the best
    single move per round."""
    count = int(labels.max())  # label 0 stays
    if count <= FEW_GROUPS:
        choices = np.arange(1 << count)[None] >> np.arange(count)[:, None] & 1
        cuts: Flags = np.concatenate([np.zeros((1, 1 << count)), choices]).astype(bool)[labels]
        cuts = np.concatenate([sides[:, None], cuts], axis=1)
        return np.asarray(cuts[:, int(problem.rank(_costs(problem, cuts)).argmin())])
    moves = _worth_moving(problem, labels)
    rank = float(problem.rank(_costs(problem, sides[:, None]))[0])
    for _ in range(ROUNDS):
        neighbours = _neighbours(sides, labels, moves)
        ranks: Floats = problem.rank(_costs(problem, neighbours))
        best = int(ranks.argmin())
        if not ranks[best] < rank * (1.0 - _LEAST_GAIN):
            break
        sides, rank = neighbours[:, best], float(ranks[best])
    return sides


def _worth_moving(problem: Problem, labels: Labels) -> tuple[Flags, Flags]:
    """(groups,) by time on the robot: groups that are worth a move alone, and those at which a run
    may be cut, so that what lies between two is."""
    seconds = problem.subject.layers.profile.column('robot_s')
    of_group = np.bincount(labels, weights=seconds)[1:]
    grain = LEAST_MOVE * float(seconds.sum())
    passed = np.floor(np.cumsum(of_group) / grain) if grain > 0.0 else np.arange(len(of_group))
    return of_group >= grain, np.diff(passed, prepend=-1.0) > 0.0


def _neighbours(sides: Flags, labels: Labels, moves: tuple[Flags, Flags]) -> Flags:
    """(layers, k): one group of layers on the other side; or, of a run of equal sides, all groups
    up to one, or from one on, which moves a border of that run."""
    count = int(labels.max())
    groups = np.arange(1, count + 1)
    member = labels[:, None] == groups[None]
    own = sides[member.argmax(axis=0)]
    run = np.cumsum(np.r_[0, own[1:] != own[:-1]])
    same = run[:, None] == run[None]  # column k: the run of group k
    alone, ends = moves
    flips = [
        np.eye(count, dtype=bool)[:, alone],
        (same & (groups[:, None] <= groups[None]))[:, ends],
        (same & (groups[:, None] >= groups[None]))[:, ends],
    ]
    changed = own[:, None] ^ np.concatenate(flips, axis=1)
    moved: Flags = np.concatenate([np.zeros((1, changed.shape[1]), dtype=bool), changed])[labels]
    return moved
