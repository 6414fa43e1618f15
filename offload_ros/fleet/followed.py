"""The robot's side of a fleet plan: what has come, whether it is still fresh, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
import threading
import time
from typing import TYPE_CHECKING

from offload_ros.fleet.plan import FleetPlan, PlannedTask

if TYPE_CHECKING:
    from offload_ros.models.config import ModelConfig


class FollowedPlan:
    """The plan of one planner at a time, as long as that shows signs of life; safe between
    threads.

    ``robot``: full name of this manager. ``configs``: its models; of other variants only the
    configuration is here, the servers have the networks.
    """

    def __init__(
        self,
        robot: str = '',
        configs: Iterable[ModelConfig] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.robot = robot
        self._configs = {each.name: each for each in configs}
        self._clock = clock
        self._lock = threading.Lock()
        self._plan: FleetPlan | None = None
        self._tasks: dict[str, PlannedTask] = {}
        self._heard_s = 0.0
        self._refused = ''

    def take(self, plan: FleetPlan) -> list[str]:
        """A plan, or another beat of it; what to warn of.

        Another planner's is only taken once the one that is followed is silent.
        """
        now_s = self._clock()
        with self._lock:
            known = self._plan
            if known is not None and plan.session != known.session and self._silent_s() is None:
                if plan.planner == known.planner:  # another life of it, or a second of that name
                    return []
                return [
                    f'there are two fleet planners: {known.planner} is followed, {plan.planner} '
                    'is not: stop one of them'
                ]
            if known is not None and plan.session == known.session:
                if plan.version < known.version:
                    return []
                if plan.version == known.version:
                    self._heard_s = now_s
                    return []
            self._plan, self._heard_s, self._refused = plan, now_s, ''
            self._tasks = {each.task: each for each in plan.tasks if each.robot == self.robot}
            return [text for task in self._tasks.values() for text in self._strange(task)]

    def refuse(self, why: str) -> None:
        """A message that is no plan came; results say why it is not followed, where there is no
        other."""
        with self._lock:
            self._refused = why

    def task(self, model: str) -> tuple[FleetPlan, PlannedTask] | str:
        """What is planned for a model now, or why nothing is."""
        with self._lock:
            plan, silent_s = self._plan, self._silent_s()
            if plan is None:
                return self._refused or 'no plan of a fleet planner has come yet'
            if silent_s is not None:
                why = f'fleet planner {plan.planner} is silent since {silent_s:.1f} s'
                return f'{why}; {self._refused}' if self._refused else why
            task = self._tasks.get(model)
            if task is None:
                return f"plan {plan.version} of {plan.planner} says nothing of '{model}' here"
            return plan, task

    def main_server(self, model: str) -> str | None:
        """Where most of its frames go, empty for the robot; None without a plan for it."""
        found = self.task(model)
        if isinstance(found, str) or not found[1].routes:
            return None
        return max(found[1].routes, key=lambda each: each.share).server

    def config(self, model: ModelConfig, variant: str) -> ModelConfig | str:
        """Of another variant of a model that is loaded here, or why its frames are not for it."""
        known = self._configs.get(model.name, model)
        if variant not in known.variants():
            return f"models.yaml has no variant '{variant}' of '{model.name}' here"
        config = known.variant_named(variant)
        if config.inputs != model.inputs:
            return f"variant '{variant}' of '{model.name}' has other inputs"
        return config

    def _silent_s(self) -> float | None:
        """How long nothing has come, where that is too long."""
        since_s = self._clock() - self._heard_s
        return since_s if self._plan is not None and since_s > self._plan.silent_s else None

    def _strange(self, task: PlannedTask) -> list[str]:
        config = self._configs.get(task.task)
        if config is None:
            return [
                f"the fleet plan has frames of '{task.task}' for this robot, which has no such "
                f'model (there are: {", ".join(self._configs) or "none"}): mend the fleet file'
            ]
        wrong = (self.config(config, each.variant) for each in task.routes)
        return [
            f'the fleet plan cannot be followed in part: {each}'
            for each in wrong
            if isinstance(each, str)
        ]
