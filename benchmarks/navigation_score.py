"""What a way to a goal cost: time, path, energy, collisions, share in the air."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
import math
from typing import Any

import numpy as np

REACHED_M = 0.6
AIRBORNE_M = 0.05


@dataclass(frozen=True)
class Moment:
    """An instant of the truth: time_s simulated, place (x, y, z) in the map frame, energy_j spent
    since the world began, and whether something holds the robot back."""

    time_s: float
    place: tuple[float, float, float]
    energy_j: float
    blocked: bool


def score(moments: Sequence[Moment], goal: tuple[float, float], arrived: bool) -> dict[str, Any]:
    """Of one way, from the goal's publication to the end. Success: the navigator says that it
    arrived, and it stands there."""
    places = np.array([m.place for m in moments])
    times = np.array([m.time_s for m in moments])
    steps = np.linalg.norm(np.diff(places, axis=0), axis=1)
    off_m = math.dist(places[-1][:2], goal)
    blocked = [m.blocked for m in moments]
    return {
        'success': bool(arrived and off_m <= REACHED_M),
        'off_m': round(off_m, 3),
        'collisions': sum(
            now and not before for before, now in zip([False, *blocked], blocked, strict=False)
        ),
        'time_s': float(times[-1] - times[0]),
        'path_m': float(steps.sum()),
        'energy_j': moments[-1].energy_j - moments[0].energy_j,
        'air_share': float((places[:, 2] > AIRBORNE_M).mean()),
        'straight_m': math.dist(places[0][:2], goal),
    }


def together(runs: Mapping[int, Mapping[str, Any]], common: Sequence[int]) -> dict[str, Any]:
    """Of one condition. Costs are means over the worlds ``common``, in which every condition was
    successful; success and collisions count everywhere."""
    every = list(runs.values())
    found: dict[str, Any] = {
        'runs': len(every),
        'success_rate': float(np.mean([each['success'] for each in every])),
        'collisions': sum(each['collisions'] for each in every),
        'planning_p95_s': _quantile([v for each in every for v in each['planning_s']], 0.95),
        'completion_age_s': _quantile([v for each in every for v in each['ages_s']], 0.5),
        'result_s': _quantile([v for each in every for v in each['result_s']], 0.5),
    }
    for name in ('time_s', 'path_m', 'energy_j', 'air_share'):
        found[name] = float(np.mean([runs[seed][name] for seed in common])) if common else math.nan
    return found


def ratio_of(
    ones: Sequence[float], others: Sequence[float], seed: int = 0, draws: int = 2000
) -> tuple[float, float, float]:
    """Sum over sum with a bootstrap 95 % interval over pairs; NaN without any."""
    one, other = np.asarray(ones), np.asarray(others)
    if not len(one):
        return math.nan, math.nan, math.nan
    at = np.random.default_rng(seed).integers(len(one), size=(draws, len(one)))
    drawn = one[at].sum(1) / other[at].sum(1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(one.sum() / other.sum()), float(low), float(high)


def _quantile(values: Sequence[float], share: float) -> float:
    known = [value for value in values if math.isfinite(value)]
    return float(np.quantile(known, share)) if known else math.nan
