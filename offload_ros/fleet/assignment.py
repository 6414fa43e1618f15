"""An answer to a problem: what is loaded where, and where queries go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
import math
from typing import Any

from offload_ros.fleet.problem import Problem


@dataclass(frozen=True)
class Route:
    """``path``: nodes from the robot (included) to the one that answers."""

    task: str
    path: tuple[str, ...]
    model: str
    queries_per_s: float

    @property
    def robot(self) -> str:
        return self.path[0]

    @property
    def node(self) -> str:
        return self.path[-1]


@dataclass(frozen=True)
class Assignment:
    """``loaded``: for each node its models with the batch size that each is run with."""

    loaded: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    routes: tuple[Route, ...] = ()

    def value(self, problem: Problem) -> float:
        """Right answers per second."""
        return math.fsum(
            each.queries_per_s * problem.model[each.model].accuracy[each.task]
            for each in self.routes
        )

    def accuracy(self, problem: Problem) -> float:
        """Share of all queries that is answered rightly; NaN where nothing is asked."""
        asked = problem.queries_per_s
        return self.value(problem) / asked if asked else math.nan

    def answered(self, problem: Problem) -> float:
        """Share of all queries that is answered; NaN where nothing is asked."""
        asked = problem.queries_per_s
        return math.fsum(each.queries_per_s for each in self.routes) / asked if asked else math.nan

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            'loaded': {node: dict(models) for node, models in self.loaded.items()},
            'routes': [
                {
                    'task': each.task,
                    'path': list(each.path),
                    'model': each.model,
                    'queries_per_s': each.queries_per_s,
                }
                for each in self.routes
            ],
        }
