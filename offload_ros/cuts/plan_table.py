"""Plans for the bandwidths that a link may have, computed in the background and kept on disk.

Bandwidths are rounded to steps of a factor of 1.4, each way, and the delay to steps of 2. A link
between two steps stays with the one that it had (hysteresis): plans do not flicker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
import hashlib
import json
import logging
import math
import os
from pathlib import Path
import threading
from typing import Any, NamedTuple

from offload_ros.baselines.problem import Goal, Objective, Problem, Subject
from offload_ros.cuts.cut import Cut
from offload_ros.cuts.value_codecs import code_named
from offload_ros.graph.codings import codecs_of
from offload_ros.graph.graph import Graph, Value
from offload_ros.graph.methods import find_method
from offload_ros.graph.profile import Profile, ProfileError
from offload_ros.graph.profile_file import profile_document
from offload_ros.graph.schedule import Link
from offload_ros.graph.split_plan import Plan, PlanError
from offload_ros.policy.power import PowerModel
from offload_ros.strategy import LinkState, Prediction

log = logging.getLogger(__name__)
LEAST_BYTES_PER_S, OCTAVES, PER_OCTAVE = 0.25e6, 10, 2  # to 256 MB/s
STEPS = OCTAVES * PER_OCTAVE + 1
LEAST_DELAY_S, DELAY_STEPS = 0.0005, 7  # to 32 ms
DEFAULT_DELAY_S = 0.0013
# The monitor measures what packets pass; their heads are no payload.
UTILISATION = 0.95
HYSTERESIS = 0.8  # of a step, from its middle
UNMEASURED_BYTES_PER_S = 4e6  # what a link is taken for until it is measured
# One for all models: planning is never urgent, and the robot has other work.
_planner = ThreadPoolExecutor(1, 'plans')


class Step(NamedTuple):
    """A place in the table: bandwidth up and down, and delay."""

    up: int
    down: int
    delay: int

    @property
    def link(self) -> Link:
        """The link that its plan is made for."""
        return self.link_at(PER_OCTAVE)

    def link_at(self, per_octave: int) -> Link:
        """The same in a table with so many steps for each doubling of a bandwidth."""
        return Link(
            LEAST_BYTES_PER_S * 2.0 ** (self.up / per_octave),
            LEAST_BYTES_PER_S * 2.0 ** (self.down / per_octave),
            LEAST_DELAY_S * 2.0**self.delay,
            UTILISATION,
        )


@dataclass(frozen=True)
class Planned:
    """``plan`` for a step, as a cut of the graph."""

    step: Step
    plan: Plan
    graph: Graph

    @cached_property
    def cut(self) -> Cut:
        """Ready to run."""
        return Cut(self.graph, nodes_on_server(self.graph, self.plan))

    @cached_property
    def codecs(self) -> dict[int, int]:
        """The code of each tensor for which one pays on the step's link, by id in the profile."""
        return {id: code_named(name) for id, name in codecs_of(self.plan.profile).items()}


class PlanTable:
    """Plans of one ``method`` (``graph.methods``) for one graph with its profile.

    ``objective``, ``deadline_s``, ``weight``: what for (``policy.goal``), for methods that take it.
    ``folder``: where they are kept, by default ``plans_folder()``. ``ProfileError`` when the
    profile is not of the graph.
    """

    def __init__(
        self,
        graph: Graph,
        graph_hash: str,
        profile: Profile,
        method: str,
        objective: Objective = Objective.LATENCY,
        deadline_s: float = math.inf,
        weight: float = 0.5,
        folder: Path | None = None,
    ) -> None:
        known = {operator.id for operator in profile.operators if not operator.is_input}
        if not known <= set(range(len(graph.nodes))):
            raise ProfileError(f"the profile of '{profile.model}' has nodes that its graph lacks")
        self.graph, self.profile = graph, profile
        self._subject = Subject(profile)
        self._method_name = method
        self._method = find_method(method)[1]
        self.goal = Goal(objective, deadline_s, weight)
        self._power = PowerModel()
        self._lock = threading.Lock()
        self._plans: dict[Step, Planned] = {}
        self._asked: set[Step] = set()
        self._present: Step | None = None
        self._closed = False
        self.why_none = f'plans of {method} are being computed'
        self._predictions: dict[tuple[Step, Link], Prediction] = {}
        self._path = (folder or plans_folder()) / f'{self._key(graph_hash)}.json'
        self._read()

    def close(self) -> None:
        """Plan no more."""
        self._closed = True

    def choose(self, state: LinkState) -> Planned | None:
        """The plan for the link as it is; the nearest one that is there while that is computed,
        None when there is none yet."""
        with self._lock:
            step = self._present = stay_or_move(self._present, state)
            missing = step not in self._plans and step not in self._asked
            first = not self._asked
            # The one that is needed, its neighbours, and at first the diagonal for a fast start.
            wanted = [step, *_neighbours(step)] if missing else []
            if first and missing:
                wanted += [Step(each, each, step.delay) for each in range(STEPS)]
            wanted = [each for each in dict.fromkeys(wanted) if each not in self._asked]
            wanted = [each for each in wanted if each not in self._plans]
            self._asked.update(wanted)
            nearest = min(self._plans, key=lambda each: _distance(each, step), default=None)
            found = self._plans.get(step) or (None if nearest is None else self._plans[nearest])
        for each in wanted:
            _planner.submit(self._compute, each)
        if wanted:
            _planner.submit(self._write)
        return found

    def predict(self, planned: Planned, state: LinkState) -> Prediction:
        """What the cost model expects of a plan on the link as it is."""
        link = link_of(state)
        known = self._predictions.get((planned.step, link))
        if known is not None:
            return known
        # Tensors are coded as pays on the link that the plan was made for.
        subject = self._subject.at(planned.step.link)
        schedule = subject.evaluator.schedule(planned.plan, link)
        made = Prediction(
            latency_s=schedule.latency_s,
            energy_j=schedule.energy_j(self._power),
            robot_busy_s=sum(each.end_s - each.start_s for each in schedule.robot),
            uplink_busy_s=sum(each.end_s - each.start_s for each in schedule.uplink),
            server_busy_s=sum(each.end_s - each.start_s for each in schedule.server),
            downlink_busy_s=sum(each.end_s - each.start_s for each in schedule.downlink),
        )
        if len(self._predictions) > 100:
            self._predictions.clear()
        self._predictions[planned.step, link] = made
        return made

    def _compute(self, step: Step) -> None:
        if self._closed:
            return
        try:
            plan = self._method(Problem.of(self._subject, step.link, self.goal, self._power))
        except Exception as error:  # of one bandwidth: the others still serve
            self.why_none = f'{self._method_name} finds no plan: {type(error).__name__}: {error}'
            log.exception('%s, %s for %s', self.profile.model, self._method_name, step)
            return
        with self._lock:
            self._plans[step] = Planned(step, plan, self.graph)

    def _key(self, graph_hash: str) -> str:
        described = {
            'graph': graph_hash,
            'profile': profile_document(self.profile),
            'method': self._method_name,
            **self.goal.document(),
            'steps': [LEAST_BYTES_PER_S, LEAST_DELAY_S, UTILISATION],
        }
        return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()

    def _read(self) -> None:
        try:
            document = json.loads(self._path.read_text(encoding='utf-8'))
            for key, plan in document.items():
                step = _step_of(key)
                if step is None:
                    continue
                made = Plan.from_document(self._subject.at(step.link).profile, plan)
                if made.is_cut:
                    self._plans[step] = Planned(step, made, self.graph)
        except FileNotFoundError:
            return
        except (OSError, ValueError, AttributeError, TypeError) as error:
            log.warning('%s is not used: %s', self._path, error)

    def _write(self) -> None:
        """Best effort: what cannot be kept is computed again."""
        with self._lock:
            plans = dict(self._plans)
        document = {','.join(map(str, step)): each.plan.document() for step, each in plans.items()}
        keep_plans(self._path, document)


def plans_folder() -> Path:
    """``$XDG_CACHE_HOME/offload_ros/plans``, by default below ``~/.cache``."""
    return Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache').expanduser() / 'offload_ros/plans'


def keep_plans(path: Path, document: Mapping[str, Any]) -> None:
    """Write ``document`` as JSON to ``path``, whole or not at all; best effort."""
    part = path.with_suffix(f'.{os.getpid()}.part')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(document), encoding='utf-8')
        part.replace(path)
    except OSError as error:
        log.info('plans are not kept: %s', error)


def link_of(state: LinkState) -> Link:
    """The link for the cost model; what was not measured yet has its usual value."""

    def known(value: float, usual: float) -> float:
        return value if math.isfinite(value) and value > 0.0 else usual

    return Link(
        known(state.up_bytes_per_s, UNMEASURED_BYTES_PER_S),
        known(state.down_bytes_per_s, UNMEASURED_BYTES_PER_S),
        known(state.round_trip_s / 2, DEFAULT_DELAY_S),
        UTILISATION,
    )


def stay_or_move(present: Step | None, state: LinkState, per_octave: int = PER_OCTAVE) -> Step:
    """The step of a link; ``present`` where it is still near enough."""
    link = link_of(state)
    exact = (
        per_octave * math.log2(link.uplink_bytes_per_s / LEAST_BYTES_PER_S),
        per_octave * math.log2(link.downlink_bytes_per_s / LEAST_BYTES_PER_S),
        math.log2(link.delay_s / LEAST_DELAY_S),
    )
    most = per_octave * OCTAVES
    tops = (most, most, DELAY_STEPS - 1)
    places = []
    for axis, (value, top) in enumerate(zip(exact, tops, strict=True)):
        inside = min(max(value, 0.0), float(top))
        stays = present is not None and abs(inside - present[axis]) <= HYSTERESIS
        places.append(present[axis] if stays and present is not None else round(inside))
    return Step(*places)


def nodes_on_server(graph: Graph, plan: Plan) -> frozenset[int]:
    """The nodes that the server computes. Those that a profile does not list, as they cost nothing
    (constants, folded views), go to the side that reads them, else to where their inputs are.
    ``PlanError`` unless the plan is a cut."""
    if not plan.is_cut:
        raise PlanError('the plan splits operators between robot and server: it is no layer cut')
    on_server = {
        operator.id: bool(plan.on_server[place])
        for place, operator in enumerate(plan.profile.operators)
        if not operator.is_input
    }
    results = set(graph.outputs.values())
    for node in reversed(graph.nodes):
        if node.id in on_server:
            continue
        values = [Value(node.id, output) for output in range(len(node.outputs))]
        readers = {on_server[each] for value in values for each in graph.consumers.get(value, ())}
        if results.intersection(values):
            readers.add(False)
        if len(readers) == 1:
            on_server[node.id] = readers.pop()
        else:
            on_server[node.id] = _side_of_inputs(graph, node.id, on_server)
    return frozenset(node for node, there in on_server.items() if there)


def _side_of_inputs(graph: Graph, node: int, on_server: dict[int, bool]) -> bool:
    """Of the nearest node before it that has a side; the robot has the model's inputs."""
    pending: Sequence[int] = graph.nodes[node].predecessors
    while pending:
        sides = {on_server[each] for each in pending if each in on_server}
        if sides:
            return sides == {True}
        pending = sorted({p for each in pending for p in graph.nodes[each].predecessors})
    return False


def _neighbours(step: Step) -> list[Step]:
    moves = [(1, 1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1)]
    found = [Step(step.up + up, step.down + down, step.delay) for up, down in moves]
    return [each for each in found if 0 <= each.up < STEPS and 0 <= each.down < STEPS]


def _distance(one: Step, other: Step) -> float:
    return abs(one.up - other.up) + abs(one.down - other.down) + 0.5 * abs(one.delay - other.delay)


def _step_of(key: str) -> Step | None:
    try:
        up, down, delay = map(int, key.split(','))
    except ValueError:
        return None
    fits = 0 <= up < STEPS and 0 <= down < STEPS and 0 <= delay < DELAY_STEPS
    return Step(up, down, delay) if fits else None
