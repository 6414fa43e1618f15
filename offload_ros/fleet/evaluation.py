"""What a set of loaded candidates is worth: with queries computed one by one, or in batches.

In batches of b, each query takes tau(b) / b of a node's time instead of tau(1), and waits until a
batch is full and computed, (b - 1) / (2 arrivals per s) + tau(b). What arrives depends on the
routing, and which routing is allowed on the wait; so a batch size comes with a promise, so many
queries per s at least, which the routing has to keep and waits are computed from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from offload_ros.fleet.options import NEGLIGIBLE, TOUCHING, Flags, Floats, Ints, Options, summed
from offload_ros.fleet.routing import LeastUse, Routing, route

RESCANS = 3  # scans of batch sizes after the first, while they gain
GAIN = 1e-4  # relative; what is less ends the scans
ADMITTED = 0.8  # of the queries that a candidate could answer one by one, at an assumed batch size
POTENTIAL = 0.5  # of the queries that a candidate could answer are assumed to come
PROMISE = 0.6  # of what arrives; more leaves the routing less freedom, less means longer waits


@dataclass(frozen=True, eq=False)
class State:
    """What is loaded (C,), batch sizes (C,), and the best routing found for it."""

    loaded: Flags
    routing: Routing
    batch: Ints

    @property
    def value(self) -> float:
        return self.routing.value


class Evaluation(Protocol):
    """``use`` (O, 3) and ``usable`` (O,) are what onloading assumes of candidates."""

    options: Options
    use: Floats
    usable: Flags

    def state(self, loaded: Flags) -> State:
        """The best routing for what is loaded."""


class OneByOne:
    """Without batching: exact."""

    def __init__(self, options: Options) -> None:
        self.options, self.use = options, options.use
        self.usable = np.ones(len(options), bool)
        self._single = np.ones(len(options.node), np.int64)

    def state(self, loaded: Flags) -> State:
        routing = route(self.options, loaded[self.options.candidate])
        assert routing is not None
        return State(loaded, routing, self._single)


class Batches:
    """Batch sizes are powers of two, scanned between programs; what is found keeps all limits."""

    def __init__(self, options: Options) -> None:
        self.options = options
        problem = options.problem
        nodes = [problem.nodes[at] for at in options.node]
        models = [problem.models[at] for at in options.model]
        speed = np.array([node.speed for node in nodes])
        self._most = np.array([node.max_batch for node in nodes], np.int64)
        self._alpha_s = np.array([model.alpha_s for model in models]) / speed
        self._beta_s = np.array([model.beta_s for model in models]) / speed
        self._rate = options.rate[options.query]
        # What is left of each query's latency for waiting and computing, and may be just used up.
        limit_s = options.limit_s[options.query]
        self._slack_s = limit_s * (1.0 + TOUCHING) - options.path_s
        self._sizes = [2**power for power in range(int(self._most.max(initial=1)).bit_length())]
        self._single = np.ones(len(options.node), np.int64)
        self._assumed = self._assume()
        self.use, self.usable = self._terms(*self._assumed)

    @property
    def helps(self) -> bool:
        """Whether any batch is assumed."""
        return bool((self._assumed[0] > 1).any())

    def _terms(self, batch: Ints, arrivals: Floats) -> tuple[Floats, Flags]:
        """Use (O, 3) and whether the latency is kept (O,) with these of candidates (C,)."""
        of = self.options.candidate
        busy_s = self._alpha_s + self._beta_s * batch
        use = self.options.use.copy()
        use[:, 0] = self._rate * (busy_s / batch)[of]
        return use, self._slack_s >= self._latency_s(batch, arrivals)[of]

    def _latency_s(self, batch: Ints, arrivals: Floats) -> Floats:
        """(C,) waiting and computing; infinite for batches of which nothing arrives."""
        wait_s = np.zeros(len(batch))
        waits = batch > 1
        with np.errstate(divide='ignore'):
            wait_s[waits] = (batch[waits] - 1) / (2.0 * arrivals[waits])
        found: Floats = wait_s + self._alpha_s + self._beta_s * batch
        return found

    def _assume(self) -> tuple[Ints, Floats]:
        """For each candidate the largest batch that most of what may come to it is in time for."""
        options = self.options
        pairs = summed(options.pair_candidate, options.rate[options.pair_query], len(options.node))
        arrivals = POTENTIAL * pairs
        every = summed(options.candidate, self._rate, len(options.node))
        batch = self._single.copy()
        for size in self._sizes[1:]:
            tried = np.full(len(batch), size)
            in_time = self._slack_s >= self._latency_s(tried, arrivals)[options.candidate]
            admitted = summed(options.candidate, self._rate * in_time, len(options.node))
            saves = (size <= self._most) & (self._alpha_s > 0.0)
            batch[saves & (admitted >= ADMITTED * every)] = size
        return batch, arrivals

    def state(self, loaded: Flags) -> State:
        """From the sizes that onloading assumed, made to fit what then arrives."""
        use, usable = self.use, self.usable
        routing = route(self.options, loaded[self.options.candidate] & usable, use)
        assert routing is not None
        found = self._settle(loaded, routing.share)
        return found or self.rescan(OneByOne(self.options).state(loaded))

    def rescan(self, state: State) -> State:
        """Batch sizes for the present routing, the best routing for these, and so on: never less
        than before, as the present routing stays possible."""
        for _ in range(1 + RESCANS):
            found = self._settle(state.loaded, state.routing.share)
            if found is None or found.value <= state.value * (1.0 + GAIN):
                return state if found is None or found.value < state.value else found
            state = found
        return state

    def _settle(self, loaded: Flags, share: Floats) -> State | None:
        batch, promise = self._scan(loaded, share)
        use, in_time = self._terms(batch, promise)
        promised = np.flatnonzero(batch > 1)
        least = LeastUse(promised, promise[promised])
        routing = route(self.options, loaded[self.options.candidate] & in_time, use, least)
        return None if routing is None else State(loaded, routing, batch)

    def _scan(self, loaded: Flags, share: Floats) -> tuple[Ints, Floats]:
        """For each candidate the largest batch that all of its present queries are in time for, and
        how many per s it counts on."""
        options, count = self.options, len(self.options.node)
        arrivals = summed(options.candidate, self._rate * share, count)
        used = share > NEGLIGIBLE
        slack_s = np.full(count, np.inf)
        np.minimum.at(slack_s, options.candidate[used], self._slack_s[used])
        batch, promise = self._single.copy(), np.zeros(count)
        possible = loaded & (arrivals > NEGLIGIBLE) & (self._alpha_s > 0.0)
        for size in self._sizes[1:]:
            tried = np.full(count, size)
            fits = possible & (size <= self._most) & (self._latency_s(tried, arrivals) <= slack_s)
            batch[fits] = size
        batched = batch > 1
        room_s = (slack_s - self._alpha_s - self._beta_s * batch)[batched]
        needed = (batch[batched] - 1) / (2.0 * room_s)
        promise[batched] = np.maximum(needed, PROMISE * arrivals[batched])
        return batch, promise

    def smallest(self, state: State) -> State:
        """The same routing with batches no larger than the nodes' time asks for: queries wait
        less."""
        options = self.options
        arrivals = summed(options.candidate, self._rate * state.routing.share, len(options.node))
        batch = state.batch.copy()
        batch[arrivals <= NEGLIGIBLE] = 1
        busy = arrivals * (self._alpha_s / batch + self._beta_s)
        load = summed(options.node, busy, len(options.memory_bytes))
        for at in np.flatnonzero(batch > 1):
            node = options.node[at]
            while batch[at] > 1:
                more = arrivals[at] * self._alpha_s[at] / batch[at]
                if load[node] + more > options.limit[node]:
                    break
                batch[at] //= 2
                load[node] += more
        return State(state.loaded, state.routing, batch)
