"""A plan as managers follow it: ROS names, models of ``models.yaml``, shares of frames."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Sequence
from dataclasses import dataclass
import math
from typing import NamedTuple

from offload_ros.fleet.assignment import Assignment, Route
from offload_ros.fleet.problem import Problem

ROUNDING = 1e-6  # of sums of shares
LEAST_SHARE = 1e-3  # a route with less, or less than this left over, is not worth its row
MOST_BEAT_S = 60.0


@dataclass(frozen=True)
class PlannedRoute:
    """server: full name, empty: on the robot; variant: of the task's model; share: of the robot's
    frames of that task, above 0."""

    server: str
    variant: str
    share: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.share) and 0.0 < self.share <= 1.0 + ROUNDING):
            raise ValueError(f'the share of a route is above 0 and at most 1, not {self.share!r}')
        if not self.variant:
            raise ValueError('a route names no variant')

    def __str__(self) -> str:
        where = f'server {self.server}' if self.server else 'robot'
        return f'{where}, variant {self.variant}'


@dataclass(frozen=True)
class PlannedTask:
    """robot: full name of its manager; task: a model of its ``models.yaml``; queries_per_s: planned
    for. Shares of routes add up to at most 1."""

    robot: str
    task: str
    queries_per_s: float
    routes: tuple[PlannedRoute, ...] = ()

    def __post_init__(self) -> None:
        about = f'{self.task} of {self.robot}'
        if not (math.isfinite(self.queries_per_s) and self.queries_per_s >= 0.0):
            raise ValueError(f'{about}: {self.queries_per_s!r} queries per s')
        ways = [(each.server, each.variant) for each in self.routes]
        if len(set(ways)) != len(ways):
            raise ValueError(f'{about}: one route is there twice')
        total = math.fsum(each.share for each in self.routes)
        if total > 1.0 + ROUNDING:
            raise ValueError(f'{about}: shares add up to {total:g}, more than 1')


class LoadedModel(NamedTuple):
    """A model of ``models.yaml`` and which of its networks."""

    task: str
    variant: str


@dataclass(frozen=True)
class PlannedNode:
    """name: in the fleet file; address: its ROS node; models: to be loaded there."""

    name: str
    address: str
    models: tuple[LoadedModel, ...] = ()


@dataclass(frozen=True)
class FleetPlan:
    """See ``msg/FleetPlan.msg``. ``ValueError`` says what cannot be followed."""

    planner: str
    session: str
    version: int
    beat_s: float
    silent_s: float
    tasks: tuple[PlannedTask, ...] = ()
    nodes: tuple[PlannedNode, ...] = ()
    accuracy: float = math.nan
    reason: str = ''
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.planner or not self.session:
            raise ValueError('planner and session are not empty')
        if not 0.0 < self.beat_s < self.silent_s <= MOST_BEAT_S:  # false for NaN too
            raise ValueError(
                f'beat_s ({self.beat_s:g}) is above 0 and below silent_s ({self.silent_s:g}), '
                f'that at most {MOST_BEAT_S:g}'
            )
        seen: set[tuple[str, str]] = set()
        for each in self.tasks:
            if (each.robot, each.task) in seen:
                raise ValueError(f'{each.task} of {each.robot} is there twice')
            seen.add((each.robot, each.task))


def planned_tasks(problem: Problem, assignment: Assignment) -> tuple[PlannedTask, ...]:
    """Shares of each demand by answering node and model, whatever path leads there."""
    answered: dict[tuple[str, str], dict[tuple[str, str], float]] = defaultdict(dict)
    for route in assignment.routes:
        ways = answered[route.robot, route.task]
        way = ('' if route.node == route.robot else route.node, route.model)
        ways[way] = ways.get(way, 0.0) + route.queries_per_s
    found = []
    for demand in problem.demand:
        if demand.queries_per_s > 0.0:
            ways = answered[demand.robot, demand.task]
            shares = [each / demand.queries_per_s for each in ways.values()]
            routes = tuple(
                PlannedRoute(problem.node[node].address if node else '', model, share)
                for (node, model), share in zip(ways, _tidy(shares), strict=True)
                if share > 0.0
            )
            robot = problem.node[demand.robot].address
            found.append(PlannedTask(robot, demand.task, demand.queries_per_s, routes))
    return tuple(found)


def planned_nodes(
    problem: Problem, assignment: Assignment, there: Container[str]
) -> tuple[PlannedNode, ...]:
    """Of nodes that are there. A network for several tasks is one model of ``models.yaml`` for
    each."""
    wanted: dict[str, set[LoadedModel]] = defaultdict(set)
    for route in assignment.routes:
        wanted[route.node].add(LoadedModel(route.task, route.model))
    return tuple(
        PlannedNode(node.name, node.address, tuple(sorted(wanted[node.name])))
        for node in problem.nodes
        if node.name in there
    )


def one_variant_each(problem: Problem, assignment: Assignment) -> Assignment:
    """The same where a robot answers each of its tasks with one model at most, as managers do.

    All that it would answer with several goes to the quickest of them: no limit is exceeded, some
    accuracy is lost.
    """
    quickest: dict[tuple[str, str], str] = {}
    for route in assignment.routes:
        if len(route.path) == 1:
            key = (route.robot, route.task)
            others = (quickest.get(key, route.model), route.model)
            quickest[key] = min(others, key=lambda name: problem.model[name].work_s)
    routes: dict[tuple[str, tuple[str, ...], str], float] = {}
    for route in assignment.routes:
        model = quickest[route.robot, route.task] if len(route.path) == 1 else route.model
        way = (route.task, route.path, model)
        routes[way] = routes.get(way, 0.0) + route.queries_per_s
    kept = tuple(Route(*way, queries_per_s) for way, queries_per_s in routes.items())
    used = {(each.node, each.model) for each in kept}
    loaded = {
        node: {model: batch for model, batch in models.items() if (node, model) in used}
        for node, models in assignment.loaded.items()
    }
    return Assignment(loaded, kept)


def _tidy(shares: Sequence[float]) -> list[float]:
    """Without what is negligible, and adding up to 1 where nothing else is left over; 0: none."""
    kept = [each if each >= LEAST_SHARE else 0.0 for each in shares]
    left = 1.0 - math.fsum(kept)
    if kept and any(kept) and left <= LEAST_SHARE * (1 + len(kept)):
        total = math.fsum(kept)
        return [each / total for each in kept]
    return kept
