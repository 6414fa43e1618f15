"""The exact mixed-integer program (HiGHS): what J3O is measured against."""

from __future__ import annotations

from dataclasses import dataclass
import math
import time

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from offload_ros.fleet.assignment import Assignment
from offload_ros.fleet.options import Floats, Options
from offload_ros.fleet.problem import Problem
from offload_ros.fleet.routing import route

GAP = 1e-4
MEMORY_MARGIN = 1e-9  # the solver lets rows be exceeded by about 1e-6


@dataclass(frozen=True)
class Exact:
    """value and bound: right answers per s of the assignment, and more than which none has;
    optimal: within the gap; took_s: for all of it."""

    assignment: Assignment
    value: float
    bound: float
    optimal: bool
    took_s: float


def exact(problem: Problem, time_limit_s: float = 60.0, gap: float = GAP) -> Exact:
    """The best assignment without batching, or the best that was found in time.

    Variables are the share of each option, and for each candidate whether it is loaded. Rows: at
    most all of each demand; no share of what is not loaded; memory; time of nodes; bytes of links.
    """
    if not time_limit_s > 0.0:
        raise ValueError(f'time_limit_s is above 0, not {time_limit_s!r}')
    began_s = time.perf_counter()
    options = Options.of(problem)
    most = math.fsum(options.rate)
    if not len(options):
        return Exact(Assignment(), 0.0, 0.0, True, time.perf_counter() - began_s)
    shares, candidates = len(options), len(options.node)
    matrix, upper = _rows(options)
    solved = milp(
        np.concatenate([-options.value, np.zeros(candidates)]),
        constraints=LinearConstraint(matrix, -np.inf, upper),
        bounds=Bounds(0.0, 1.0),
        integrality=np.concatenate([np.zeros(shares), np.ones(candidates)]),
        options={'time_limit': time_limit_s, 'mip_rel_gap': gap},
    )
    bound = getattr(solved, 'mip_dual_bound', None)
    bound = most if bound is None or not math.isfinite(bound) else min(most, -bound)
    if solved.x is None:
        if solved.status != 1:
            raise RuntimeError(f'the mixed-integer program was not solved: {solved.message}')
        return Exact(Assignment(), 0.0, bound, False, time.perf_counter() - began_s)
    loaded = solved.x[shares:] > 0.5
    # Shares anew: those of the solver may lean on a model that is loaded to one millionth.
    routing = route(options, loaded[options.candidate])
    assert routing is not None
    return Exact(
        options.assignment(loaded, routing.share),
        routing.value,
        max(bound, routing.value),
        solved.status == 0,
        time.perf_counter() - began_s,
    )


def _rows(options: Options) -> tuple[sparse.csc_array, Floats]:
    shares, candidates = len(options), len(options.node)
    queries, pairs, nodes = len(options.rate), len(options.pair_query), len(options.memory_bytes)
    number = np.arange(shares)
    pair_of = np.repeat(np.arange(pairs), np.diff(np.append(options.pair_begin, shares)))
    scarce = np.flatnonzero(np.isfinite(options.limit))
    there = options.use > 0.0
    # Memory in shares of the node's, so that all rows are of one magnitude.
    part = options.size_bytes / options.memory_bytes[options.node]
    columns = shares + np.arange(candidates)
    rows = np.concatenate(
        [
            options.query,
            queries + pair_of,
            queries + np.arange(pairs),
            queries + pairs + options.node,
            queries + pairs + nodes + options.resources[there],
        ]
    )
    places = np.concatenate(
        [
            number,
            number,
            columns[options.pair_candidate],
            columns,
            np.broadcast_to(number[:, None], there.shape)[there],
        ]
    )
    entries = np.concatenate(
        [
            np.ones(shares),
            np.ones(shares),
            -np.ones(pairs),
            part,
            options.use[there],
        ]
    )
    upper = np.concatenate(
        [
            np.ones(queries),
            np.zeros(pairs),
            np.full(nodes, 1.0 + MEMORY_MARGIN),
            options.limit[scarce],
        ]
    )
    shape = (len(upper), shares + candidates)
    return sparse.csc_array((entries, (rows, places)), shape=shape), upper
