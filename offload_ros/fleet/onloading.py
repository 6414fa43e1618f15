"""Onloading: which models to load, by the greedy method for submodular functions under knapsacks.

For prices of computing and links, what a set of loaded candidates is worth is
``sum over queries of max(0, best priced option of a loaded candidate)``: a facility-location
function, monotone and submodular in the set. Each node's memory is a knapsack.
"""

from __future__ import annotations

import heapq

import numpy as np

from offload_ros.fleet.options import Flags, Floats, Options

NOTHING = 1e-12


class Onloading:
    """The function for one vector of prices.

    values (P,): of pairs of candidate and query, priced (``Options.pair_values``).
    """

    def __init__(self, options: Options, values: Floats) -> None:
        self.options, self.values = options, np.maximum(values, 0.0)
        pairs = options.candidate_pairs
        self._slices = list(zip(pairs[:-1].tolist(), pairs[1:].tolist(), strict=True))
        self._nodes, self._sizes = options.node.tolist(), options.size_bytes.tolist()

    def covered(self, loaded: Flags) -> Floats:
        """(Q,) the best of each query among loaded candidates."""
        best = np.zeros(len(self.options.rate))
        of_loaded = loaded[self.options.pair_candidate]
        np.maximum.at(best, self.options.pair_query[of_loaded], self.values[of_loaded])
        return best

    def gains(self, best: Floats) -> Floats:
        """(C,) what each candidate would add where queries have ``best`` already."""
        if not len(self.values):
            return np.zeros(len(self._sizes))
        more = np.maximum(self.values - best[self.options.pair_query], 0.0)
        found: Floats = np.add.reduceat(more, self.options.candidate_pairs[:-1])
        return found

    def _gain(self, candidate: int, best: Floats) -> float:
        begin, end = self._slices[candidate]
        more = self.values[begin:end] - best[self.options.pair_query[begin:end]]
        return float(np.add.reduce(np.maximum(more, 0.0)))

    def greedy(self, per_byte: bool = True, start: Flags | None = None) -> Flags:
        """(C,) adds to ``start`` what gains most (per byte) until nothing fits or gains.

        Lazy: a gain only falls as the set grows, so one that was computed for an earlier set is a
        bound, and the first of the heap whose gain is up to date is the greatest.
        """
        options = self.options
        loaded = np.zeros(len(self._sizes), bool) if start is None else start.copy()
        room = options.memory_bytes.copy()
        np.subtract.at(room, options.node[loaded], options.size_bytes[loaded])
        best = self.covered(loaded)
        weights = options.size_bytes if per_byte else np.ones(len(self._sizes))
        first = self.gains(best) / weights
        useful = np.flatnonzero((first > 0.0) & ~loaded)
        heap = [(-float(first[at]), int(at), 0) for at in useful]
        heapq.heapify(heap)
        added = 0  # any addition makes all gains stale
        while heap:
            _, at, when = heap[0]
            node = self._nodes[at]
            if self._sizes[at] > room[node]:
                heapq.heappop(heap)
                continue
            if when != added:
                gain = self._gain(at, best)
                if gain <= NOTHING:
                    heapq.heappop(heap)
                else:
                    heapq.heapreplace(heap, (-gain / float(weights[at]), at, added))
                continue
            heapq.heappop(heap)
            loaded[at] = True
            room[node] -= self._sizes[at]
            begin, end = self._slices[at]
            query = options.pair_query[begin:end]
            best[query] = np.maximum(best[query], self.values[begin:end])
            added += 1
        return loaded

    def worth(self, loaded: Flags) -> float:
        """Of a set, priced."""
        return float(self.covered(loaded).sum())

    def onload(self) -> Flags:
        """The better of both greedy orders; on each node the best single model where that alone is
        worth more than what the greedy chose there. Without this the greedy can be arbitrarily
        poor; with it it is within a constant of the optimum of one knapsack."""
        found = max((self.greedy(True), self.greedy(False)), key=self.worth)
        return self._singles(found)

    def _singles(self, loaded: Flags) -> Flags:
        worth = self.worth(loaded)
        for candidates in self.options.node_candidates():
            own = candidates[loaded[candidates]]
            if len(own) == 0 or len(candidates) == len(own):
                continue
            without = loaded.copy()
            without[own] = False
            best = self.covered(without)
            gains = [self._gain(int(each), best) for each in candidates]
            single = int(candidates[int(np.argmax(gains))])
            if max(gains) > worth - float(best.sum()) + NOTHING:
                without[single] = True
                # What is left of the memory is filled again.
                loaded = self.greedy(True, without)
                worth = self.worth(loaded)
        return loaded
