"""A model on the robot with the strategies that were prepared for it."""

from __future__ import annotations

import logging
import math
from typing import Any

from offload_ros.models.model import Model
from offload_ros.policy.goal import LEAST_LATENCY, Goal, Objective
from offload_ros.robot.window import Window
from offload_ros.strategy import (
    Link,
    Strategy,
    StrategyRefused,
    make_strategy,
    strategy_names,
)


class Loaded:
    """A model with what was prepared and measured for it; replaced as a whole with the model."""

    def __init__(self, model: Model, link: Link) -> None:
        self.model = model
        self.local_durations = Window(50)
        self.calibrated = False
        self._link = link
        self._strategies: dict[str, Strategy] = {}
        self._aim: tuple[Goal, float] = (LEAST_LATENCY, math.inf)

    def aim(self, goal: Goal, answer_s: float) -> None:
        """Tell those strategies that plan for any goal."""
        self._aim = (goal, answer_s)
        for strategy in list(self._strategies.values()):
            _tell_goal(strategy, *self._aim)

    def prepare(self, name: str) -> None:
        """Make a strategy ready; ``StrategyRefused`` names those that can run this model."""
        if name in self._strategies:
            return
        try:
            strategy = make_strategy(name)
            _tell_goal(strategy, *self._aim)
            strategy.prepare(self.model, self._link)
        except (
            Exception
        ) as error:  # a strategy may be anybody's code: it is refused, whatever it raises
            why = str(error)
            if not isinstance(error, StrategyRefused):
                why = f"strategy '{name}': {type(error).__name__}: {error}"
            admissible = ', '.join(self.admissible())
            raise StrategyRefused(
                f"model '{self.model.name}': {why}; admissible: {admissible}"
            ) from error
        self._strategies[name] = strategy

    def strategy(self, name: str) -> Strategy:
        """A prepared strategy."""
        return self._strategies[name]

    def admissible(self) -> list[str]:
        """Names of the strategies that can run this model."""
        names = []
        for name in strategy_names():
            trial = make_strategy(name)
            try:
                trial.prepare(self.model, self._link)
                trial.close()
            except Exception:  # one that fails in another way than refusing cannot run it either
                continue
            names.append(name)
        return names

    def close(self) -> None:
        """End calls that wait."""
        for name, strategy in list(self._strategies.items()):
            try:
                strategy.close()
            except Exception:  # the others must be closed all the same
                logging.getLogger(__name__).exception("strategy '%s' does not close", name)


def _tell_goal(strategy: Any, goal: Goal, answer_s: float) -> None:
    """The objective accuracy is for who chooses among strategies; plans are then for latency."""
    if not getattr(strategy, 'aims', False):
        return
    chooses = getattr(strategy, 'chooses', False)
    wanted = goal if chooses or goal.objective is not Objective.ACCURACY else LEAST_LATENCY
    strategy.aim(wanted, answer_s)
