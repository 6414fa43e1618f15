"""What evaluating plans gives: figures of many, or one in time, task by task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import numpy as np

from offload_ros.graph.crossings import Flags
from offload_ros.graph.profile import Floats
from offload_ros.graph.split_plan import Plan
from offload_ros.policy.power import PowerModel, StateTimes


@dataclass(frozen=True)
class Costs:
    """Of P plans, each (P,). Infinite latency: something never arrives. ``energy_j``: of the robot,
    NaN where it was not asked for."""

    latency_s: Floats
    uplink_bytes: Floats
    downlink_bytes: Floats
    energy_j: Floats


@dataclass(frozen=True)
class Task:
    """A part of an operator on a processor, or a message of its output on a link.

    ``operator``: its place in execution order. ``arrival_s``, ``amount_bytes``: of messages.
    ``rows``: [from, to) of its output, of plans with steps.
    """

    operator: int
    start_s: float
    end_s: float
    arrival_s: float = math.nan
    amount_bytes: float = 0.0
    rows: tuple[float, float] | None = None


@dataclass(frozen=True)
class Schedule:
    """One plan in time, from the input at the robot (0) to the last output there."""

    plan: Plan
    latency_s: float
    uplink_bytes: float
    downlink_bytes: float
    states: StateTimes
    robot: tuple[Task, ...]
    uplink: tuple[Task, ...]
    server: tuple[Task, ...]
    downlink: tuple[Task, ...]

    def energy_j(self, power: PowerModel) -> float:
        """Joules of the robot."""
        return float(self.states.energy_j(power)[0])


def joined(blocks: Sequence[Costs]) -> Costs:
    """Costs of plans one after the other."""
    fields = ('latency_s', 'uplink_bytes', 'downlink_bytes', 'energy_j')
    return Costs(
        *(np.concatenate([getattr(each, name) for each in blocks] or [[]]) for name in fields)
    )


def tasks(
    there: Flags,
    starts: Floats,
    ends: Floats,
    arrivals: Floats | None = None,
    amounts: Floats | None = None,
) -> tuple[Task, ...]:
    """Of one plan (column 0 of each array)."""
    return tuple(
        Task(
            int(place),
            float(starts[place, 0]),
            float(ends[place, 0]),
            math.nan if arrivals is None else float(arrivals[place, 0]),
            0.0 if amounts is None else float(amounts[place, 0]),
        )
        for place in np.flatnonzero(there)
    )
