"""What plans are for: the least latency, the robot's least energy in time, or both weighted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
import math
from typing import Any


class Objective(Enum):
    """``ENERGY``: the robot's joules among plans within the deadline; where none is, the
    latency. ``ACCURACY``: of strategy auto, within deadline and traffic budget; plans are for the
    least latency. ``WEIGHTED``: weight * T / T_robot + (1 - weight) * E / E_robot, of those of
    device-only, among plans within the deadline."""

    LATENCY = 'latency'
    ENERGY = 'energy'
    WEIGHTED = 'weighted'
    ACCURACY = 'accuracy'


@dataclass(frozen=True)
class Goal:
    """``deadline_s`` counts for ``ENERGY`` and ``WEIGHTED``, ``weight`` (of the latency, 0 to 1)
    for ``WEIGHTED``. What an objective does not use gets its default, so that goals for which the
    same plans are the best are equal. ``ValueError`` for values out of range."""

    objective: Objective = Objective.LATENCY
    deadline_s: float = math.inf
    weight: float = 0.5

    def __post_init__(self) -> None:
        if not 0.0 <= self.weight <= 1.0:
            raise ValueError(f'the weight of the latency must lie in [0, 1], not {self.weight}')
        if not self.deadline_s > 0.0:
            raise ValueError(f'the deadline must be above 0 s, not {self.deadline_s}')
        if self.objective is Objective.LATENCY:
            object.__setattr__(self, 'deadline_s', math.inf)
        if self.objective is not Objective.WEIGHTED:
            object.__setattr__(self, 'weight', 0.5)

    @classmethod
    def named(cls, objective: str, deadline_s: float = math.inf, weight: float = 0.5) -> Goal:
        """By the objective's name; ``ValueError`` says which there are."""
        names = [each.value for each in Objective]
        if objective not in names:
            raise ValueError(f"objective '{objective}' is not one of {', '.join(names)}")
        return cls(Objective(objective), deadline_s, weight)

    def before(self, answer_s: float, alone_s: float) -> Goal:
        """The same where the robot answers by itself at ``answer_s`` at the latest, which takes it
        ``alone_s``: a plan must be over before the robot begins with that, where it can be in time,
        else at ``answer_s``."""
        begins_s = answer_s - alone_s if alone_s < answer_s else answer_s
        return replace(self, deadline_s=min(self.deadline_s, begins_s))

    def document(self) -> dict[str, Any]:
        """JSON form; names what plans were made for, and so is part of the keys of kept plans."""
        deadline_s = None if math.isinf(self.deadline_s) else self.deadline_s
        return {
            'objective': self.objective.value,
            'deadline_s': deadline_s,
            'weight': self.weight,
        }

    @classmethod
    def from_document(cls, document: Mapping[str, Any]) -> Goal:
        """The inverse; ``ValueError``, ``KeyError`` or ``TypeError`` for what is none."""
        deadline_s = document['deadline_s']
        return cls.named(
            str(document['objective']),
            math.inf if deadline_s is None else float(deadline_s),
            float(document['weight']),
        )

    def __str__(self) -> str:
        if self.objective is Objective.LATENCY:
            return 'least latency'
        within = '' if math.isinf(self.deadline_s) else f' within {1e3 * self.deadline_s:.0f} ms'
        if self.objective is Objective.ENERGY:
            return f'least energy{within}'
        if self.objective is Objective.ACCURACY:
            return f'most accuracy{within}'
        return f'{self.weight:g} latency, {1.0 - self.weight:g} energy{within}'


LEAST_LATENCY = Goal()
