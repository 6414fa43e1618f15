"""J3O: alternate greedy onloading for prices and optimal routing, whose duals are the next prices.

After arXiv 2508.13380: (i) for multipliers on computing and links, the greedy method for submodular
functions says what to load (``onloading``); (ii) for that, a linear program gives the best routing
and the multipliers of the next round (``routing``), damped. The best of all rounds is kept and then
improved by changes of single nodes (``improve``), which the paper does not have.
"""

from __future__ import annotations

from dataclasses import dataclass
import time

import numpy as np

from offload_ros.fleet.assignment import Assignment
from offload_ros.fleet.evaluation import Batches, Evaluation, OneByOne, State
from offload_ros.fleet.improve import GAIN, Improver, onloading_at
from offload_ros.fleet.neighbours import Tables
from offload_ros.fleet.options import NEGLIGIBLE, Options
from offload_ros.fleet.problem import Problem


@dataclass(frozen=True)
class J3oOptions:
    """rounds: at most; patience: rounds without gain after which it stops; damping: share of the
    new multipliers in the next ones, above 0 to 1; improve: whether the last step is taken;
    time_limit_s: after which nothing more is begun (one round is always finished)."""

    rounds: int = 20
    patience: int = 1
    damping: float = 0.5
    improve: bool = True
    batching: bool = True
    time_limit_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ('rounds', 'patience'):
            if getattr(self, name) < 1:
                raise ValueError(f'{name} is at least 1, not {getattr(self, name)!r}')
        if not 0.0 < self.damping <= 1.0:
            raise ValueError(f'damping is above 0 and at most 1, not {self.damping!r}')
        if not self.time_limit_s > 0.0:
            raise ValueError(f'time_limit_s is above 0, not {self.time_limit_s!r}')


@dataclass(frozen=True)
class Planned:
    """value: right answers per s; rounds: of the alternating method without batching."""

    assignment: Assignment
    value: float
    rounds: int
    took_s: float


def j3o(problem: Problem, chosen: J3oOptions | None = None) -> Planned:
    """What to load and where queries go, within all limits."""
    chosen = chosen or J3oOptions()
    began_s = time.perf_counter()
    until_s = time.monotonic() + chosen.time_limit_s
    options = Options.of(problem)
    if not len(options):
        return Planned(Assignment(), 0.0, 0, time.perf_counter() - began_s)
    tables = Tables(options)
    state, rounds = _planned(OneByOne(options), tables, chosen, until_s)
    if chosen.batching:
        batches = Batches(options)
        # What was found without batches stays possible, so that they never lower the result.
        found = [batches.rescan(state)]
        if batches.helps and time.monotonic() < until_s:
            found.append(_planned(batches, tables, chosen, until_s)[0])
        state = batches.smallest(max(found, key=lambda each: each.value))
    # Models that nothing is routed to would only take memory.
    used = np.bincount(options.candidate, state.routing.share, minlength=len(options.node))
    loaded = state.loaded & (used > NEGLIGIBLE)
    assignment = options.assignment(loaded, state.routing.share, state.batch)
    took_s = time.perf_counter() - began_s
    return Planned(assignment, assignment.value(problem), rounds, took_s)


def _planned(
    evaluation: Evaluation, tables: Tables, chosen: J3oOptions, until_s: float
) -> tuple[State, int]:
    state, rounds = alternate(evaluation, chosen, until_s)
    if chosen.improve:
        state = Improver(evaluation, tables).improve(state, until_s)
    return state, rounds


def alternate(evaluation: Evaluation, chosen: J3oOptions, until_s: float) -> tuple[State, int]:
    """The best of the rounds, and how many there were."""
    price = np.zeros(len(evaluation.options.limit))
    best: State | None = None
    stale, count = 0, 0
    known: dict[bytes, State] = {}
    while best is None or (count < chosen.rounds and time.monotonic() < until_s):
        loaded = onloading_at(evaluation, price).onload()
        state = known.get(loaded.tobytes()) or evaluation.state(loaded)
        known[loaded.tobytes()] = state
        count += 1
        if best is None or state.value > best.value * (1.0 + GAIN):
            best, stale = state, 0
        else:
            stale += 1
            if stale >= chosen.patience:
                break
        price = (1.0 - chosen.damping) * price + chosen.damping * state.routing.price
    return best, count
