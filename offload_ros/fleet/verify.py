"""Whether an assignment keeps all limits of a problem, computed from the problem's own numbers.

Shares no code with the solvers, so that a mistake of theirs shows.
"""

from __future__ import annotations

from collections import defaultdict

from offload_ros.fleet.assignment import Assignment, Route
from offload_ros.fleet.problem import ROBOT, Problem

TOLERANCE = 1e-6  # relative; solvers of linear programs are not exact


def violations(problem: Problem, assignment: Assignment) -> list[str]:
    """One sentence for each limit that is not kept; empty: all are."""
    found = _loading(problem, assignment)
    asked = {(each.robot, each.task) for each in problem.demand}
    sound = []
    for route in assignment.routes:
        faults = _route_faults(problem, assignment, asked, route)
        found += faults
        if not faults:
            sound.append(route)
    # Sums only over routes that make sense, for which everything below is defined.
    found += _answered(problem, sound)
    found += _links(problem, sound)
    found += _computing(problem, assignment, sound)
    found += _latencies(problem, assignment, sound)
    return found


def _exceeds(value: float, limit: float) -> bool:
    return value > limit + TOLERANCE * max(abs(limit), 1e-9)


def _loading(problem: Problem, assignment: Assignment) -> list[str]:
    found = []
    for name, models in assignment.loaded.items():
        node = problem.node.get(name)
        if node is None:
            found.append(f'{name} is no node')
            continue
        for model, batch in models.items():
            if model not in problem.model:
                found.append(f'{name} loads {model}, which is no model')
            if not node.can_run(model):
                found.append(f'{name} loads {model}, which it cannot run')
            if batch not in [2**power for power in range(11) if 2**power <= node.max_batch]:
                found.append(f'{name} runs {model} in batches of {batch}')
        size = sum(problem.model[each].size_bytes for each in models if each in problem.model)
        if _exceeds(size, node.memory_bytes):
            found.append(f'{name} loads {size:g} bytes of {node.memory_bytes:g}')
    return found


def _route_faults(
    problem: Problem, assignment: Assignment, asked: set[tuple[str, str]], route: Route
) -> list[str]:
    found = []
    about = f'{route.task} of {" to ".join(route.path)}'
    if not route.queries_per_s > 0.0:
        found.append(f'{about}: {route.queries_per_s} queries per s')
    if route.robot not in problem.node or problem.node[route.robot].kind != ROBOT:
        found.append(f'{about}: begins at no robot')
    if len(set(route.path)) != len(route.path):
        found.append(f'{about}: goes in a circle')
    for hop in zip(route.path, route.path[1:], strict=False):
        if hop not in problem.link:
            found.append(f'{about}: there is no link {hop[0]} to {hop[1]}')
    batch = assignment.loaded.get(route.node, {}).get(route.model)
    if batch is None:
        found.append(f'{about}: {route.model} is not loaded on {route.node}')
    elif batch < 1:
        found.append(f'{about}: {route.model} on {route.node} computes no query at once')
    if route.model not in problem.model or route.task not in problem.model[route.model].accuracy:
        found.append(f'{about}: {route.model} has no such task')
    if (route.robot, route.task) not in asked:
        found.append(f'{about}: nobody asks')
    return found


def _answered(problem: Problem, routes: list[Route]) -> list[str]:
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for route in routes:
        sums[route.robot, route.task] += route.queries_per_s
    return [
        f'{each.place}: {sums[each.robot, each.task]:g} of {each.queries_per_s:g} queries per s'
        for each in problem.demand
        if _exceeds(sums[each.robot, each.task], each.queries_per_s)
    ]


def _links(problem: Problem, routes: list[Route]) -> list[str]:
    query_bytes = {(each.robot, each.task): each.query_bytes for each in problem.demand}
    sums: dict[tuple[str, str], float] = defaultdict(float)
    for route in routes:
        for hop in zip(route.path, route.path[1:], strict=False):
            sums[hop] += route.queries_per_s * query_bytes[route.robot, route.task]
    return [
        f'{each.place}: {sums[ends]:g} of {each.capacity_bytes_per_s:g} bytes per s'
        for ends, each in problem.link.items()
        if _exceeds(sums[ends], each.capacity_bytes_per_s)
    ]


def _computing(problem: Problem, assignment: Assignment, routes: list[Route]) -> list[str]:
    sums: dict[str, float] = defaultdict(float)
    for route in routes:
        batch = assignment.loaded[route.node][route.model]
        model, speed = problem.model[route.model], problem.node[route.node].speed
        batches_per_s = route.queries_per_s / batch
        sums[route.node] += batches_per_s * (model.alpha_s + model.beta_s * batch) / speed
    return [
        f'{name} computes {sums[name]:g} of {node.load_limit:g} of its time'
        for name, node in problem.node.items()
        if _exceeds(sums[name], node.load_limit)
    ]


def _latencies(problem: Problem, assignment: Assignment, routes: list[Route]) -> list[str]:
    """Links, the mean wait for a batch to fill, and the batch."""
    arriving: dict[tuple[str, str], float] = defaultdict(float)
    for route in routes:
        arriving[route.node, route.model] += route.queries_per_s
    asked = {(each.robot, each.task): each for each in problem.demand}
    found = []
    for route in routes:
        demand = asked[route.robot, route.task]
        batch = assignment.loaded[route.node][route.model]
        model, speed = problem.model[route.model], problem.node[route.node].speed
        latency_s = (model.alpha_s + model.beta_s * batch) / speed
        latency_s += (batch - 1) / (2.0 * arriving[route.node, route.model])
        for hop in zip(route.path, route.path[1:], strict=False):
            link = problem.link[hop]
            latency_s += link.latency_s + demand.query_bytes / link.capacity_bytes_per_s
        limit_s = demand.latency_limit_s or problem.task[demand.task].latency_limit_s
        if _exceeds(latency_s, limit_s):
            found.append(
                f'{demand.place} by {route.model} on {route.node} takes {latency_s:g} s '
                f'of {limit_s:g} s'
            )
    return found
