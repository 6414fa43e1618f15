"""A fleet as it is now: the fleet file's problem with the nodes that are there, measured demand and
measured links."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
import math
import threading
import time
from typing import NamedTuple

from offload_ros.fleet.observed import Drift, Rate
from offload_ros.fleet.plan import LoadedModel
from offload_ros.fleet.problem import ROBOT, Demand, Node, Problem
from offload_ros.wire.directory import ServerDirectory, ServerState

LATE_S = 0.1  # between two looks; what is longer is not the nodes' silence
LEAST_CAPACITY = 1.0  # bytes per s; a problem has no links without any
PLENTY = 0.02  # share of a link's capacity, or of a latency limit, that is no hindrance


@dataclass(frozen=True)
class LiveOptions:
    """change: relative, from which on a measured quantity counts, if it lasts for hold_s; lost_s
    and robot_lost_s: silence after which a server, a robot is lost; least_demand: of the fleet
    file's, planned for also while fewer frames come; refused_s: how long a node that did not load a
    model is not asked again."""

    change: float = 0.2
    hold_s: float = 3.0
    lost_s: float = 0.5
    robot_lost_s: float = 3.5
    least_demand: float = 0.1
    refused_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ('change', 'hold_s', 'lost_s', 'robot_lost_s', 'refused_s'):
            if not (getattr(self, name) > 0.0 and math.isfinite(getattr(self, name))):
                raise ValueError(f'{name} is a finite number above 0, not {getattr(self, name)!r}')
        if not 0.0 <= self.least_demand <= 1.0:
            raise ValueError(f'least_demand is from 0 to 1, not {self.least_demand!r}')


class TaskSeen(NamedTuple):
    """A model of a manager: which variant is loaded, the strategy, and how many frames have come
    since it started."""

    variant: str
    strategy: str
    frames: int


class Due(NamedTuple):
    """Why to plan anew. urgent: nodes came or went, of which managers must hear at once."""

    reason: str
    urgent: bool


@dataclass
class _Robot:
    heard_s: float
    tasks: Mapping[str, TaskSeen]
    rates: dict[str, Rate] = field(default_factory=dict)


class LiveFleet:
    """Callbacks tell what they hear; the planner asks what there is. Safe between threads."""

    def __init__(
        self,
        file: Problem,
        options: LiveOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.file = file
        self.options = options or LiveOptions()  # may be replaced, but for ``lost_s``
        self._clock = clock
        self._lock = threading.RLock()
        self._by_address = {each.address: each for each in file.nodes}
        self._servers = ServerDirectory(self.options.lost_s, self._on_lost, clock)
        self._robots: dict[str, _Robot] = {}  # by name in the file
        self._asks: dict[str, list[Demand]] = {each.name: [] for each in file.nodes}
        for demand in file.demand:
            self._asks[demand.robot].append(demand)
        self._demand = {(each.robot, each.task): Drift(each.queries_per_s) for each in file.demand}
        self._capacity = {
            ends: Drift(each.capacity_bytes_per_s) for ends, each in file.link.items()
        }
        self._refused: dict[tuple[str, str], tuple[float, str]] = {}  # node, model: until, why
        self._events: list[str] = []
        self._looked_s = clock()

    # ---- what is heard

    def heard_server(self, state: ServerState, closing: bool = False) -> None:
        """A heartbeat; of a server that is not in the fleet file it is of no interest."""
        node = self._by_address.get(state.name)
        if node is None or node.kind == ROBOT:
            return
        if closing:
            self._servers.leave(state.name, state.session)
        elif self._servers.heard(state):
            with self._lock:
                self._forget(node.name)
                self._events.append(f'{node.name} is there')

    def heard_robot(
        self,
        address: str,
        tasks: Mapping[str, TaskSeen],
        up_bytes_per_s: Mapping[str, float],
    ) -> None:
        """A manager's status: its models by name, and its links by server's full name (NaN: not
        measured)."""
        node = self._by_address.get(address)
        if node is None or node.kind != ROBOT:
            return
        now_s, change = self._clock(), self.options.change
        with self._lock:
            robot = self._robots.get(node.name)
            if robot is None:
                robot = self._robots[node.name] = _Robot(now_s, tasks)
                self._forget(node.name)
                self._events.append(f'{node.name} is there')
            elif _followed(tasks) != _followed(robot.tasks):
                followed = ', '.join(sorted(_followed(tasks))) or 'no model'
                self._events.append(f'{node.name} now follows the plan with {followed}')
            robot.heard_s, robot.tasks = now_s, tasks
            for demand in self._asks[node.name]:
                if demand.task in tasks:
                    rate = robot.rates.setdefault(demand.task, Rate())
                    rate.count(tasks[demand.task].frames, now_s)
                    least = self.options.least_demand * demand.queries_per_s
                    wanted = rate.per_s if math.isnan(rate.per_s) else max(rate.per_s, least)
                    self._demand[node.name, demand.task].seen(wanted, change, now_s)
            for server, measured in up_bytes_per_s.items():
                target = self._by_address.get(server)
                drift = self._capacity.get((node.name, target.name)) if target else None
                if drift is not None:
                    most = max(self._enough(node.name), drift.planned)
                    drift.seen(min(max(measured, LEAST_CAPACITY), most), change, now_s)

    def _enough(self, robot: str) -> float:
        """Bytes per s of a link, more of which would not change a plan."""
        found = LEAST_CAPACITY
        for each in self._asks[robot]:
            queries_per_s = self._demand[robot, each.task].newest
            longest_s = PLENTY * self.file.limit_s(each)
            found += each.query_bytes * max(queries_per_s / PLENTY, 1.0 / longest_s)
        return found

    def look(self) -> None:
        """Notice who is silent; to be called every few ten milliseconds, where it is heard."""
        now_s = self._clock()
        pause_s, self._looked_s = now_s - self._looked_s, now_s
        if pause_s > LATE_S:  # nobody could listen
            self._servers.excuse(pause_s)
        self._servers.expire()
        with self._lock:
            for name, robot in list(self._robots.items()):
                if pause_s > LATE_S:
                    robot.heard_s = min(now_s, robot.heard_s + pause_s)
                if now_s - robot.heard_s > self.options.robot_lost_s:
                    del self._robots[name]
                    self._events.append(f'{name} is lost')

    def _on_lost(self, address: str, session: str, why: str) -> None:
        name = self._by_address[address].name
        with self._lock:
            self._events.append(f'{name} {why.removeprefix(f"server {address} ")}')

    def _forget(self, node: str) -> None:
        """A node begins anew: what it refused before, and what was measured of it, is over."""
        self._refused = {key: each for key, each in self._refused.items() if key[0] != node}
        for demand in self._asks[node]:
            self._demand[node, demand.task].newest = demand.queries_per_s
        for ends, drift in self._capacity.items():
            if node in ends:
                drift.newest = self.file.link[ends].capacity_bytes_per_s

    def refuse(self, node: str, model: str, why: str) -> None:
        """It does not load this model: plans do without for a while."""
        with self._lock:
            until_s = self._clock() + self.options.refused_s
            self._refused[node, model] = (until_s, why)

    def again(self, reason: str) -> None:
        """Plan anew, for this reason."""
        with self._lock:
            self._events.append(reason)

    # ---- what there is

    def due(self) -> Due | None:
        """Whether to plan anew, and why."""
        now_s, hold_s = self._clock(), self.options.hold_s
        with self._lock:
            if self._events:
                return Due(', '.join(self._events), True)
            texts = [
                f'demand[{robot}, {task}] {drift.planned:.3g} to {drift.newest:.3g} per s'
                for (robot, task), drift in self._demand.items()
                if robot in self._robots and drift.due(hold_s, now_s)
            ]
            texts += [
                f'{self.file.link[ends].place} {drift.planned:.3g} to {drift.newest:.3g} bytes/s'
                for ends, drift in self._capacity.items()
                if ends[0] in self._robots and drift.due(hold_s, now_s)
            ]
            texts += [
                f'{node} may be asked for {model} again'
                for (node, model), (until_s, _) in self._refused.items()
                if now_s >= until_s
            ]
            return Due(', '.join(texts), False) if texts else None

    def problem(self) -> Problem:
        """What to plan for now; what led to it is no longer due."""
        now_s = self._clock()
        with self._lock:
            self._events.clear()
            self._refused = {key: e for key, e in self._refused.items() if now_s < e[0]}
            there = set(self.there())
            return replace(
                self.file,
                nodes=tuple(
                    self._node(e) if e.name in there else _gone(e) for e in self.file.nodes
                ),
                links=tuple(
                    replace(each, capacity_bytes_per_s=self._capacity[ends].take())
                    for ends, each in self.file.link.items()
                    if each.source in there and each.target in there
                ),
                demand=tuple(
                    replace(each, queries_per_s=self._demand[each.robot, each.task].take())
                    for each in self.file.demand
                    if each.task in self._followed_by(each.robot)
                ),
            )

    def _node(self, node: Node) -> Node:
        refused = {model for name, model in self._refused if name == node.name}
        if not refused:
            return node
        models = self.file.model if node.models is None else node.models
        return replace(node, models=tuple(each for each in models if each not in refused))

    def _followed_by(self, robot: str) -> set[str]:
        seen = self._robots.get(robot)
        return _followed(seen.tasks) if seen is not None else set()

    def there(self) -> list[str]:
        """Names of nodes that are there."""
        alive = {each.name for each in self._servers.alive()}
        with self._lock:
            return [
                each.name
                for each in self.file.nodes
                if (each.name in self._robots if each.kind == ROBOT else each.address in alive)
            ]

    def held(self) -> dict[str, set[LoadedModel]]:
        """By node that is there: what is loaded now of the fleet file's tasks and models."""
        found = {name: set[LoadedModel]() for name in self.there()}
        for state in self._servers.alive():
            name = self._by_address[state.name].name
            loaded = (LoadedModel(*key) for key in state.variants)
            found[name] = {each for each in loaded if self._of_file(each)}
        with self._lock:
            for name, robot in self._robots.items():
                loaded = (LoadedModel(task, seen.variant) for task, seen in robot.tasks.items())
                found[name] = {each for each in loaded if self._of_file(each)}
        return found

    def busy(self) -> dict[str, float]:
        """By server that is there: share of the last second that it computed."""
        return {self._by_address[e.name].name: e.busy for e in self._servers.alive()}

    def remarks(self) -> list[str]:
        """On nodes and models that plans have to do without."""
        with self._lock:
            there = set(self.there())
            missing = [each.name for each in self.file.nodes if each.name not in there]
            found = [f'not there: {", ".join(missing)}'] if missing else []
            found += [
                f'{node} does without {model}: {why}'
                for (node, model), (_, why) in self._refused.items()
            ]
            for demand in self.file.demand:
                robot = self._robots.get(demand.robot)
                if robot is not None and demand.task not in _followed(robot.tasks):
                    seen = robot.tasks.get(demand.task)
                    why = f'its strategy is {seen.strategy}' if seen else 'it is not loaded there'
                    found.append(f'{demand.place} is not planned for: {why}')
            return found

    def _of_file(self, loaded: LoadedModel) -> bool:
        model = self.file.model.get(loaded.variant)
        return model is not None and loaded.task in model.accuracy


def _followed(tasks: Mapping[str, TaskSeen]) -> set[str]:
    """Of a manager's models those that follow plans."""
    return {name for name, each in tasks.items() if each.strategy == 'fleet'}


def _gone(node: Node) -> Node:
    """A node that is not there holds nothing and computes nothing."""
    return replace(node, load_limit=0.0, models=())
