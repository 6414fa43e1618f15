"""A live fleet's assignment: J3O's, unless what is loaded already is nearly as good."""

from __future__ import annotations

from collections.abc import Mapping, Set

import numpy as np

from offload_ros.fleet.assignment import Assignment
from offload_ros.fleet.j3o import J3oOptions, j3o
from offload_ros.fleet.options import NEGLIGIBLE, Options
from offload_ros.fleet.plan import LoadedModel, one_variant_each
from offload_ros.fleet.problem import Problem
from offload_ros.fleet.routing import route

GAIN = 0.01  # relative; for less nothing is loaded anew
Held = Mapping[str, Set[LoadedModel]]


def planned(problem: Problem, held: Held, time_limit_s: float) -> Assignment:
    """Queries one by one, as servers compute them. ``RuntimeError`` where the solver fails."""
    best = j3o(problem, J3oOptions(batching=False, time_limit_s=time_limit_s)).assignment
    best = one_variant_each(problem, best)
    present = with_what_is_held(problem, held)
    if _fits(problem, present) and present.value(problem) >= best.value(problem) * (1.0 - GAIN):
        return present
    return best


def with_what_is_held(problem: Problem, held: Held) -> Assignment:
    """The best that there is without loading anything; what nothing is routed to is left out."""
    options = Options.of(problem)
    if not len(options):
        return Assignment()
    names = [each.name for each in problem.nodes]
    tasks = [problem.demand[at].task for at in options.demands]
    usable = np.array(
        [
            LoadedModel(tasks[query], problem.models[options.model[candidate]].name)
            in held.get(names[options.node[candidate]], ())
            for query, candidate in zip(options.query, options.candidate, strict=True)
        ]
    )
    routing = route(options, usable)
    assert routing is not None  # nothing is asked of it that cannot be had
    used = np.bincount(options.candidate, routing.share, minlength=len(options.node))
    return options.assignment(used > NEGLIGIBLE, routing.share)


def _fits(problem: Problem, assignment: Assignment) -> bool:
    """Whether it keeps to the nodes' memory: servers may hold more than they are to."""
    return all(
        sum(problem.model[each].size_bytes for each in models) <= problem.node[name].memory_bytes
        for name, models in assignment.loaded.items()
    )
