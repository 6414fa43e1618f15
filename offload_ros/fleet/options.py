"""A problem as arrays: every way in which queries can be answered, and what it takes.

A *candidate* is a model that fits the memory of a node that may compute. An *option* sends the
queries of one robot and task over a path to a candidate. *Resources* are the time of nodes and the
bytes of links, each with what is there of it; numbers of an option are for all of its queries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from offload_ros.fleet.assignment import Assignment, Route
from offload_ros.fleet.problem import CLOUD, ROBOT, SERVER, Problem

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]
NEGLIGIBLE = 1e-9  # share of queries that is taken for none
TOUCHING = 1e-9  # relative; a latency this much above its limit is at the limit


class Path(NamedTuple):
    """``links``: at most two, places in ``Problem.links``."""

    nodes: tuple[int, ...]
    links: tuple[int, ...]


def summed(places: Ints, weights: Floats, count: int) -> Floats:
    """(count,) sums of weights (N,) by place (N,)."""
    return np.asarray(np.bincount(places, weights, minlength=count), np.float64)


@dataclass(frozen=True, eq=False)
class Options:
    """Sorted by candidate, then by query.

    Queries (Q,): rate per s, limit_s, demands (place in ``Problem.demand``). Candidates (C,): node,
    model, size_bytes. Options (O,): query, candidate, path (place in ``paths``), value (right
    answers per s), path_s (latency without computing), resources (O, 3: of the node and up to two
    links; R: none) and use (O, 3) of them. Resources (R + 1,): limit, infinite for none. Pairs (P,)
    are of a candidate and a query: pair_begin, where their options are; candidate_pairs (C + 1,),
    where the pairs of candidates are.
    """

    problem: Problem
    demands: Ints
    rate: Floats
    limit_s: Floats
    node: Ints
    model: Ints
    size_bytes: Floats
    query: Ints
    candidate: Ints
    path: Ints
    value: Floats
    path_s: Floats
    resources: Ints
    use: Floats
    limit: Floats
    memory_bytes: Floats
    paths: tuple[Path, ...]
    pair_begin: Ints
    pair_query: Ints
    pair_candidate: Ints
    candidate_pairs: Ints

    def __len__(self) -> int:
        return len(self.query)

    @classmethod
    def of(cls, problem: Problem) -> Options:
        """Those that are within the latency limits without batching."""
        return _Builder(problem).build()

    def node_candidates(self) -> list[Ints]:
        """For each node its candidates."""
        order = np.argsort(self.node, kind='stable')
        ends = np.searchsorted(self.node[order], np.arange(len(self.problem.nodes) + 1))
        return [order[ends[at] : ends[at + 1]] for at in range(len(self.problem.nodes))]

    def priced(self, price: Floats, use: Floats | None = None) -> Floats:
        """(O,) value less the prices (R + 1,) of what is taken (``use``, O, 3; default: of
        queries one by one)."""
        taken = self.use if use is None else use
        found: Floats = self.value - np.einsum('ok,ok->o', taken, price[self.resources])
        return found

    def pair_values(self, priced: Floats) -> Floats:
        """(P,) of the best path of each pair."""
        if not len(priced):
            return priced
        return np.maximum.reduceat(priced, self.pair_begin)

    def assignment(self, loaded: Flags, share: Floats, batch: Ints | None = None) -> Assignment:
        """Of loaded candidates (C,), shares (O,) of the queries, and batch sizes (C,)."""
        problem = self.problem
        sizes = np.ones(len(self.node), np.int64) if batch is None else batch
        models: dict[str, dict[str, int]] = {}
        for at in np.flatnonzero(loaded):
            name = problem.nodes[self.node[at]].name
            models.setdefault(name, {})[problem.models[self.model[at]].name] = int(sizes[at])
        routes = []
        for at in np.flatnonzero(share > NEGLIGIBLE):
            demand = problem.demand[self.demands[self.query[at]]]
            path = self.paths[self.path[at]]
            routes.append(
                Route(
                    demand.task,
                    tuple(problem.nodes[each].name for each in path.nodes),
                    problem.models[self.model[self.candidate[at]]].name,
                    float(share[at] * demand.queries_per_s),
                )
            )
        return Assignment(models, tuple(routes))


class _Builder:
    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.places = {node.name: at for at, node in enumerate(problem.nodes)}
        self.demands = np.array(
            [at for at, each in enumerate(problem.demand) if each.queries_per_s > 0.0], np.int64
        )
        chosen = [problem.demand[at] for at in self.demands]
        self.rate = np.array([each.queries_per_s for each in chosen])
        self.bytes = np.array([each.query_bytes for each in chosen])
        self.limit_s = np.array([problem.limit_s(each) for each in chosen])
        self.robot = np.array([self.places[each.robot] for each in chosen], np.int64)
        task = {each.name: at for at, each in enumerate(problem.tasks)}
        self.task = np.array([task[each.task] for each in chosen], np.int64)
        self.accuracy = np.array(
            [[model.accuracy.get(name, np.nan) for name in task] for model in problem.models]
        )
        self.work_s = np.array([each.work_s for each in problem.models])
        self.size = np.array([each.size_bytes for each in problem.models], np.float64)
        self.speed = np.array([each.speed for each in problem.nodes])
        self.memory = np.array([each.memory_bytes for each in problem.nodes], np.float64)
        self.load_limit = np.array([each.load_limit for each in problem.nodes])
        self.can_run = np.array(
            [[node.can_run(each.name) for each in problem.models] for node in problem.nodes]
        )

    def paths(self) -> list[Path]:
        """Of all robots, sorted by robot."""
        problem = self.problem
        outgoing: list[list[tuple[int, int]]] = [[] for _ in problem.nodes]
        for at, link in enumerate(problem.links):
            outgoing[self.places[link.source]].append((self.places[link.target], at))
        found = []
        for at, node in enumerate(problem.nodes):
            if node.kind != ROBOT:
                continue
            found.append(Path((at,), ()))
            for target, link_at in outgoing[at]:
                found.append(Path((at, target), (link_at,)))
                if problem.nodes[target].kind == SERVER:
                    found += [
                        Path((at, target, cloud), (link_at, second))
                        for cloud, second in outgoing[target]
                        if problem.nodes[cloud].kind == CLOUD
                    ]
        return found

    def build(self) -> Options:
        problem, paths = self.problem, tuple(self.paths())
        none = len(problem.nodes) + len(problem.links)
        path_robot = np.array([each.nodes[0] for each in paths], np.int64)
        path_node = np.array([each.nodes[-1] for each in paths], np.int64)
        path_links = np.full((len(paths), 2), -1, np.int64)
        for at, each in enumerate(paths):
            path_links[at, : len(each.links)] = each.links
        # Every query with every path of its robot, ...
        first = np.searchsorted(path_robot, self.robot)
        count = np.searchsorted(path_robot, self.robot, side='right') - first
        query = np.repeat(np.arange(len(self.rate)), count)
        offset = np.arange(len(query)) - np.repeat(np.cumsum(count) - count, count)
        path = first[query] + offset
        path_s = self._path_s(path_links[path], self.bytes[query])
        # ... with every model.
        models = len(problem.models)
        model = np.tile(np.arange(models), len(query))
        query, path = np.repeat(query, models), np.repeat(path, models)
        path_s = np.repeat(path_s, models)
        accuracy = self.accuracy[model, self.task[query]]
        node = path_node[path]
        latency_s = path_s + self.work_s[model] / self.speed[node]
        keep = (accuracy > 0.0) & (self.size[model] <= self.memory[node])  # NaN is not above 0
        keep &= (self.load_limit[node] > 0.0) & self.can_run[node, model]
        keep &= latency_s <= self.limit_s[query] * (1.0 + TOUCHING)
        query, path, model, node, path_s, accuracy = (
            each[keep] for each in (query, path, model, node, path_s, accuracy)
        )
        order = np.lexsort((path, query, node * models + model))
        query, path, model, node, path_s, accuracy = (
            each[order] for each in (query, path, model, node, path_s, accuracy)
        )
        keys, candidate = np.unique(node * models + model, return_inverse=True)
        resources = np.concatenate([node[:, None], path_links[path]], axis=1)
        resources[:, 1:] = np.where(resources[:, 1:] < 0, none, resources[:, 1:] + len(self.speed))
        use = np.where(resources == none, 0.0, (self.rate * self.bytes)[query][:, None])
        use[:, 0] = self.rate[query] * self.work_s[model] / self.speed[node]
        # Links are counted in shares of their capacity, as nodes in shares of their time.
        capacity = np.array([each.capacity_bytes_per_s for each in problem.links] + [1.0])
        use[:, 1:] /= capacity[
            np.where(resources[:, 1:] == none, -1, resources[:, 1:] - len(self.speed))
        ]
        limit = np.ones(none + 1)
        limit[: len(problem.nodes)] = self.load_limit
        limit[none] = np.inf
        queries = max(1, len(self.rate))
        pair_keys, pair_begin = np.unique(candidate * queries + query, return_index=True)
        pair_candidate = pair_keys // queries
        return Options(
            problem=problem,
            demands=self.demands,
            rate=self.rate,
            limit_s=self.limit_s,
            node=keys // models,
            model=keys % models,
            size_bytes=self.size[keys % models],
            query=query,
            candidate=candidate,
            path=path,
            value=self.rate[query] * accuracy,
            path_s=path_s,
            resources=resources,
            use=use,
            limit=limit,
            memory_bytes=self.memory,
            paths=paths,
            pair_begin=pair_begin,
            pair_query=pair_keys % queries,
            pair_candidate=pair_candidate,
            candidate_pairs=np.searchsorted(pair_candidate, np.arange(len(keys) + 1)),
        )

    def _path_s(self, links: Ints, query_bytes: Floats) -> Floats:
        latency = np.array([each.latency_s for each in self.problem.links] + [0.0])
        per_byte = np.array(
            [1.0 / each.capacity_bytes_per_s for each in self.problem.links] + [0.0]
        )
        found: Floats = (latency[links] + query_bytes[:, None] * per_byte[links]).sum(1)
        return found
