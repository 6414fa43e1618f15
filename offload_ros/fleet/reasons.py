"""Why queries go unanswered, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

from offload_ros.fleet.assignment import Assignment
from offload_ros.fleet.options import Options, Path
from offload_ros.fleet.problem import Demand, Model, Problem

SHORT = 1e-3  # share of a demand that may be missing without being spoken of
MOST_NAMES = 5


def remarks(problem: Problem, assignment: Assignment) -> Iterator[str]:
    """On models that fit nowhere, and on demand that is answered in part or not at all."""
    if not problem.queries_per_s:
        yield 'demand: nothing is asked, so nothing is loaded'
    largest = max(node.memory_bytes for node in problem.nodes)
    for model in problem.models:
        if model.size_bytes > largest:
            yield (
                f'models.{model.name}: its {model.size_bytes:g} bytes are more than the memory of '
                f'every node ({largest:g} at most), so it is loaded nowhere'
            )
    answered: dict[tuple[str, str], float] = {}
    for route in assignment.routes:
        key = (route.robot, route.task)
        answered[key] = answered.get(key, 0.0) + route.queries_per_s
    options = Options.of(problem)
    possible = set(options.demands[options.query].tolist())
    for at, demand in enumerate(problem.demand):
        got = answered.get((demand.robot, demand.task), 0.0)
        if demand.queries_per_s - got <= SHORT * demand.queries_per_s:
            continue
        if at not in possible:
            yield f'{demand.place}: cannot be answered: {_why_none(options, demand)}'
        else:
            share = 1.0 - got / demand.queries_per_s
            yield (
                f'{demand.place}: {100.0 * share:.1f} % of its queries go unanswered for want of '
                'computing time, memory or bandwidth'
            )


def _why_none(options: Options, demand: Demand) -> str:
    problem = options.problem
    models = [each for each in problem.models if each.accuracy.get(demand.task, 0.0) > 0.0]
    if not models:
        return f'no model has task {demand.task} with an accuracy above 0'
    paths = [each for each in options.paths if problem.nodes[each.nodes[0]].name == demand.robot]
    reach = _names(problem, paths)
    paths = [each for each in paths if problem.nodes[each.nodes[-1]].load_limit > 0.0]
    if not paths:
        return f'load_limit is 0 on every node within reach ({reach})'
    ways = [
        (path, problem.nodes[path.nodes[-1]], model)
        for path in paths
        for model in models
        if problem.nodes[path.nodes[-1]].can_run(model.name)
    ]
    if not ways:
        return f'no node within reach ({reach}) can run a model with this task'
    latencies = [
        (_latency_s(problem, demand, path, model), model.name, node.name)
        for path, node, model in ways
        if model.size_bytes <= node.memory_bytes
    ]
    if not latencies:
        return f'no model with this task fits the memory of a node within reach ({reach})'
    latency_s, model_name, node_name = min(latencies)
    return (
        f'the fastest, {model_name} on {node_name}, takes {1e3 * latency_s:.0f} ms '
        f'of {1e3 * problem.limit_s(demand):.0f} ms'
    )


def _names(problem: Problem, paths: list[Path]) -> str:
    names = list(dict.fromkeys(problem.nodes[each.nodes[-1]].name for each in paths))
    return ', '.join([*names[:MOST_NAMES], *(['...'] if len(names) > MOST_NAMES else [])])


def _latency_s(problem: Problem, demand: Demand, path: Path, model: Model) -> float:
    links = [problem.links[at] for at in path.links]
    on_links = sum(
        each.latency_s + demand.query_bytes / each.capacity_bytes_per_s for each in links
    )
    return on_links + model.batch_s(1, problem.nodes[path.nodes[-1]].speed)
