"""Which strategy runs which model, for what each is for; they share processors and link."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
import itertools
import math
import threading

from offload_ros.policy.expectation import Expectation
from offload_ros.policy.goal import Goal, Objective

_STALE_S = 3.0  # a model without frames for so long takes nothing
_FULLEST = 0.95  # beyond this share of a resource's time, waiting has no end
_OVERLOAD_S = 10.0  # per share of time that is missing
_MOST_COMBINATIONS = 2000


@dataclass(frozen=True)
class Wish:
    """What one model asks for: frames per second, and what each strategy that can run would take.
    ``deadline_s``: by when an answer is of use; ``budget_bytes``: of one inference up, for the
    objective accuracy."""

    rate_hz: float
    options: Mapping[str, Expectation]
    goal: Goal
    deadline_s: float
    budget_bytes: float = math.inf
    at_s: float = 0.0


def loaded(
    options: Mapping[str, tuple[Wish, Expectation]],
) -> tuple[dict[str, Expectation], float]:
    """By model, expectations with the waiting that the others' use of robot, link and server
    brings (a queue of one server each); and by how much resources are asked for more than there is.
    """
    use = {
        model: [wish.rate_hz * each for each in expectation.busy_s]
        for model, (wish, expectation) in options.items()
    }
    total = [sum(each) for each in zip(*use.values(), strict=True)]
    found = {}
    for model, (_, expectation) in options.items():
        waiting_s = 0.0
        for busy_s, all_of_it, own in zip(expectation.busy_s, total, use[model], strict=True):
            others = min(max(0.0, all_of_it - own), _FULLEST)
            waiting_s += busy_s * others / (1.0 - others)
        found[model] = replace(
            expectation,
            latency_s=expectation.latency_s + waiting_s,
            late_s=expectation.late_s + waiting_s,
        )
    return found, sum(max(0.0, each - 1.0) for each in total)


def score(wish: Wish, expectation: Expectation, reference: Expectation | None) -> float:
    """Smaller is better, in units of seconds or of shares of running on the robot; what breaks a
    limit of the goal is worse than all that does not."""
    goal = wish.goal
    if goal.objective is Objective.LATENCY:
        return expectation.latency_s
    limit_s = min(goal.deadline_s, wish.deadline_s)
    penalty = 0.0
    if expectation.late_s > limit_s:
        penalty = 1e3 * (1.0 + min(expectation.latency_s, 1e3))
    if goal.objective is Objective.ACCURACY:
        if expectation.bytes_up > wish.budget_bytes:
            penalty += 1e3
        accuracy = expectation.accuracy if math.isfinite(expectation.accuracy) else 1.0
        return penalty + (1.0 - accuracy) + 1e-3 * expectation.latency_s
    if goal.objective is Objective.ENERGY:
        return penalty + expectation.energy_j
    base = reference or expectation
    latency = expectation.latency_s / max(base.latency_s, 1e-9)
    energy = expectation.energy_j / max(base.energy_j, 1e-9)
    return penalty + goal.weight * latency + (1.0 - goal.weight) * energy


class Board:
    """Where the models of one robot meet. Safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wishes: dict[str, Wish] = {}
        self._chosen: dict[str, str] = {}

    def choose(self, model: str, wish: Wish) -> tuple[str, dict[str, Expectation]]:
        """The best strategy of a model among its options (at least one), chosen together with those
        of the other models; and what each option of the model takes beside what they run."""
        with self._lock:
            self._wishes[model] = wish
            live = {
                name: each
                for name, each in self._wishes.items()
                if name == model or wish.at_s - each.at_s < _STALE_S
            }
            picked = self._best(model, live)
            beside = self._beside(model, wish, live, picked)
            self._chosen.update(picked)
            return picked[model], beside

    def forget(self, model: str) -> None:
        """It takes nothing any more."""
        with self._lock:
            self._wishes.pop(model, None)
            self._chosen.pop(model, None)

    def _best(self, model: str, live: Mapping[str, Wish]) -> dict[str, str]:
        names = list(live)
        choices = [list(live[name].options) for name in names]
        if math.prod(len(each) for each in choices) > _MOST_COMBINATIONS:
            # Too many to try all: the others stay with what they have.
            choices = [
                each if name == model else [self._kept(name, live[name])]
                for name, each in zip(names, choices, strict=True)
            ]
        best: tuple[float, tuple[str, ...]] = (math.inf, tuple(each[0] for each in choices))
        for combination in itertools.product(*choices):
            worth = self._worth(names, combination, live)
            if worth < best[0]:
                best = (worth, combination)
        return dict(zip(names, best[1], strict=True))

    def _kept(self, name: str, wish: Wish) -> str:
        kept = self._chosen.get(name, '')
        return kept if kept in wish.options else next(iter(wish.options))

    def _worth(
        self, names: list[str], combination: tuple[str, ...], live: Mapping[str, Wish]
    ) -> float:
        picked = {
            name: (live[name], live[name].options[option])
            for name, option in zip(names, combination, strict=True)
        }
        beside, missing = loaded(picked)
        worth = _OVERLOAD_S * missing
        for name, (wish, _) in picked.items():
            # Models count alike, whatever their size: each against the best that it could have.
            least = min(score(wish, each, None) for each in wish.options.values())
            reference = wish.options.get('device')
            worth += score(wish, beside[name], reference) / max(least, 1e-6)
        return worth

    def _beside(
        self, model: str, wish: Wish, live: Mapping[str, Wish], picked: Mapping[str, str]
    ) -> dict[str, Expectation]:
        found = {}
        for option, expectation in wish.options.items():
            together = {name: (each, each.options[picked[name]]) for name, each in live.items()}
            together[model] = (wish, expectation)
            found[option] = loaded(together)[0][model]
        return found
