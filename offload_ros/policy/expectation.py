"""What an inference is expected to take by one strategy: as it predicts, over the link as it may
be, corrected by what its last inferences took."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, replace
import math
import statistics
from typing import Any

from offload_ros.policy.power import PowerModel
from offload_ros.strategy import LinkState, Prediction

# Swanson's rule: the mean of a distribution by its 10, 50 and 90 % quantiles.
_SHARES = (0.3, 0.4, 0.3)
_NEWEST = 0.3  # how much the newest measurement counts in a correction
_MOST = math.log(20.0)  # a correction is no larger
# Without new measurements corrections are forgotten: causes go away. Bad experience sooner, as who
# keeps it does not meet the strategy again, and would never know.
_FADES_S, _BAD_FADES_S = 60.0, 5.0
_AMONG = 5  # of so many newest measurements the middle one counts: two outliers do not
_RETRY_S, _LONGEST_RETRY_S = 0.25, 1.0  # after a failure, and after a row of them
_LONGEST_TRIAL_S = 30.0  # ... of what never worked


@dataclass(frozen=True)
class Expectation:
    """Of the next inference; NaN: not known. ``latency_s``: mean; ``late_s``: where the link is as
    bad as in one case of ten. ``accuracy`` NaN: that of the model. ``busy_s``: the robot's
    accelerator, uplink, server, downlink."""

    latency_s: float
    late_s: float
    energy_j: float
    accuracy: float
    busy_s: tuple[float, float, float, float]
    bytes_up: float = 0.0

    @property
    def known(self) -> bool:
        return math.isfinite(self.latency_s)


UNKNOWN = Expectation(math.nan, math.nan, math.nan, math.nan, (0.0, 0.0, 0.0, 0.0))


def possible_links(state: LinkState) -> list[LinkState]:
    """The link as bad as in one case of ten, as usual, and as good as in one of ten."""
    values: list[tuple[float, float]] = []
    for name in ('low', '', 'high'):
        pair = []
        for way in ('up', 'down'):
            usual = getattr(state, f'{way}_bytes_per_s')
            asked = getattr(state, f'{way}_{name}_bytes_per_s', usual) if name else usual
            pair.append(asked if math.isfinite(asked) and asked > 0.0 else usual)
        values.append((pair[0], pair[1]))
    return [LinkState(up, down, state.round_trip_s) for up, down in values]


def expected(strategy: Any, state: LinkState, power: PowerModel) -> Expectation:
    """By the strategy's own predictions; ``UNKNOWN`` where it has none."""
    usual: Prediction = strategy.predict(state)
    if not math.isfinite(usual.latency_s):
        return UNKNOWN
    latency_s, late_s = usual.latency_s, usual.late_s
    if not math.isfinite(late_s):
        found = [strategy.predict(each).latency_s for each in possible_links(state)]
        times = [each if math.isfinite(each) else latency_s for each in found]
        latency_s = sum(share * each for share, each in zip(_SHARES, times, strict=True))
        late_s = max(times)
    busy = (
        usual.robot_busy_s,
        usual.uplink_busy_s,
        usual.server_busy_s,
        usual.downlink_busy_s,
    )
    energy_j = usual.energy_j
    if not math.isfinite(energy_j):
        link_s = min(busy[1] + busy[3], max(0.0, latency_s - busy[0]))
        rest_s = max(0.0, latency_s - busy[0] - link_s)
        energy_j = power.energy_j(busy[0], link_s, rest_s)
    return Expectation(latency_s, late_s, energy_j, usual.accuracy, busy, usual.bytes_up)


class Correction:
    """How much longer inferences took than was expected, and whether they failed."""

    def __init__(self) -> None:
        self._log = 0.0
        self._found: deque[float] = deque(maxlen=_AMONG)
        self._at_s = -math.inf
        self._failures = 0
        self._not_before_s = -math.inf
        self.count = 0
        self.typical_s = math.nan  # of those that were measured

    def applied(self, expectation: Expectation, now_s: float) -> Expectation:
        """The expectation with times and energy as experience has them; of a strategy that predicts
        nothing, experience alone."""
        if not expectation.known:
            return replace(expectation, latency_s=self.typical_s, late_s=self.typical_s)
        factor = math.exp(self._faded(now_s))
        return replace(
            expectation,
            latency_s=factor * expectation.latency_s,
            late_s=factor * expectation.late_s,
            energy_j=factor * expectation.energy_j,
        )

    def measured(self, expected_s: float, took_s: float, now_s: float) -> None:
        """Take up one; ``expected_s`` before the correction, NaN: nothing was."""
        self._failures, self._not_before_s = 0, -math.inf
        self.typical_s = _moved(self.typical_s, took_s)
        if math.isfinite(expected_s) and expected_s > 0.0 and took_s > 0.0:
            self._found.append(max(-_MOST, min(_MOST, math.log(took_s / expected_s))))
            found, before = statistics.median_low(self._found), self._faded(now_s)
            first = len(self._found) == 1
            self._log = found if first else before + _NEWEST * (found - before)
            self._at_s = now_s
        self.count += 1

    def _faded(self, now_s: float) -> float:
        fades_s = _FADES_S if self._log < 0.0 else _BAD_FADES_S
        return self._log * math.exp(-max(0.0, now_s - self._at_s) / fades_s) if self._log else 0.0

    def failed(self, now_s: float) -> None:
        """It gave no answer: it is left alone for a while."""
        self._failures += 1
        longest_s = _LONGEST_RETRY_S if self.count else _LONGEST_TRIAL_S
        wait_s = min(_RETRY_S * 2.0 ** min(self._failures - 1, 30), longest_s)
        self._not_before_s = now_s + wait_s

    def allowed(self, now_s: float) -> bool:
        """Whether it may be tried (again)."""
        return now_s >= self._not_before_s


def _moved(mean: float, value: float) -> float:
    return mean + _NEWEST * (value - mean) if math.isfinite(mean) else value
