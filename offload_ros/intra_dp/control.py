"""Which plan the next inference takes: for a link that is known only roughly, and learning.

The link's bandwidth is a distribution, not a number: what the monitor is unsure of, and how much
its estimates change from one inference to the next. A plan counts as what it takes on average over
that distribution, and what it may take longer than the robot alone counts again. Where the goal
is another one (``policy.goal``), what counts is the robot's mean energy, or both weighted, of
the plans that keep the deadline with a probability of ``IN_TIME``; where none does, the latency.

What inferences took corrects the predictions. Two kinds of error are told apart by a ridge
regression of logarithms: all plans that use the link share the estimate's error, and each family of
plans has a factor of its own. Old evidence fades, so that what was given up is tried again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
import math

import numpy as np
from scipy.special import ndtr

from offload_ros.graph.profile import Floats
from offload_ros.intra_dp.candidate import (
    DEVICE,
    FAMILIES,
    LEAST_BYTES_PER_S,
    SPLIT,
    Candidate,
    Curve,
)
from offload_ros.policy.goal import LEAST_LATENCY, Goal, Objective
from offload_ros.strategy import LinkState

_LINK = 0  # place in the filter's state; families follow

_POINTS, _NORMAL = np.polynomial.hermite_e.hermegauss(7)  # expectations of a normal distribution
_NORMAL = _NORMAL / _NORMAL.sum()
_Z_90 = 1.2815515655446004  # its 90 % quantile
# Links also drop at once to a part of what they were: that part, and how often.
_DROPS, _DROP_WEIGHTS = np.array([0.5, 0.25, 0.1]), np.array([0.02, 0.01, 0.005])
_WEIGHTS = np.concatenate([(1.0 - _DROP_WEIGHTS.sum()) * _NORMAL, _DROP_WEIGHTS])
_MIDDLE = len(_POINTS) // 2

UNMEASURED_BYTES_PER_S, UNMEASURED_SPREAD = 4e6, 0.7
# Standard deviations of the logarithm of a bandwidth.
LEAST_SPREAD, SURE_SPREAD, MOST_SPREAD = 0.03, 0.25, 1.5
CHANGE_WEIGHT = 0.1  # of the newest change of the estimate, in their mean

LINK_PRIOR, FAMILY_PRIOR, DEVICE_PRIOR = 0.3, 0.2, 0.15  # standard deviations, of logarithms
# Many small messages and operators: more that a model of their costs does not know.
SPLIT_LONGER = math.log(1.1)
KEPT, FADE_S = 8, 60.0  # inferences of each family; older ones weigh 1/e less for each
FIRST_NOISE, LEAST_NOISE = 0.1, 0.01  # of one inference, standard deviation of its logarithm
HUBER = 1.5  # of these: a single outlier changes little
ROUNDS = 1

TAIL_WEIGHT = 0.5
IN_TIME = 0.95  # of all inferences: what a deadline demands
OPTIMISM = 1.5  # standard deviations
WORTH_TRYING, TRY_COSTS = 0.95, 2.0
FIRST_PAUSE, LONGEST_PAUSE = 5, 5120  # inferences between two tries
LATE_FACTOR, LATE_SLACK_S = 1.1, 0.02  # threads of a busy machine wake up late, too


@dataclass(frozen=True, eq=False)
class Choice:
    """For one inference. ``predicted_s``: what it takes on average, corrected. ``late_s``: from
    when on (from its beginning) what has not arrived counts as late. ``is_try``: not what looks
    best, but may turn out to be. ``predicted_j``: what it costs the robot on average, NaN where
    nothing is known of that. The rest is for ``learn``."""

    candidate: Candidate
    predicted_s: float
    late_s: float
    is_try: bool
    bytes_per_s: float  # up, by the estimate
    spread: float  # of its logarithm
    otherwise_s: float  # so long it may take to be as good as the best other plan
    predicted_j: float = math.nan


class Controller:
    """Of one model on one link; for one thread. Times are of a steady clock, in seconds.

    ``tail_weight``: how much more than the mean it counts by how much a plan may be slower than
    the robot alone; 0 minimises the mean. ``goal``: what plans are chosen for; it may change.
    """

    def __init__(self, tail_weight: float = TAIL_WEIGHT, goal: Goal = LEAST_LATENCY) -> None:
        self.goal = goal
        self._tail_weight = tail_weight
        spreads = {_place(family): FAMILY_PRIOR for family in FAMILIES}
        spreads |= {_LINK: LINK_PRIOR, _place(DEVICE): DEVICE_PRIOR}
        self._usual = np.array([0.0, *(SPLIT_LONGER * (each == SPLIT) for each in FAMILIES)])
        self._prior = np.array([spreads[place] for place in range(1 + len(FAMILIES))]) ** 2
        self._evidence: dict[str, deque[_Evidence]] = {
            family: deque(maxlen=KEPT) for family in FAMILIES
        }
        self._now_s = 0.0
        self._mean, self._noise = np.zeros_like(self._prior), FIRST_NOISE
        self._fit()
        self._change = 0.0  # of the estimate's logarithm at a time, as a standard deviation
        self._last = math.nan
        self._since_try, self._pause = FIRST_PAUSE, FIRST_PAUSE

    @property
    def corrections(self) -> dict[str, float]:
        """Factors by which the cost model was wrong: 'link' of bandwidths, others of latencies."""
        factors = np.exp(self._usual + self._mean)
        named = {family: float(factors[_place(family)]) for family in FAMILIES}
        return {'link': float(factors[_LINK]), **named}

    def choose(
        self, candidates: Sequence[Candidate], state: LinkState, now_s: float, tries: bool = True
    ) -> Choice:
        """The plan for the next inference; ``tries``: also one worth a try, and it will run.
        ``ValueError`` without one of family ``device`` (what a late run ends with), or what the
        goal needs."""
        alone = [each for each in candidates if each.family == DEVICE]
        if not alone:
            raise ValueError("the robot alone (family 'device') must be a candidate")
        if self.goal != LEAST_LATENCY and any(each.energy is None for each in candidates):
            raise ValueError(f'the goal is {self.goal}: every candidate needs a curve of energy')
        self._now_s = now_s
        if now_s - self._fitted_s > FADE_S / 20:
            self._fit()
        spread, unsure, bandwidths = self._bandwidths(state, new=tries)
        safe = self._alone(alone[0])
        valued = self._by_goal([self._valued(each, bandwidths, safe) for each in candidates], safe)
        kept = [each for each in valued if each.in_time >= IN_TIME] or valued
        best = min(kept, key=lambda each: each.score)
        others = [each.mean_s for each in valued if each is not best]
        middle = float(bandwidths[_MIDDLE])
        tried = self._worth_a_try(best, valued, unsure, middle) if tries else None
        chosen = tried or best
        return Choice(
            chosen.candidate,
            chosen.mean_s,
            chosen.late_s,
            tried is not None,
            middle / self._link_factor,
            spread,
            min(others, default=math.inf)
            if tried is None
            else min(tried.mean_s * best.mean / tried.mean, self.goal.deadline_s),
            chosen.mean_j,
        )

    def learn(self, choice: Choice, measured_s: float) -> None:
        """What the chosen plan took, which need not be what it was predicted to."""
        if not 0.0 < measured_s < math.inf:
            return
        candidate = choice.candidate
        self._evidence[candidate.family].append(
            _Evidence(self._now_s, candidate, choice.bytes_per_s, choice.spread, measured_s)
        )
        self._fit()
        if choice.is_try:
            paid = measured_s < WORTH_TRYING * choice.otherwise_s
            pause = self._pause // 2 if paid else 2 * self._pause
            self._pause = min(max(pause, FIRST_PAUSE), LONGEST_PAUSE)

    def _fit(self) -> None:
        """Corrections (``_mean``, logarithms) and what is not known of them (``_covariance``), by
        all evidence: Gauss-Newton steps of a regression with Huber's weights."""
        self._fitted_s = self._now_s
        known = [each for several in self._evidence.values() for each in several]
        if not known:
            self._mean, self._covariance = np.zeros_like(self._prior), np.diag(self._prior)
            self._noise = FIRST_NOISE
            return
        own = np.array([_place(each.candidate.family) for each in known])
        ages_s = np.array([self._now_s - each.now_s for each in known])
        spreads = np.array([each.spread for each in known])
        weights = np.exp(-ages_s / FADE_S)
        for _ in range(ROUNDS):
            factor = math.exp(self._mean[_LINK])
            model, slopes = np.array([_modelled(each, factor) for each in known]).T
            wanted = np.log([each.measured_s for each in known]) - model - self._usual[own]
            rows = np.zeros((len(known), len(self._prior)))
            rows[:, _LINK], rows[np.arange(len(known)), own] = slopes, 1.0
            errors = np.abs(wanted - self._mean[own])
            noise = np.hypot(self._noise, slopes * spreads)
            certain = weights / noise**2 * np.minimum(1.0, HUBER * noise / np.maximum(errors, 1e-9))
            # Around the present correction of the link, so that this one is what is solved for.
            wanted = wanted + slopes * self._mean[_LINK]
            # A correction that is large is shrunk no more than one that is not.
            far = np.abs(self._mean) / np.sqrt(self._prior)
            precision = np.diag(np.minimum(1.0, HUBER / np.maximum(far, 1e-9)) / self._prior)
            self._covariance = np.linalg.inv(precision + rows.T @ (certain[:, None] * rows))
            self._mean = self._covariance @ (rows.T @ (certain * wanted))
            self._mean[_LINK] = min(max(self._mean[_LINK], -MOST_SPREAD), MOST_SPREAD)
        # How much inferences of a family differ; what they have in common is no noise.
        left = wanted - rows @ self._mean
        for family in set(own.tolist()):
            left[own == family] -= np.median(left[own == family])
        left = np.minimum(np.abs(left), HUBER * noise)
        alone = np.clip(left**2 - (slopes * spreads) ** 2, LEAST_NOISE**2, None)
        total = float(weights.sum())
        self._noise = math.sqrt((FIRST_NOISE**2 + float(weights @ alone)) / (1.0 + total))

    def _bandwidths(self, state: LinkState, new: bool) -> tuple[float, float, Floats]:
        """Spread of the estimate's logarithm; what of it is the monitor's own doubt, as where
        nothing was sent for long; and (points,) bandwidths up in bytes/s, weighted by ``_WEIGHTS``,
        with the learned correction. ``new``: an inference follows, so that this estimate is one
        more of those that show how much they change."""
        known = state.up_bytes_per_s > 0.0
        middle = math.log(state.up_bytes_per_s if known else UNMEASURED_BYTES_PER_S)
        if new and known and math.isfinite(self._last):
            change = min(1.25 * abs(middle - self._last), MOST_SPREAD)
            self._change += CHANGE_WEIGHT * (change - self._change)
        if new:
            self._last = middle if known else math.nan
        below = above = UNMEASURED_SPREAD
        if known:
            low = getattr(state, 'up_low_bytes_per_s', math.nan)
            high = getattr(state, 'up_high_bytes_per_s', math.nan)
            below, above = _spread(middle, low, -1.0), _spread(middle, high, 1.0)
        more = self._change**2 + self._covariance[_LINK, _LINK]
        sides = np.where(_POINTS < 0.0, math.hypot(below, more**0.5), math.hypot(above, more**0.5))
        middle += float(self._mean[_LINK])
        usual = np.exp(middle + _POINTS * np.minimum(sides, MOST_SPREAD))
        spread = min(math.sqrt((below**2 + above**2) / 2 + self._change**2), MOST_SPREAD)
        unsure = max(0.0, (below + above) / 2.0 - SURE_SPREAD)
        return spread, unsure, np.concatenate([usual, math.exp(middle) * _DROPS])

    def _alone(self, device: Candidate) -> tuple[float, float]:
        """Seconds and joules of the robot alone; NaN where its energy is not known."""
        factor = self._factor(DEVICE)
        energy_j = math.nan if device.energy is None else float(device.energy.latency_s[-1])
        return factor * float(device.curve.latency_s[-1]), factor * energy_j

    def _valued(
        self, candidate: Candidate, bandwidths: Floats, safe: tuple[float, float]
    ) -> _Valued:
        """As if the least latency were the goal."""
        (safe_s, safe_j), factor = safe, self._factor(candidate.family)
        latency_s = factor * candidate.curve(bandwidths)
        energy_j = None
        if self.goal != LEAST_LATENCY and candidate.energy is not None:
            energy_j = factor * candidate.energy(bandwidths)  # longer at the same watts
        late_s = math.inf
        if candidate.family != DEVICE:
            late_s = self._late_s(latency_s, safe_s)
            late = latency_s > late_s
            if energy_j is not None:
                waited_j = energy_j * (late_s / np.maximum(latency_s, late_s))
                energy_j = waited_j + np.where(late, safe_j, 0.0)
            latency_s = np.where(late, late_s + safe_s, latency_s)
        mean_s = float(_WEIGHTS @ latency_s)
        excess_s = float(_WEIGHTS @ np.maximum(latency_s - safe_s, 0.0))
        score_s = mean_s + self._tail_weight * excess_s
        known = _Valued(candidate, score_s, mean_s, score_s, mean_s, late_s)
        if energy_j is None:
            return known
        room = np.log(self.goal.deadline_s / latency_s) / self._noise
        in_time, mean_j = float(_WEIGHTS @ ndtr(room)), float(_WEIGHTS @ energy_j)
        return replace(known, mean_j=mean_j, in_time=in_time)

    def _by_goal(self, valued: list[_Valued], safe: tuple[float, float]) -> list[_Valued]:
        """With scores for the goal; where nothing keeps the deadline, still for the latency."""
        hopeless = max(each.in_time for each in valued) < IN_TIME
        if self.goal.objective is Objective.LATENCY or hopeless:
            return valued
        if self.goal.objective is Objective.ENERGY:
            shares = 0.0, 1.0
        else:
            shares = self.goal.weight / safe[0], (1.0 - self.goal.weight) / max(safe[1], 1e-12)
        return [
            replace(
                each,
                score=shares[0] * each.score_s + shares[1] * each.mean_j,
                mean=shares[0] * each.mean_s + shares[1] * each.mean_j,
            )
            for each in valued
        ]

    def _late_s(self, latency_s: Floats, safe_s: float) -> float:
        """When to stop waiting: where the mean is least, of all inferences that then wait no more
        and those that would have ended by then."""
        margin = LATE_FACTOR * math.exp(2.0 * self._noise)
        ends_s = np.maximum(margin * latency_s, latency_s + LATE_SLACK_S)
        waits = latency_s[None] > ends_s[:, None]
        means_s = np.where(waits, ends_s[:, None] + safe_s, latency_s[None]) @ _WEIGHTS
        return float(ends_s[int(means_s.argmin())])

    def _worth_a_try(
        self, best: _Valued, valued: Sequence[_Valued], unsure: float, bytes_per_s: float
    ) -> _Valued | None:
        """A plan that is not expected to be the best, but of which too little is known to say that
        it is not; seldom, and the more seldom the more often it was in vain."""
        self._since_try += 1
        if self._since_try < self._pause:
            return None
        deadline_s = max(self.goal.deadline_s, best.mean_s)
        hopes = [
            (hope * each.score, each)
            for each in valued
            if each.mean < TRY_COSTS * best.mean
            and each is not best
            and (hope := self._hope(each, unsure, bytes_per_s)) * each.mean_s <= deadline_s
        ]
        hoped, hopeful = min(hopes, key=lambda pair: pair[0], default=(math.inf, best))
        if hoped > WORTH_TRYING * best.score:
            return None
        self._since_try = 0
        return hopeful

    def _hope(self, valued: _Valued, unsure: float, bytes_per_s: float) -> float:
        _, slope = _log_and_slope(valued.candidate.curve, bytes_per_s)
        direction = np.zeros(len(self._prior))
        direction[_LINK], direction[_place(valued.candidate.family)] = slope, 1.0
        variance = float(direction @ self._covariance @ direction) + (unsure * slope) ** 2
        return math.exp(-OPTIMISM * math.sqrt(variance))

    def _factor(self, family: str) -> float:
        place = _place(family)
        return math.exp(self._usual[place] + self._mean[place])

    @property
    def _link_factor(self) -> float:
        return math.exp(self._mean[_LINK])


@dataclass(frozen=True, eq=False)
class _Valued:
    """``score``, ``mean``: with the tail and without it, in what the goal counts."""

    candidate: Candidate
    score: float
    mean: float
    score_s: float
    mean_s: float
    late_s: float
    mean_j: float = math.nan
    in_time: float = 1.0  # how probable it is that it keeps the goal's deadline


@dataclass(frozen=True, eq=False)
class _Evidence:
    now_s: float
    candidate: Candidate
    bytes_per_s: float
    spread: float
    measured_s: float


def _place(family: str) -> int:
    return 1 + FAMILIES.index(family)


def _modelled(evidence: _Evidence, factor: float) -> tuple[float, float]:
    return _log_and_slope(evidence.candidate.curve, factor * evidence.bytes_per_s)


def _log_and_slope(curve: Curve, bytes_per_s: float) -> tuple[float, float]:
    """Logarithm of a latency, and its slope over that of the bandwidth (bytes/s)."""
    here, faster = np.log(np.maximum(curve(np.array([1.0, 1.05]) * bytes_per_s), 1e-9))
    return float(here), float(faster - here) / math.log(1.05)


def _spread(middle: float, quantile: float, sign: float) -> float:
    """Standard deviation of a logarithm, from its median and the 10 or 90 % quantile."""
    if math.isnan(quantile):
        return LEAST_SPREAD
    away = sign * (math.log(max(quantile, LEAST_BYTES_PER_S)) - middle) / _Z_90
    return min(max(away, LEAST_SPREAD), MOST_SPREAD)
