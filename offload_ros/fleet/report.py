"""An assignment as tables and as a picture."""

from __future__ import annotations

from collections import defaultdict
import math
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from offload_ros.fleet.assignment import Assignment
from offload_ros.fleet.problem import KINDS, Problem
from offload_ros.fleet.reasons import remarks

COLOURS = ('#4c78a8', '#f58518', '#54a24b', '#bab0ac')  # of the kinds of nodes, and of no answer
MOST_BARS = 60  # of the picture, per panel; of more the busiest are drawn


def node_loads(problem: Problem, assignment: Assignment) -> dict[str, float]:
    """Share of its time that each node computes."""
    found: dict[str, float] = dict.fromkeys(problem.node, 0.0)
    for each in assignment.routes:
        batch = assignment.loaded[each.node][each.model]
        speed = problem.node[each.node].speed
        found[each.node] += (
            each.queries_per_s * problem.model[each.model].batch_s(batch, speed) / batch
        )
    return found


def node_bytes(problem: Problem, assignment: Assignment) -> dict[str, float]:
    """Bytes of the models that each node has loaded."""
    loaded = assignment.loaded
    return {
        name: math.fsum(problem.model[model].size_bytes for model in loaded.get(name, {}))
        for name in problem.node
    }


def link_loads(problem: Problem, assignment: Assignment) -> dict[tuple[str, str], float]:
    """Share of each link's bytes per s."""
    size = {(each.robot, each.task): each.query_bytes for each in problem.demand}
    found: dict[tuple[str, str], float] = dict.fromkeys(problem.link, 0.0)
    for each in assignment.routes:
        for hop in zip(each.path, each.path[1:], strict=False):
            found[hop] += (
                each.queries_per_s
                * size[each.robot, each.task]
                / problem.link[hop].capacity_bytes_per_s
            )
    return found


def print_assignment(problem: Problem, assignment: Assignment, console: Console) -> None:
    """What is loaded, where queries go, how full links are, and what goes unanswered."""
    console.print(_loaded_table(problem, assignment))
    if assignment.routes:
        console.print(_routes_table(problem, assignment))
    loads = link_loads(problem, assignment)
    if any(loads.values()):
        table = Table(title='links')
        for heading, justify in (('link', 'left'), ('used', 'right')):
            table.add_column(heading, justify='right' if justify == 'right' else 'left')
        for ends, load in sorted(loads.items(), key=lambda each: -each[1]):
            if load > 0.0:
                table.add_row(' to '.join(ends), f'{100 * load:.1f} %')
        console.print(table)
    asked = problem.queries_per_s
    if asked:
        console.print(
            f'accuracy {100 * assignment.accuracy(problem):.2f} % of {asked:g} queries/s; '
            f'{100 * assignment.answered(problem):.2f} % answered',
            soft_wrap=True,
            highlight=False,
            markup=False,
        )
    for remark in remarks(problem, assignment):
        console.print(remark, soft_wrap=True, highlight=False, markup=False)


def _loaded_table(problem: Problem, assignment: Assignment) -> Table:
    table = Table(title='loaded')
    for heading in ('node', 'kind'):
        table.add_column(heading)
    for heading in ('memory', 'computing'):
        table.add_column(heading, justify='right')
    table.add_column('models (batch size)')
    loads, sizes = node_loads(problem, assignment), node_bytes(problem, assignment)
    for node in problem.nodes:
        models = assignment.loaded.get(node.name, {})
        names = [f'{name} ({batch})' if batch > 1 else name for name, batch in models.items()]
        memory = f'{sizes[node.name] / 1e9:.2f} of {node.memory_bytes / 1e9:.2f} GB'
        load = f'{100 * loads[node.name]:.1f} %'
        table.add_row(node.name, node.kind, memory, load, ', '.join(names) or '-')
    return table


def _routes_table(problem: Problem, assignment: Assignment) -> Table:
    table = Table(title='routes')
    for heading in ('robot', 'task', 'over', 'node', 'model'):
        table.add_column(heading)
    for heading in ('queries/s', 'share', 'accuracy'):
        table.add_column(heading, justify='right')
    asked = {(each.robot, each.task): each.queries_per_s for each in problem.demand}
    place = {key: at for at, key in enumerate(asked)}
    for each in sorted(assignment.routes, key=lambda e: (place[e.robot, e.task], -e.queries_per_s)):
        table.add_row(
            each.robot,
            each.task,
            ', '.join(each.path[1:-1]),
            each.node,
            each.model,
            f'{each.queries_per_s:.3g}',
            f'{100 * each.queries_per_s / asked[each.robot, each.task]:.1f} %',
            f'{100 * problem.model[each.model].accuracy[each.task]:.1f} %',
        )
    return table


def draw(problem: Problem, assignment: Assignment, path: Path) -> None:
    """Where the queries of each robot go, and how full nodes are. ``ValueError`` for a path that
    cannot be written."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13.0, 5.5), layout='constrained')
    robots = [each.name for each in problem.nodes if each.kind == KINDS[0]][:MOST_BARS]
    to_kind: dict[str, dict[str, float]] = {name: defaultdict(float) for name in problem.node}
    for route in assignment.routes:
        to_kind[route.robot][problem.node[route.node].kind] += route.queries_per_s
    asked: dict[str, float] = defaultdict(float)
    for demand in problem.demand:
        asked[demand.robot] += demand.queries_per_s
    bottom = np.zeros(len(robots))
    for kind, colour in zip((*KINDS, 'unanswered'), COLOURS, strict=True):
        height = np.array([to_kind[name][kind] for name in robots])
        if kind == 'unanswered':
            height = np.maximum([asked[name] for name in robots] - bottom, 0.0)
        left.bar(robots, height, bottom=bottom, color=colour, label=kind)
        bottom += height
    left.set(ylabel='queries/s', title='where queries are answered')
    left.legend()
    loads, sizes = node_loads(problem, assignment), node_bytes(problem, assignment)
    names = sorted(problem.node, key=lambda name: (-loads[name], -sizes[name]))[:MOST_BARS]
    place = np.arange(len(names))
    memory = [100 * sizes[name] / (problem.node[name].memory_bytes or 1.0) for name in names]
    right.bar(place - 0.2, [100 * loads[name] for name in names], 0.4, label='computing')
    right.bar(place + 0.2, memory, 0.4, label='memory', color=COLOURS[1])
    for at, name in enumerate(names):
        # Many labels on one another would tell nothing.
        if len(names) <= 24:
            models = assignment.loaded.get(name, {})
            text = '\n'.join(f'{model} ×{batch}' for model, batch in models.items())
            right.text(at, 1.0, text, rotation=90, ha='center', va='bottom', fontsize=7)
    right.set_xticks(place, labels=names)
    right.set(ylabel='% of what the node has', title='nodes, and what they have loaded')
    right.legend()
    for axis in (left, right):
        axis.tick_params(axis='x', rotation=90)
    asked_sum = problem.queries_per_s
    if asked_sum:
        figure.suptitle(f'accuracy {100 * assignment.accuracy(problem):.2f} % of all queries')
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as error:
        raise ValueError(f'--plot {path}: {error}') from None
    finally:
        pyplot.close(figure)
