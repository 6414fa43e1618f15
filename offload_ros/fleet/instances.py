"""Random fleets, by seed: the same on every machine with the same version of NumPy.

Models are drawn from slow, large and accurate to fast, small and poor, each for some of the tasks;
speeds, memory and links are then scaled so that what is named tight is asked for more of than is
there, and the rest is ample. Times are those of networks on small robot computers (tens to hundreds
of ms), sizes those of their weights and activations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from offload_ros.fleet.problem import CLOUD, ROBOT, SERVER, Demand, Link, Model, Node, Problem, Task

LIMITS = ('loose', 'compute', 'memory', 'links', 'tight')


@dataclass(frozen=True)
class Size:
    """How much of everything; ``limits``: which of them are tight."""

    robots: int
    servers: int
    tasks: int
    models: int
    cloud: bool = True
    limits: str = 'loose'

    def __post_init__(self) -> None:
        for name in ('robots', 'tasks', 'models'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} is at least 1, not {getattr(self, name)!r}')
        if self.servers < 0:
            raise ValueError(f'servers is at least 0, not {self.servers!r}')
        if self.limits not in LIMITS:
            raise ValueError(f'limits is one of {", ".join(LIMITS)}, not {self.limits!r}')

    @classmethod
    def random(cls, rng: np.random.Generator, limits: str) -> Size:
        """3 to 50 robots, 1 to 5 servers, 2 to 8 tasks, 4 to 20 models, in half a cloud."""
        return cls(
            robots=int(rng.integers(3, 51)),
            servers=int(rng.integers(1, 6)),
            tasks=int(rng.integers(2, 9)),
            models=int(rng.integers(4, 21)),
            cloud=bool(rng.random() < 0.5),
            limits=limits,
        )


def random_problem(seed: int | tuple[int, ...], size: Size) -> Problem:
    """A fleet of this size."""
    rng = np.random.default_rng(seed)
    tasks = [Task(f'task{at}', _rounded(rng.uniform(0.15, 1.0))) for at in range(size.tasks)]
    models = _models(rng, size)
    demand = _demand(rng, size)
    tight = {name: size.limits in (name, 'tight') for name in ('compute', 'memory', 'links')}
    nodes = _nodes(rng, size, models, demand, tight)
    return Problem(
        tuple(nodes),
        tuple(_links(rng, size, demand, tight['links'])),
        tuple(tasks),
        tuple(models),
        tuple(demand),
    )


def _rounded(value: float) -> float:
    return float(f'{value:.4g}')


def _models(rng: np.random.Generator, size: Size) -> list[Model]:
    best = rng.uniform(0.75, 0.97, size.tasks)
    loss = rng.uniform(0.1, 0.45, size.tasks)  # of the smallest networks
    covered = [rng.permutation(size.tasks) for _ in range(size.models)]
    found = []
    for at in range(size.models):
        capacity = rng.random()
        count = int(min(size.tasks, 1 + rng.binomial(size.tasks, 0.35)))
        # Every task has some model.
        own = {int(each) for each in covered[at][:count]} | {
            task for task in range(size.tasks) if task % size.models == at
        }
        shared = 0.01 * (len(own) - 1)  # what tasks lose by sharing one network
        accuracy = {
            f'task{task}': _rounded(
                float(
                    np.clip(
                        best[task]
                        - loss[task] * (1.0 - capacity) ** 1.5
                        - shared
                        + rng.normal(0.0, 0.02),
                        0.05,
                        0.99,
                    )
                )
            )
            for task in sorted(own)
        }
        heads = 1.0 + 0.1 * (len(own) - 1)
        work_s = 0.012 * 20.0**capacity * heads * rng.lognormal(0.0, 0.2)
        fixed = rng.uniform(0.15, 0.75)  # share of a single query's time that a batch shares
        found.append(
            Model(
                f'model{at}',
                round(6e7 * 25.0**capacity * heads * rng.lognormal(0.0, 0.25)),
                accuracy,
                _rounded(work_s * fixed),
                _rounded(work_s * (1.0 - fixed)),
            )
        )
    return found


def _demand(rng: np.random.Generator, size: Size) -> list[Demand]:
    query_bytes = rng.lognormal(np.log(60e3), 0.7, size.tasks)
    found = []
    for robot in range(size.robots):
        asks = rng.random(size.tasks) < 0.7
        asks[int(rng.integers(size.tasks))] = True
        for task in np.flatnonzero(asks):
            rate = _rounded(rng.lognormal(np.log(3.0), 0.7))
            found.append(
                Demand(f'robot{robot}', f'task{task}', rate, round(float(query_bytes[task])))
            )
    return found


def _nodes(
    rng: np.random.Generator,
    size: Size,
    models: list[Model],
    demand: list[Demand],
    tight: dict[str, bool],
) -> list[Node]:
    typical_s = float(np.median([each.work_s for each in models]))
    asked = sum(each.queries_per_s for each in demand) * typical_s  # reference nodes kept busy
    sizes = sorted(each.size_bytes for each in models)
    # Robots take a model or two of the smaller ones, servers some of all.
    on_robot = float(np.quantile(sizes, 0.3)) * (1.2 if tight['memory'] else 2.5)
    on_server = sum(sizes) * (0.15 if tight['memory'] else 0.4)
    robots_share = 0.15 if tight['compute'] else 0.5
    servers_share = 0.45 if tight['compute'] else 1.5
    helpers = max(1, size.servers + size.cloud)

    def node(name: str, kind: str, memory: float, speed: float) -> Node:
        spread = rng.lognormal(0.0, 0.3, 2)
        return Node(name, kind, round(memory * spread[0]), _rounded(speed * spread[1]))

    robots = [
        node(f'robot{at}', ROBOT, on_robot, max(0.2, robots_share * asked / size.robots))
        for at in range(size.robots)
    ]
    servers = [
        node(f'server{at}', SERVER, on_server, max(1.0, servers_share * asked / helpers))
        for at in range(size.servers)
    ]
    clouds = [
        node('cloud', CLOUD, 1.5 * on_server, max(2.0, 2.0 * servers_share * asked / helpers))
        for _ in range(size.cloud)
    ]
    return [*robots, *servers, *clouds]


def _links(rng: np.random.Generator, size: Size, demand: list[Demand], tight: bool) -> list[Link]:
    asked: dict[str, float] = {}
    for each in demand:
        load = each.queries_per_s * each.query_bytes
        asked[each.robot] = asked.get(each.robot, 0.0) + load
    found = []

    def link(source: str, target: str, capacity: float, latency_s: float) -> Link:
        settings: dict[str, Any] = {
            'capacity_bytes_per_s': round(max(capacity, 1e5) * rng.lognormal(0.0, 0.4)),
            'latency_s': _rounded(latency_s * rng.lognormal(0.0, 0.3)),
        }
        return Link(source, target, **settings)

    for robot, load in asked.items():
        near = rng.random(size.servers) < 0.75
        if size.servers:
            near[int(rng.integers(size.servers))] = True
        for server in np.flatnonzero(near).tolist():
            share = (0.6 if tight else 4.0) / max(1, int(near.sum()))
            found.append(link(robot, f'server{server}', max(share * load, 6e5), 0.006))
    total = sum(asked.values())
    for server in range(size.servers if size.cloud else 0):
        share = (0.15 if tight else 1.0) / size.servers
        found.append(link(f'server{server}', 'cloud', share * total, 0.04))
    return found
