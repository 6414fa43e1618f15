"""Messages of several topics put together by their stamps."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any


class Synchronizer:
    """Finds one message per topic whose stamps lie within ``slop_s`` of each other; the newest
    such set wins.

    With one topic every message is a set. At most ``depth`` messages per topic are kept.
    """

    def __init__(self, names: Sequence[str], slop_s: float, depth: int = 10) -> None:
        self._slop_s = slop_s
        self._queues: dict[str, deque[tuple[float, Any]]] = {
            name: deque(maxlen=depth) for name in names
        }

    def add(self, name: str, stamp_s: float, message: Any) -> Mapping[str, Any] | None:
        """Take up one message; the complete set by topic name if it completes one, else None."""
        if len(self._queues) == 1:
            return {name: message}
        newest = self._queues[name][-1][0] if self._queues[name] else stamp_s
        if stamp_s < newest - 1.0:
            # Time went back (a bag or a simulation began again): what was kept belongs to another
            # run.
            for queue in self._queues.values():
                queue.clear()
        self._queues[name].append((stamp_s, message))
        chosen = self._set_around(name, stamp_s)
        if chosen is None:
            return None
        for other, queue in self._queues.items():
            # Used and older messages are gone: no message appears in two sets. Stamps need not
            # come in order.
            kept = [entry for entry in queue if entry[0] > chosen[other][0]]
            queue.clear()
            queue.extend(kept)
        return {other: entry[1] for other, entry in chosen.items()}

    def _set_around(self, name: str, stamp_s: float) -> dict[str, tuple[float, Any]] | None:
        """The closest set with the message just added to ``name``: (stamp, message) each."""
        starts = {
            start_s
            for queue in self._queues.values()
            for start_s, _ in queue
            if 0.0 <= stamp_s - start_s <= self._slop_s
        }
        sets = []
        for start_s in starts:
            chosen = {name: self._queues[name][-1]}
            for other, queue in self._queues.items():
                near = [entry for entry in queue if 0.0 <= entry[0] - start_s <= self._slop_s]
                if other != name and near:
                    chosen[other] = min(near, key=lambda entry: abs(entry[0] - stamp_s))
            if len(chosen) == len(self._queues):
                stamps = [entry[0] for entry in chosen.values()]
                sets.append((max(stamps) - min(stamps), chosen))
        return min(sets, key=lambda found: found[0])[1] if sets else None
