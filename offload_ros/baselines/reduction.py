"""Operators that every good cut leaves on one side, put together before the search.

A cut that separates a tensor from one of its readers pays for its way over the link and at least
some of the rest. Where that alone exceeds a cut that is known, the tensor's operator and its
readers stay together. Nothing better is lost, and most of a deep network goes: its early tensors
take longer on the link than the whole model on the robot.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offload_ros.baselines.serial_cost import SerialCosts
from offload_ros.graph.profile import Floats, Profile

Flags = NDArray[np.bool_]
Labels = NDArray[np.int64]
_ROUNDING = 1e-9  # relative: a known cut must never be lost to sums in another order


def prefix_cuts(profile: Profile) -> Flags:
    """(n, n + 1) one cut per column: the operators from k on are on the server. The first is the
    server alone, the last the robot alone."""
    places = np.arange(len(profile))
    movable = np.array([not operator.is_input for operator in profile.operators])
    cuts: Flags = (places[:, None] >= np.arange(len(places) + 1)[None]) & movable[:, None]
    return cuts


def prefix_totals(costs: SerialCosts) -> Floats:
    """(n + 1,) ``costs.total(prefix_cuts(profile))``, from sums alone."""
    profile = costs.profile
    movable = np.array([not operator.is_input for operator in profile.operators])
    outputs = np.array([operator.is_output for operator in profile.operators])
    robot = np.cumsum(np.r_[costs.robot[~movable].sum(), np.where(movable, costs.robot, 0.0)])
    server = _sum_from(np.where(movable, costs.server, 0.0))
    down = _sum_from(np.where(movable & outputs, costs.down, 0.0))
    up = np.zeros(len(profile) + 2)  # where a tensor begins to cross, and where it no longer does
    endless = np.zeros(len(profile) + 2)
    for place, readers in enumerate(profile.consumers):
        if not readers:
            continue
        finite = bool(np.isfinite(costs.up[place]))
        steps, amount = (up, costs.up[place]) if finite else (endless, 1.0)
        steps[place + 1 if movable[place] else 0] += amount
        steps[max(readers) + 1] -= amount
    crossing = np.where(np.cumsum(endless)[:-1] > 0.5, np.inf, np.cumsum(up)[:-1])
    total: Floats = robot + server + crossing + down
    return total


def _sum_from(values: Floats) -> Floats:
    """(n + 1,) of all from each place on."""
    sums: Floats = np.r_[np.cumsum(values[::-1])[::-1], 0.0]
    return sums


def serial_bound(costs: SerialCosts) -> Floats:
    """(n,) no cut that separates a tensor from a reader costs less."""
    movable = np.array([not operator.is_input for operator in costs.profile.operators])
    least = np.where(movable, np.minimum(costs.robot, costs.server), costs.robot).sum()
    bound: Floats = least + np.minimum(costs.up, costs.down)
    return bound


def path_bound(costs: SerialCosts) -> Floats:
    """(n,) no schedule of a cut that separates a tensor from a reader is faster: the longest path
    through it, each operator on its faster side, and its transfer. ``costs``: times."""
    profile = costs.profile
    fastest = np.minimum(costs.robot, costs.server).tolist()
    crossing = np.minimum(costs.up, costs.down).tolist()
    until = [0.0] * len(profile)
    for place, producers in enumerate(profile.producers):
        until[place] = fastest[place] + max((until[each] for each in producers), default=0.0)
    after = [-np.inf] * len(profile)  # to the last output; what leads to none delays nothing
    bound = np.full(len(profile), -np.inf)
    for place in reversed(range(len(profile))):
        is_output = profile.operators[place].is_output
        paths = [fastest[each] + after[each] for each in profile.consumers[place]]
        after[place] = max([*paths, 0.0 if is_output else -np.inf])
        shortest = 0.0 if is_output else min(paths, default=-np.inf)
        bound[place] = until[place] + crossing[place] + shortest
    return bound


def together(profile: Profile, bound: Floats, known: float) -> Labels:
    """(n,) equal labels stay on one side: an operator whose ``bound`` exceeds ``known`` and its
    readers. Label 0 is what stays on the robot: inputs, and outputs that cannot return."""
    parent = list(range(len(profile) + 1))  # 0: the robot; k + 1: operator k

    def root(each: int) -> int:
        while parent[each] != each:
            parent[each] = parent[parent[each]]
            each = parent[each]
        return each

    limit = known * (1.0 + _ROUNDING) + 1e-15
    for place, operator in enumerate(profile.operators):
        if operator.is_input:
            parent[root(place + 1)] = root(0)
        if not bound[place] > limit:
            continue
        for reader in profile.consumers[place]:
            parent[root(reader + 1)] = root(place + 1)
        if operator.is_output:
            parent[root(place + 1)] = root(0)
    roots = [root(each) for each in range(len(parent))]
    numbers = {roots[0]: 0}
    return np.array([numbers.setdefault(each, len(numbers)) for each in roots])[1:]
