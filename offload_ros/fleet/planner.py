"""Plans for a live fleet, and brings them about: load, tell the robots, then unload."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
import logging
import time
from typing import NamedTuple, Protocol

from offload_ros.fleet.assignment import Assignment
from offload_ros.fleet.changes import Change, Changes, Done
from offload_ros.fleet.live import LiveFleet
from offload_ros.fleet.plan import FleetPlan, LoadedModel, planned_nodes, planned_tasks
from offload_ros.fleet.problem import ROBOT, Problem
from offload_ros.fleet.reasons import remarks
from offload_ros.fleet.solving import Held, planned, with_what_is_held

log = logging.getLogger(__name__)


class Acting(Protocol):
    """What the planner does; none of it waits."""

    def change(self, change: Change, done: Done) -> None:
        """Ask a node, as ``Changes`` wants it."""

    def publish(self, plan: FleetPlan) -> None:
        """Tell all managers."""


@dataclass(frozen=True)
class PlannerOptions:
    """time_limit_s: of solving; load_s: a model that takes longer to load is not waited for;
    unload_s: how long plans must have done without a model before it is unloaded; beat_s, silent_s:
    see ``FleetPlan``."""

    time_limit_s: float = 1.0
    load_s: float = 60.0
    unload_s: float = 5.0
    beat_s: float = 1.0
    silent_s: float = 3.0


class _Target(NamedTuple):
    """What is being brought about. until_s: of loading."""

    problem: Problem
    assignment: Assignment
    reason: str
    until_s: float


class LivePlanner:
    """``step`` is called every few ten milliseconds, from one thread; it may take as long as
    solving does."""

    def __init__(
        self,
        name: str,
        session: str,
        fleet: LiveFleet,
        acting: Acting,
        options: PlannerOptions | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.plan: FleetPlan | None = None  # the last one
        self.fleet = fleet
        self.options = options or PlannerOptions()  # all but the beats may be changed
        self._acting = acting
        self._clock = clock
        beats = (self.options.beat_s, self.options.silent_s)
        self._empty = FleetPlan(name, session, 0, *beats)
        self._target: _Target | None = None
        self._surplus_s: dict[tuple[str, LoadedModel], float] = {}  # since when it is not needed
        self._changes = Changes(acting.change)

    def step(self) -> None:
        """Plan anew where that is due, else go on with what was begun."""
        due = self.fleet.due()
        if due is not None:
            self._begin(due.reason, due.urgent)
        elif self._target is not None:
            self._go_on(self._target)
        elif self.plan is not None:
            self._keep(self.plan)

    def _begin(self, reason: str, urgent: bool) -> None:
        self._changes.forget_failures()
        problem, held = self.fleet.problem(), self._held()
        assignment = planned(problem, held, self.options.time_limit_s)
        until_s = self._clock() + self.options.load_s
        self._target = _Target(problem, assignment, reason, until_s)
        if urgent and self._missing(self._target, held):
            # Robots must not go on with nodes that are gone while others load.
            self._publish(problem, with_what_is_held(problem, held), f'{reason}; models load')
        self._go_on(self._target)

    def _go_on(self, target: _Target) -> None:
        """Load what is missing; with all there, the robots may be told."""
        missing = self._missing(target, self._held())
        failed = self._changes.failed(missing)
        if not failed and self._clock() >= target.until_s:
            failed = dict.fromkeys(missing, f'not loaded within {self.options.load_s:g} s')
        if failed:
            whys = [self._refused(change, why) for change, why in failed.items()]
            self._begin(', '.join([target.reason, *whys]), urgent=False)
            return
        if missing:
            for change in missing:
                self._changes.ask(change)
            return
        self._publish(target.problem, target.assignment, target.reason)
        self._target = None

    def _refused(self, change: Change, why: str) -> str:
        node = next(e.name for e in self.fleet.file.nodes if e.address == change.address)
        self._changes.forget(change)
        self.fleet.refuse(node, change.model.variant, why)
        log.warning('%s does not load %s as %s: %s', node, *change.model, why)
        return f'{node} does without {change.model.variant}'

    def _missing(self, target: _Target, held: Held) -> list[Change]:
        """What is to be loaded on nodes that are there."""
        return [
            Change(node.address, model, True)
            for node in planned_nodes(target.problem, target.assignment, held)
            for model in node.models
            if model not in held[node.name]
        ]

    def _held(self) -> Held:
        """By node that is there."""
        address = {each.name: each.address for each in self.fleet.file.nodes}
        told = self.fleet.held()
        settled = self._changes.settled({address[name]: each for name, each in told.items()})
        return {name: settled[address[name]] for name in told}

    def _publish(self, problem: Problem, assignment: Assignment, reason: str) -> None:
        self.plan = replace(
            self.plan or self._empty,
            version=(self.plan or self._empty).version + 1,
            tasks=planned_tasks(problem, assignment),
            nodes=planned_nodes(problem, assignment, self.fleet.there()),
            accuracy=assignment.accuracy(problem),
            reason=reason,
            remarks=(*self.fleet.remarks(), *remarks(problem, assignment)),
        )
        self._acting.publish(self.plan)

    def _keep(self, plan: FleetPlan) -> None:
        """Unload what is not needed of the fleet file's models; robots keep theirs, with which they
        answer when nothing else does."""
        if not any(each.routes for each in plan.tasks):
            return  # nobody asks, or nobody can be answered: what is there may be of use soon
        now_s, held = self._clock(), self._held()
        nodes = [each for each in plan.nodes if each.name in held]
        lacking = [each.name for each in nodes if not set(each.models) <= set(held[each.name])]
        if lacking:  # somebody else unloaded it, or a robot was started again
            self.fleet.again(f'{", ".join(lacking)} no longer holds what was planned')
            return
        surplus = [
            (node.address, model)
            for node in nodes
            if self.fleet.file.node[node.name].kind != ROBOT
            for model in sorted(set(held[node.name]) - set(node.models))
        ]
        self._surplus_s = {key: self._surplus_s.get(key, now_s) for key in surplus}
        for (address, model), since_s in self._surplus_s.items():
            if now_s - since_s >= self.options.unload_s:
                self._changes.ask(Change(address, model, False))
