"""Other loadings of one node, ranked by what they could be worth at given prices.

At the prices of an optimal routing no other loading is worth more than its priced value and the
limits' prices together (weak duality), and the present one is worth exactly that. So a change that
gains nothing here gains nothing at all, and what it gains here is the most that it can.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import combinations
from math import comb

import numpy as np

from offload_ros.fleet.onloading import Onloading
from offload_ros.fleet.options import Flags, Floats, Ints, Options

Key = tuple[int, tuple[int, ...]]
MOST_SUBSETS = 400  # of a node that are all looked at; beyond it swaps of what is loaded
MOST_DEPTH = 4  # models in such a subset
MOST_COMBINATIONS = 5000  # of so many that are looked through for those


@dataclass(frozen=True, eq=False)
class Change:
    """Of what ``node`` loads to ``loads`` (candidates); ``gain``: the most that it can bring."""

    node: int
    loads: tuple[int, ...]
    gain: float

    @property
    def key(self) -> Key:
        return self.node, self.loads


class Tables:
    """What does not depend on prices: per node its candidates (K,), the queries (Q,) they can
    answer, where a pair's value goes in a table (K, Q), and loadings that fit, if these are few."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.candidates = options.node_candidates()
        self.queries: list[Ints] = []
        self.pairs: list[Ints] = []
        self.places: list[tuple[Ints, Ints]] = []
        self.subsets: list[Ints | None] = []
        begin = options.candidate_pairs
        for node, own in enumerate(self.candidates):
            # Candidates of a node are neighbours, and so are their pairs.
            pairs = np.arange(begin[own[0]], begin[own[-1] + 1]) if len(own) else np.arange(0)
            queries, place = np.unique(options.pair_query[pairs], return_inverse=True)
            row = options.pair_candidate[pairs] - (own[0] if len(own) else 0)
            self.queries.append(queries)
            self.pairs.append(pairs)
            self.places.append((row, place))
            self.subsets.append(_fitting(options.size_bytes[own], options.memory_bytes[node]))

    def table(self, node: int, onloading: Onloading) -> Floats:
        """(K + 1, Q) priced values; the last row is of nothing."""
        found = np.zeros((len(self.candidates[node]) + 1, len(self.queries[node])))
        found[self.places[node]] = onloading.values[self.pairs[node]]
        return found


@cache
def _combinations(count: int, depth: int) -> Ints:
    """(n choose d, d) of 0 to ``count`` - 1."""
    found = list(combinations(range(count), depth))
    return np.array(found, np.int64).reshape(len(found), depth)


def _fitting(sizes: Floats, memory: float) -> Ints | None:
    """(S, k) subsets that fit and to which nothing can be added, filled up with ``len(sizes)``;
    ``None`` for more than ``MOST_SUBSETS``."""
    count = len(sizes)
    found: list[Ints] = []
    for depth in range(1, count + 1):
        if depth > MOST_DEPTH or comb(count, depth) > MOST_COMBINATIONS:
            return None
        subsets = _combinations(count, depth)
        room = memory - sizes[subsets].sum(1)
        subsets, room = subsets[room >= 0.0], room[room >= 0.0]
        if not len(subsets):
            break
        rest = np.tile(sizes, (len(subsets), 1))
        np.put_along_axis(rest, subsets, np.inf, 1)
        found.append(subsets[rest.min(1) > room])
        if sum(map(len, found)) > MOST_SUBSETS:
            return None
    filled = np.full((sum(map(len, found)), MOST_DEPTH), count)
    at = 0
    for subsets in found:
        filled[at : at + len(subsets), : subsets.shape[1]] = subsets
        at += len(subsets)
    return filled


class Neighbours:
    """Changes of ``loaded`` (C,) at the prices of ``onloading``."""

    def __init__(self, tables: Tables, onloading: Onloading, loaded: Flags) -> None:
        self.tables, self.onloading, self.loaded = tables, onloading, loaded
        options = tables.options
        # For each query the best of all nodes, which node that is, and the best of the others.
        self._first = np.zeros(len(options.rate))
        self._second = np.zeros(len(options.rate))
        self._node = np.full(len(options.rate), -1)
        self._table: dict[int, Floats] = {}
        for node, own in enumerate(tables.candidates):
            if not loaded[own].any():
                continue
            queries = tables.queries[node]
            best = self.table(node)[:-1][loaded[own]].max(0)
            first, second = self._first[queries], self._second[queries]
            ahead = best > first
            self._second[queries] = np.where(ahead, first, np.maximum(second, best))
            self._first[queries] = np.where(ahead, best, first)
            self._node[queries] = np.where(ahead, node, self._node[queries])

    def table(self, node: int) -> Floats:
        if node not in self._table:
            self._table[node] = self.tables.table(node, self.onloading)
        return self._table[node]

    def of(self, node: int, most: int, above: float = 0.0) -> list[Change]:
        """The ``most`` best changes that gain more than ``above``, best first."""
        tables, own = self.tables, self.tables.candidates[node]
        if not len(own):
            return []
        queries, table = tables.queries[node], self.table(node)
        others = np.where(self._node[queries] == node, self._second[queries], self._first[queries])
        now = float(self._first[queries].sum())
        subsets = tables.subsets[node]
        if subsets is not None:
            worth = np.maximum(table[subsets].max(1), others).sum(1)
            order = np.argsort(-worth, kind='stable')[:most]
            return [
                Change(node, tuple(own[subsets[at][subsets[at] < len(own)]].tolist()), gain)
                for at in order
                if (gain := float(worth[at]) - now) > above
            ]
        return self._swaps(node, others, now, most, above)

    def _swaps(
        self, node: int, others: Floats, now: float, most: int, above: float
    ) -> list[Change]:
        """Of none, one or two loaded models for another one, and then what still fits."""
        options, own = self.tables.options, self.tables.candidates[node]
        table = self.table(node)
        inside: list[int] = np.flatnonzero(self.loaded[own]).tolist()
        sizes, memory = options.size_bytes[own], float(options.memory_bytes[node])
        ranked: list[tuple[float, tuple[int, ...], int]] = []
        for count in range(min(2, len(inside)) + 1):
            for gone in combinations(inside, count):
                kept = [each for each in inside if each not in gone]
                base = np.maximum(others, table[kept].max(0)) if kept else others
                room = memory - float(sizes[kept].sum())
                worth = np.maximum(table[:-1], base).sum(1)
                worth[(sizes > room) | self.loaded[own]] = -np.inf
                best = np.argsort(-worth)[:most]
                ranked += [(float(worth[at]), gone, int(at)) for at in best]
        ranked = [each for each in ranked if np.isfinite(each[0])]
        ranked.sort(key=lambda each: -each[0])
        found = []
        for _, gone, added in ranked[: 2 * most]:
            kept = [*(each for each in inside if each not in gone), added]
            worth = self._fill(table, others, sizes, memory, kept)
            if worth - now > above:
                found.append(Change(node, tuple(own[kept].tolist()), worth - now))
        return sorted(found, key=lambda each: -each.gain)[:most]

    @staticmethod
    def _fill(
        table: Floats, others: Floats, sizes: Floats, memory: float, kept: list[int]
    ) -> float:
        """Add to ``kept`` what gains most per byte while something fits; what they are worth."""
        base = np.maximum(others, table[kept].max(0))
        while True:
            room = memory - float(sizes[kept].sum())
            gain = np.maximum(table[:-1] - base, 0.0).sum(1) / sizes
            gain[sizes > room] = 0.0
            gain[kept] = 0.0
            at = int(np.argmax(gain))
            if gain[at] <= 0.0:
                return float(base.sum())
            kept.append(at)
            base = np.maximum(base, table[at])
