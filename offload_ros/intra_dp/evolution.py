"""The paper's own way: differential evolution over the rows of every operator.

Intra-DP, equations 2 and 3. Variables: of each operator v the rows x_M(v) that the robot computes
and x_R(v), those of the server. Both are contiguous, together they are all of them, and they may
overlap; here the robot has the low ones, so that two numbers in [0, 1] are the variables: where the
robot's rows end and where the server's begin. Minimised is the start of the output on the robot,
where a side starts v when its own work before it has ended and what it lacks has arrived. Transfers
after operators whose output is larger than the model's input are forbidden in the paper; here such
an operator joins its reader where that is no loss (``coarse``), and is dear otherwise.

It is SciPy's, with its usual strategy. Device-only and server-only are in the first population. It
takes a minute for what ``planner`` finds in a second, and finds less; it is here to be compared.
"""

from __future__ import annotations

import numpy as np

from offload_ros.baselines.problem import Problem
from offload_ros.graph.methods import device, server
from offload_ros.graph.profile import Floats
from offload_ros.graph.split_plan import Plan
from offload_ros.graph.steps_flow import flow_of
from offload_ros.intra_dp.planner import Search, best_plan
from offload_ros.intra_dp.streams import Streams
from offload_ros.intra_dp.tiles import steps_of

EVALUATIONS = 30_000
PEOPLE = 4  # for each variable
Rows = list[tuple[float, float]]


def intra_dp_de(problem: Problem, evaluations: int = EVALUATIONS, seed: int = 0) -> Plan:
    """The best plan met; never worse than device-only and server-only. Equal seeds, equal plans."""
    from scipy.optimize import differential_evolution

    streams = Search.of(problem.subject).streams
    count = 2 * len(streams.coarse)
    people = PEOPLE * count
    random = np.random.default_rng(seed)
    first = random.random((people, count))
    first[0], first[1] = 1.0, 0.0
    found = differential_evolution(
        lambda shares: _rank(streams, shares, problem),
        [(0.0, 1.0)] * count,
        init=first,
        maxiter=max(1, evaluations // people - 1),
        polish=False,
        seed=seed,
    )
    robot, server_ = _expanded(streams, *rows_of(streams, found.x))
    plan = Plan(problem.profile, robot, server_)
    return best_plan(problem, [device(problem), server(problem), plan])


def rows_of(streams: Streams, shares: Floats) -> tuple[Rows, Rows]:
    """Rows of robot and server by group; ``shares``: where the robot's end, then where the server's
    begin. A barrier goes to the side that has more of it."""
    reads = streams.coarse.reads
    count = len(reads.width)
    robot: Rows = []
    server_: Rows = []
    for place, width in enumerate(reads.width):
        end, begin = float(shares[place]), float(shares[count + place])
        if begin > end:
            end = begin = (begin + end) / 2.0
        if not reads.split[place]:
            end = begin = round((begin + end) / 2.0)
        end, begin = end * width, begin * width
        if reads.exact:
            end, begin = float(round(end)), float(round(begin))
        if reads.is_input[place]:
            end = begin = 0.0  # computed by nobody
            width = 0.0
        robot.append((0.0, end))
        server_.append((begin, width))
    return robot, server_


def _rank(streams: Streams, shares: Floats, problem: Problem) -> float:
    reads = streams.coarse.reads
    robot, server_ = rows_of(streams, shares)
    flow = flow_of(reads, steps_of(reads, robot, ()), steps_of(reads, server_, ()))
    # SciPy calculates with the ranks: no infinities.
    return min(streams.rank_flow(flow, problem), 1e9)


def _expanded(streams: Streams, *sides: Rows) -> tuple[Floats, Floats]:
    """Rows by operator of the profile: within a group, what its last operator needs."""
    coarse = streams.coarse
    reads = coarse.fine_reads
    found = []
    for rows in sides:
        whole = np.zeros((len(reads.width), 2))
        for (first, last), interval in zip(coarse.members, rows, strict=True):
            if interval[1] > interval[0]:
                whole[last - 1] = interval
            for place in range(last - 1, first - 1, -1):
                start, stop = whole[place].tolist()
                if stop <= start:
                    continue
                for producer, low, high in reads.of(place, start, stop):
                    if producer < first:
                        continue
                    a, b = whole[producer].tolist()
                    whole[producer] = (min(a, low), max(b, high)) if b > a else (low, high)
        found.append(whole)
    order = [streams.profile.positions[each.id] for each in coarse.fine.operators]
    result = [np.zeros_like(each) for each in found]
    for own, rows_ in zip(result, found, strict=True):
        own[order] = rows_
    for place, operator in enumerate(streams.profile.operators):
        if operator.is_input:
            result[0][place] = 0.0, operator.width
    return result[0], result[1]
