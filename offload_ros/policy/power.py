"""What an inference costs the robot's battery: watts by state, joules from a schedule's intervals.

The figures are those of the Intra-DP paper (a Jetson Xavier NX on a wheeled robot): 13.35 W while
it computes, 4.25 W while it sends or receives, 4.04 W while it waits. ``board_power`` reads a
Jetson's own sensors where it has them.
"""

from __future__ import annotations

from dataclasses import dataclass
import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PowerModel:
    """Of the robot, in W. States exclude each other: computing wins over communicating, that over
    standby."""

    computing_w: float = 13.35
    communicating_w: float = 4.25
    standby_w: float = 4.04

    def __post_init__(self) -> None:
        for name in ('computing_w', 'communicating_w', 'standby_w'):
            watts = getattr(self, name)
            if not (math.isfinite(watts) and watts >= 0.0):
                raise ValueError(f'{name} must be a finite number of watts, 0 or more, not {watts}')

    def energy_j(
        self, computing_s: float, communicating_s: float = 0.0, standby_s: float = 0.0
    ) -> float:
        """Joules of so many seconds in each state."""
        return (
            self.computing_w * computing_s
            + self.communicating_w * communicating_s
            + self.standby_w * standby_s
        )


@dataclass(frozen=True)
class StateTimes:
    """(P,) seconds that the robot computes, communicates without computing, and waits; they add up
    to the latency."""

    computing_s: Floats
    communicating_s: Floats
    standby_s: Floats

    def energy_j(self, power: PowerModel) -> Floats:
        """(P,) joules; infinite where a state lasts forever."""
        total = np.zeros_like(self.computing_s)
        for watts, seconds in (
            (power.computing_w, self.computing_s),
            (power.communicating_w, self.communicating_s),
            (power.standby_w, self.standby_s),
        ):
            if watts > 0.0:  # 0 W forever is nothing
                total += watts * seconds
        return total


def covered_s(starts: Floats, ends: Floats) -> Floats:
    """(P,) length of the union of intervals, ``starts`` and ``ends`` (k, P), any order, finite."""
    if not len(starts):
        return np.zeros(starts.shape[1])
    order = np.argsort(starts, axis=0)
    starts = np.take_along_axis(starts, order, axis=0)
    ends = np.take_along_axis(ends, order, axis=0)
    reached = np.maximum.accumulate(ends, axis=0)
    reached = np.concatenate([np.full((1, starts.shape[1]), -np.inf), reached[:-1]])
    covered: Floats = np.maximum(ends - np.maximum(starts, reached), 0.0).sum(axis=0)
    return covered


def state_times(
    computing: tuple[Floats, Floats], communicating: tuple[Floats, Floats], latency_s: Floats
) -> StateTimes:
    """States of the robot over [0, latency] of P schedules.

    ``computing``, ``communicating``: starts and ends, each (k, P), in any order, overlapping or
    not; what lies after ``latency_s`` (P,) does not count. A latency that is infinite (a message
    that never arrives) gives infinite standby.
    """
    finite = np.isfinite(latency_s)
    horizon = np.where(finite, latency_s, 0.0)
    clipped = [np.minimum(each, horizon) for each in (*computing, *communicating)]
    computing_s = covered_s(clipped[0], clipped[1])
    either_s = covered_s(
        np.concatenate([clipped[0], clipped[2]]), np.concatenate([clipped[1], clipped[3]])
    )
    communicating_s = np.maximum(either_s - computing_s, 0.0)
    standby_s = np.where(finite, np.maximum(horizon - either_s, 0.0), np.inf)
    return StateTimes(computing_s, communicating_s, standby_s)
