"""Small fleets for tests: one that is worked out by hand, and random ones."""

from __future__ import annotations

from dataclasses import replace
import itertools

from hypothesis import strategies as st
import numpy as np

from offload_ros.fleet.instances import LIMITS, Size, random_problem
from offload_ros.fleet.options import Options
from offload_ros.fleet.problem import Demand, Link, Model, Node, Problem, Task
from offload_ros.fleet.routing import route

HAND = Problem(
    nodes=(
        Node('robot', 'robot', 100.0, 1.0),
        Node('edge', 'server', 300.0, 4.0),
        Node('cloud', 'cloud', 300.0, 20.0),
    ),
    links=(Link('robot', 'edge', 1000.0, 0.01), Link('edge', 'cloud', 500.0, 0.05)),
    tasks=(Task('detection', 1.0),),
    models=(
        Model('small', 80.0, {'detection': 0.5}, 0.05, 0.05),
        Model('large', 250.0, {'detection': 0.9}, 0.2, 0.2),
    ),
    demand=(Demand('robot', 'detection', 4.0, 100.0),),
)


def changed(problem: Problem, part: str, name: str, **values: object) -> Problem:
    """With other values of one node, task or model."""
    entries = tuple(
        replace(each, **values) if each.name == name else each for each in getattr(problem, part)
    )
    return replace(problem, **{part: entries})


@st.composite
def small_problems(draw, robots=4, servers=2, tasks=3, models=4):
    """Up to so many of each; their limits of every kind."""
    size = Size(
        draw(st.integers(1, robots)),
        draw(st.integers(0, servers)),
        draw(st.integers(1, tasks)),
        draw(st.integers(1, models)),
        draw(st.booleans()),
        draw(st.sampled_from(LIMITS)),
    )
    return random_problem(draw(st.integers(0, 2**32 - 1)), size)


def every_loading(options: Options):
    """All sets of candidates that fit the nodes' memory, as flags."""
    count = len(options.node)
    for chosen in itertools.product((False, True), repeat=count):
        loaded = np.array(chosen, bool)
        sizes = np.bincount(
            options.node[loaded], options.size_bytes[loaded], len(options.memory_bytes)
        )
        if (sizes <= options.memory_bytes).all():
            yield loaded


def best_by_enumeration(problem: Problem) -> float:
    """The optimum without batches: the best routing of every loading."""
    options = Options.of(problem)
    return max(
        (route(options, loaded[options.candidate]).value for loaded in every_loading(options)),
        default=0.0,
    )
