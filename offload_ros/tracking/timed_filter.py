"""A filter of one person whose measurements may come late and out of order."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
import math

import numpy as np
import numpy.typing as npt

from offload_ros.tracking.checks import finite, within
from offload_ros.tracking.history import History
from offload_ros.tracking.kalman import Gaussian, Noise, gate, initial, innovation, predict, update
from offload_ros.tracking.noise_fit import STEP_MIN_S, FitConfig, fit_noise

Point = tuple[float, float]


@dataclass(frozen=True, eq=False)
class Filtered:
    """A filter after its latest accepted measurement, at seen_s.

    ``early`` holds (stamp, position) of the first measurements until the noise is fitted to them.
    """

    belief: Gaussian
    seen_s: float
    noise: Noise
    early: tuple[tuple[float, Point], ...]
    accepted: int = 1
    rejected: int = 0

    def predicted(self, stamp_s: float) -> Gaussian:
        """Return the belief at a stamp that is not before seen_s."""
        return predict(self.belief, stamp_s - self.seen_s, self.noise.intensity)


def begin(stamp_s: float, position: Point, fit: FitConfig) -> Filtered:
    """Return a filter of one measurement."""
    noise = fit.noise()
    belief = initial(np.array(position), noise.measurement, fit.speed_sigma_mps)
    return Filtered(belief, stamp_s, noise, ((stamp_s, position),))


def advance(
    before: Filtered, stamp_s: float, position: Point, fit: FitConfig, most: float = math.inf
) -> Filtered:
    """Return the filter after a measurement that belongs to it, newer than seen_s.

    A measurement whose squared Mahalanobis distance exceeds ``most`` counts less: its noise is
    raised until it does not. With the last of the first measurements the noise is fitted, and they
    are filtered anew with it.
    """
    predicted, measurement = before.predicted(stamp_s), before.noise.measurement
    _, spread, squared = innovation(predicted, np.array(position), measurement)
    measurement = measurement + max(0.0, squared / most - 1.0) * spread
    belief = update(predicted, np.array(position), measurement)
    after = replace(before, belief=belief, seen_s=stamp_s, accepted=before.accepted + 1)
    if len(before.early) >= fit.observations:
        return after
    early = before.early
    if stamp_s - early[-1][0] >= STEP_MIN_S:
        early = (*early, (stamp_s, position))
    if len(early) < fit.observations:
        return replace(after, early=early)
    stamps = np.array([stamp for stamp, _ in early])
    points = np.array([point for _, point in early])
    noise = fit_noise(stamps, points, fit)
    belief = initial(points[0], noise.measurement, fit.speed_sigma_mps)
    for dt_s, point in zip(np.diff(stamps), points[1:], strict=True):
        belief = update(predict(belief, float(dt_s), noise.intensity), point, noise.measurement)
    belief = predict(belief, stamp_s - float(stamps[-1]), noise.intensity)
    return replace(after, belief=belief, noise=noise, early=early)


@dataclass(frozen=True)
class FilterConfig:
    """Gate (share of true measurements that pass it), history and noise of one filter."""

    gate_probability: float = 0.999
    history_s: float = 2.0
    history_limit: int = 100
    fit: FitConfig = field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        within('gate_probability', self.gate_probability, 0.5, 1 - 1e-12)
        within('history_s', self.history_s, 0.0, 60.0)
        within('history_limit', self.history_limit, 1, 10_000)


class TimedFilter:
    """Time-stamped measurements of one point in any order; ``at`` answers for any later stamp."""

    def __init__(self, config: FilterConfig | None = None) -> None:
        """Begin without a measurement."""
        self.config = config or FilterConfig()
        self._gate = gate(self.config.gate_probability)
        self._history: History[Filtered | None, Point] = History(
            None, self._step, self.config.history_s, self.config.history_limit
        )

    @property
    def state(self) -> Filtered | None:
        """Return the filter after the newest measurement, None before the first."""
        return self._history.state

    def add(self, stamp_s: float, position: npt.ArrayLike) -> bool:
        """Add a position (2,) in metres; False if it is older than the history or a duplicate.

        Whether it passed the gate is told by the counts of ``state``. ValueError if not finite.
        """
        x, y = finite('position', position, (2,))
        return self._history.add(stamp_s, (float(x), float(y)))

    def at(self, stamp_s: float) -> Gaussian | None:
        """Return the belief at a stamp, of the measurements up to it; None before the first."""
        state = self._history.state_at(stamp_s)
        return state.predicted(stamp_s) if state and stamp_s >= state.seen_s else None

    def _step(self, state: Filtered | None, stamp_s: float, position: Point) -> Filtered:
        if state is None:
            return begin(stamp_s, position, self.config.fit)
        belief = state.predicted(stamp_s)
        _, _, squared = innovation(belief, np.array(position), state.noise.measurement)
        if squared > self._gate:
            return replace(state, rejected=state.rejected + 1)
        return advance(state, stamp_s, position, self.config.fit)
