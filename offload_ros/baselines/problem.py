"""What a planning method is given: a model's profile, a link, and what to minimise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
import math
from typing import Any

import numpy as np

from offload_ros.baselines.layers import Layers, merged_layers
from offload_ros.graph.codings import CodedProfiles
from offload_ros.graph.crossings import Halo
from offload_ros.graph.profile import Floats, Profile
from offload_ros.graph.schedule import Evaluator, Link
from offload_ros.graph.split_plan import Plan
from offload_ros.graph.timeline import Costs
from offload_ros.policy.goal import Goal, Objective
from offload_ros.policy.power import PowerModel

__all__ = ['Goal', 'Method', 'Objective', 'Problem', 'Subject']
_LATE_J = 1e6  # more than any inference: every plan in time ranks before every late one


@dataclass(frozen=True)
class Subject:
    """A profile and what is made of it once, for all bandwidths."""

    profile: Profile
    halo: Halo = Halo.EXACT

    def at(self, link: Link) -> Subject:
        """The same with the codecs that pay on ``link``; this one where none were measured."""
        rates = link.uplink_bytes_per_s, link.downlink_bytes_per_s
        profile = self._coded.at(*(link.utilisation * each for each in rates))
        if profile is self.profile:
            return self
        return self._subjects.setdefault(id(profile), Subject(profile, self.halo))

    @cached_property
    def _coded(self) -> CodedProfiles:
        return CodedProfiles(self.profile)

    @cached_property
    def _subjects(self) -> dict[int, Subject]:
        return {}

    @cached_property
    def evaluator(self) -> Evaluator:
        """Of the profile."""
        return Evaluator(self.profile, self.halo)

    @cached_property
    def layers(self) -> Layers:
        """The profile with operators merged between which no good cut lies."""
        return merged_layers(self.profile)

    @cached_property
    def layer_evaluator(self) -> Evaluator:
        """Of the merged profile."""
        return Evaluator(self.layers.profile, self.halo)

    @cached_property
    def memory(self) -> dict[str, Any]:
        """What a method keeps from one bandwidth to the next, by its name."""
        return {}


@dataclass(frozen=True)
class Problem:
    """One planning task. ``deadline_s`` counts for ``Objective.ENERGY`` and ``WEIGHTED``, for which
    ``weight`` is that of the latency. ``subject`` becomes that of the link (``Subject.at``)."""

    subject: Subject
    link: Link
    objective: Objective = Objective.LATENCY
    deadline_s: float = math.inf
    power: PowerModel = field(default_factory=PowerModel)
    weight: float = 0.5

    def __post_init__(self) -> None:
        Goal(self.objective, self.deadline_s, self.weight)  # which checks them
        object.__setattr__(self, 'subject', self.subject.at(self.link))

    @classmethod
    def of(
        cls, subject: Subject, link: Link, goal: Goal, power: PowerModel | None = None
    ) -> Problem:
        """To reach ``goal``."""
        return cls(
            subject, link, goal.objective, goal.deadline_s, power or PowerModel(), goal.weight
        )

    @property
    def profile(self) -> Profile:
        """Of the subject."""
        return self.subject.profile

    @property
    def power_if_needed(self) -> PowerModel | None:
        """For ``Evaluator.costs``, which takes longer with it."""
        return None if self.objective is Objective.LATENCY else self.power

    @cached_property
    def robot_only(self) -> tuple[float, float]:
        """Seconds and joules of device-only; 1 where a model takes none."""
        seconds = float(np.maximum(*self.profile.times('robot')).sum())
        return seconds or 1.0, (seconds * self.power.computing_w) or 1.0

    def rank(self, costs: Costs) -> Floats:
        """(P,) the smaller the better."""
        if self.objective is Objective.LATENCY:
            return costs.latency_s
        goal = costs.energy_j
        if self.objective is Objective.WEIGHTED:
            time_s, energy_j = self.robot_only
            goal = self.weight * costs.latency_s / time_s
            if self.weight < 1.0:
                goal = goal + (1.0 - self.weight) * costs.energy_j / energy_j
        in_time = costs.latency_s <= self.deadline_s
        ranks: Floats = np.where(in_time, goal, _LATE_J + costs.latency_s)
        return ranks

    def rank_one(self, latency_s: float, energy_j: float) -> float:
        """Of one plan."""
        none = np.zeros(1)
        return float(self.rank(Costs(np.array([latency_s]), none, none, np.array([energy_j])))[0])

    def best_cut(self, candidates: list[np.ndarray]) -> np.ndarray:
        """The best by the evaluator of layer cuts ``on_server`` (n,), the first among equals."""
        stacked = np.stack(candidates, axis=1)
        costs = self.subject.evaluator.cut_costs(stacked, self.link, self.power_if_needed)
        best: np.ndarray = stacked[:, int(np.argmin(self.rank(costs)))]
        return best

    def plan(self, on_server: np.ndarray) -> Plan:
        """A layer cut as a plan."""
        return Plan.cut(self.profile, on_server)


Method = Callable[[Problem], Plan]
