"""An improving step on the alternating method's best: other loadings of single nodes.

Robots load independently of each other once what they share (servers, clouds and the links between
them) has a price; so one linear program tells for all of them at once what a few other loadings of
each are worth. Loadings of servers and clouds are tried one by one, the most promising first.
"""

from __future__ import annotations

import time

import numpy as np

from offload_ros.fleet.evaluation import Evaluation, State
from offload_ros.fleet.neighbours import Change, Key, Neighbours, Tables
from offload_ros.fleet.onloading import Onloading
from offload_ros.fleet.options import Flags, Floats, Ints, summed
from offload_ros.fleet.problem import ROBOT
from offload_ros.fleet.routing import Columns, solve

ALTERNATIVES = 4  # loadings of each robot that are compared with the present one
TRIES = 4  # changes of servers that are tried without gain before it is given up
GAIN = 1e-6  # relative; less is rounding
KICKED_OPTIONS = 5000  # in all: small problems are climbed anew from several kicks
KICK_GAIN = 1e-4  # relative; what gains less is not begun again
WORTHWHILE = 2e-3  # of the whole value: what could bring less is not tried


def onloading_at(evaluation: Evaluation, price: Floats) -> Onloading:
    """For prices (R + 1,) of resources."""
    options = evaluation.options
    priced = options.priced(price, evaluation.use)
    return Onloading(options, options.pair_values(np.where(evaluation.usable, priced, 0.0)))


class Improver:
    """Of states of one problem, as ``evaluation`` values them."""

    def __init__(self, evaluation: Evaluation, tables: Tables) -> None:
        options = evaluation.options
        self.evaluation, self.options, self.tables = evaluation, options, tables
        kinds = np.array([node.kind == ROBOT for node in options.problem.nodes])
        self.robots, self.helpers = np.flatnonzero(kinds), np.flatnonzero(~kinds)
        self._failed: set[Key] = set()  # changes that were tried once without gain
        self._of_helper = ~kinds[options.node]
        robot = np.array([path.nodes[0] for path in options.paths], np.int64)
        self._robot = robot[options.path]  # of each option
        # Nodes and links that only one robot uses keep their limits; the others have prices.
        self._shared = np.ones(len(options.limit), bool)
        self._shared[self.robots] = False
        for at, link in enumerate(options.problem.links):
            is_robot = options.problem.node[link.source].kind == ROBOT
            self._shared[len(kinds) + at] = not is_robot

    def improve(self, state: State, until_s: float) -> State:
        """At least as good a state; ends where no change helps, or at ``until_s`` (monotonic)."""
        state = self._climb(state, until_s)
        left = KICKED_OPTIONS // len(self.options)
        kicked: set[Key] = set()
        while left > 0 and (changes := self._kicks(state, kicked)[:left]):
            for change in changes:
                if time.monotonic() > until_s:
                    return state
                kicked.add(change.key)
                left -= 1
                self._failed.clear()
                start = self.evaluation.state(self._changed(state.loaded, [change]))
                found = self._climb(start, until_s)
                if found.value > state.value * (1.0 + KICK_GAIN):
                    state = found
                    break
            else:
                break
        return state

    def _climb(self, state: State, until_s: float) -> State:
        """Steps while they gain."""
        while time.monotonic() < until_s:
            better = self._robots_step(state)
            better = self._helpers_step(better or state, until_s) or better
            if better is None:
                break
            state = better
        return state

    def _kicks(self, state: State, kicked: set[Key]) -> list[Change]:
        """Changes of servers to climb from even if they lose, the most promising first: of those
        with the robots' models as they are and of those with none, which robots then change."""
        onloading = onloading_at(self.evaluation, state.routing.price)
        found: dict[Key, Change] = {}
        for loaded in (state.loaded, state.loaded & self._of_helper):
            neighbours = Neighbours(self.tables, onloading, loaded)
            for node in self.helpers:
                for change in neighbours.of(int(node), ALTERNATIVES, above=-np.inf):
                    old = found.get(change.key)
                    if old is None or old.gain < change.gain:
                        found[change.key] = change
        return sorted(
            (
                each
                for each in found.values()
                if each.key not in kicked and not state.loaded[list(each.loads)].all()
            ),
            key=lambda each: -each.gain,
        )

    def _neighbours(self, state: State) -> Neighbours:
        return Neighbours(
            self.tables, onloading_at(self.evaluation, state.routing.price), state.loaded
        )

    def _changed(self, loaded: Flags, changes: list[Change]) -> Flags:
        found: Flags = loaded.copy()
        for change in changes:
            found[self.tables.candidates[change.node]] = False
            found[list(change.loads)] = True
        return found

    def _helpers_step(self, state: State, until_s: float) -> State | None:
        neighbours = self._neighbours(state)
        changes = [each for node in self.helpers for each in neighbours.of(int(node), TRIES)]
        changes = [each for each in changes if each.key not in self._failed]
        changes.sort(key=lambda each: -each.gain)
        for change in changes[:TRIES]:
            if change.gain < WORTHWHILE * state.value or time.monotonic() > until_s:
                return None
            self._failed.add(change.key)
            found = self.evaluation.state(self._changed(state.loaded, [change]))
            if found.value > state.value * (1.0 + GAIN):
                return found
        return None

    def _robots_step(self, state: State) -> State | None:
        """All robots at once to what is best for each at these prices; where they then get into
        each other's way, the better half of them, and so on."""
        neighbours = self._neighbours(state)
        changes = []
        for node in self.robots:
            changes += neighbours.of(int(node), ALTERNATIVES)
        if not changes or sum(each.gain for each in changes) < WORTHWHILE * state.value:
            return None
        chosen = self._best_of(state, changes)
        while chosen:
            if sum(each.gain for each in chosen) < WORTHWHILE * state.value:
                return None
            found = self.evaluation.state(self._changed(state.loaded, chosen))
            if found.value > state.value * (1.0 + GAIN):
                return found
            chosen = chosen[: len(chosen) // 2]
        return None

    def _best_of(self, state: State, changes: list[Change]) -> list[Change]:
        """The best change of each robot with its gain at the shared prices; those that gain."""
        options, price = self.options, np.where(self._shared, state.routing.price, 0.0)
        priced = np.where(self.evaluation.usable, options.priced(price, self.evaluation.use), 0.0)
        robots = sorted({change.node for change in changes})
        loadings = [(node, None) for node in robots] + [(each.node, each) for each in changes]
        remote = state.loaded[options.candidate] & (
            options.resources[:, 1] < len(options.limit) - 1
        )
        remote &= priced > 0.0
        order = np.argsort(self._robot, kind='stable')
        ends = np.searchsorted(self._robot[order], np.arange(len(options.memory_bytes) + 1))
        parts: list[Ints] = []
        for node, change in loadings:
            own = order[ends[node] : ends[node + 1]]
            here = state.loaded if change is None else self._changed(state.loaded, [change])
            local = here[options.candidate[own]] & (options.node[options.candidate[own]] == node)
            parts.append(own[(local & (priced[own] > 0.0)) | remote[own]])
        at = np.concatenate(parts)
        block = np.repeat(np.arange(len(parts)), [len(each) for each in parts])
        worth = self._blocks(at, block, priced, len(parts))
        now = dict(zip(robots, worth[: len(robots)], strict=True))
        best: dict[int, Change] = {}
        for change, value in zip(changes, worth[len(robots) :], strict=True):
            gain = float(value - now[change.node])
            if gain > 1e-9 and (change.node not in best or gain > best[change.node].gain):
                best[change.node] = Change(change.node, change.loads, gain)
        return sorted(best.values(), key=lambda each: -each.gain)

    def _blocks(self, at: Ints, block: Ints, priced: Floats, blocks: int) -> Floats:
        """(blocks,) what each is worth by itself, of options ``at``, in one program."""
        options = self.options
        if not len(at):
            return np.zeros(blocks)
        # Of each block its own limits; shared ones are in the prices.
        kept = np.where(self._shared[options.resources[at]], -1, options.resources[at])
        keys = np.where(kept < 0, -1, kept + (block * len(options.limit))[:, None])
        known, resources = np.unique(keys, return_inverse=True)
        limit = np.where(known < 0, np.inf, options.limit[known % len(options.limit)])
        query = options.query[at] + block * len(options.rate)
        columns = Columns(
            priced[at], query, resources.reshape(keys.shape), self.evaluation.use[at], limit
        )
        solved = solve(columns)
        assert solved is not None
        return summed(block, priced[at] * solved[0], blocks)
