"""Simpler ways to load models, which J3O is compared with. All route optimally what they load."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from offload_ros.fleet.assignment import Assignment
from offload_ros.fleet.evaluation import OneByOne
from offload_ros.fleet.j3o import J3oOptions, j3o
from offload_ros.fleet.options import Flags, Floats, Options, summed
from offload_ros.fleet.problem import ROBOT, Problem

Method = Callable[[Problem, int], Assignment]


def _filled(options: Options, score: Floats, allowed: Flags | None = None) -> Assignment:
    """Each node loads candidates by falling score (C,) until none fits; then the best routing."""
    loaded = np.zeros(len(options.node), bool)
    room = options.memory_bytes.copy()
    for at in np.argsort(-score, kind='stable'):
        fits = options.size_bytes[at] <= room[options.node[at]]
        if fits and (allowed is None or allowed[at]):
            loaded[at] = True
            room[options.node[at]] -= options.size_bytes[at]
    state = OneByOne(options).state(loaded)
    return options.assignment(loaded, state.routing.share)


def _accuracy(options: Options) -> Floats:
    """(C,) right answers per s, if all that can come to a candidate did."""
    if not len(options):
        return np.zeros(0)
    values = options.pair_values(options.value)
    return summed(options.pair_candidate, values, len(options.node))


def greedy_accuracy(problem: Problem, seed: int = 0) -> Assignment:
    """What would answer most queries rightly is loaded first."""
    options = Options.of(problem)
    return _filled(options, _accuracy(options))


def greedy_accuracy_per_byte(problem: Problem, seed: int = 0) -> Assignment:
    """The same, for the memory that it takes."""
    options = Options.of(problem)
    return _filled(options, _accuracy(options) / options.size_bytes)


def robot_only(problem: Problem, seed: int = 0) -> Assignment:
    """J3O's loading, with no server and no cloud."""
    return j3o(_without(problem, robots=False), J3oOptions(batching=False)).assignment


def server_only(problem: Problem, seed: int = 0) -> Assignment:
    """J3O's loading, with nothing on robots."""
    return j3o(_without(problem, robots=True), J3oOptions(batching=False)).assignment


def random_loading(problem: Problem, seed: int = 0) -> Assignment:
    """Models in random order."""
    options = Options.of(problem)
    return _filled(options, np.random.default_rng(seed).random(len(options.node)))


def j3o_one_by_one(problem: Problem, seed: int = 0) -> Assignment:
    """J3O without batching."""
    return j3o(problem, J3oOptions(batching=False)).assignment


def _without(problem: Problem, robots: bool) -> Problem:
    """No memory on robots, or on the others."""
    nodes = tuple(
        replace(node, memory_bytes=0.0) if (node.kind == ROBOT) == robots else node
        for node in problem.nodes
    )
    return replace(problem, nodes=nodes)


BASELINES: dict[str, Method] = {
    'greedy_accuracy': greedy_accuracy,
    'greedy_accuracy_per_byte': greedy_accuracy_per_byte,
    'robot_only': robot_only,
    'server_only': server_only,
    'random': random_loading,
    'j3o_one_by_one': j3o_one_by_one,
}
