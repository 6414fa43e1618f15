"""Which of the requests that wait run next, and which others go along with the one whose turn it
is.

Whose turn it is, is the queue's to say (``fair_queue``). Others for the same model with inputs of
the same shapes go along, in the order in which they would be served themselves, unless something of
higher priority would wait for them, or a deadline would be missed that is kept without them.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
import math

from offload_ros.server.durations import Durations
from offload_ros.server.fair_queue import Entry, FairQueue
from offload_ros.wire.exchange import Request

CANDIDATES = 4  # times the largest batch: so many of the queue are considered
MAX_HEARD = 256  # more robots and groups are looked through for old ones
ACTIVE_S = 1.0  # a robot that asked so lately may be about to ask again
GATHER_SHARE = 0.5  # of its budget that a request may spend waiting for others


@dataclass(frozen=True)
class Batching:
    """``max_batch``: requests that are computed together at most; 1: each alone. ``gather_s``: how
    long one may wait for others. ``ValueError`` for what is none."""

    max_batch: int = 1
    gather_s: float = 0.002

    def __post_init__(self) -> None:
        if self.max_batch < 1 or not 0.0 <= self.gather_s < math.inf:
            raise ValueError('max_batch is at least 1, gather_s at least 0')


def group_of(request: Request) -> Hashable:
    """Equal for requests that can be stacked: one model, inputs of the same dtypes and shapes."""
    inputs = tuple(
        (name, tensor.dtype, tuple(tensor.shape)) for name, tensor in sorted(request.inputs.items())
    )
    return request.model, request.model_hash, inputs


class Turns:
    """Takes batches out of ``queue``. Not safe between threads: the engine holds its lock.

    ``limit``: how many of a group can be computed together at all.
    """

    def __init__(
        self, queue: FairQueue, durations: Durations, limit: Callable[[Hashable], int]
    ) -> None:
        self.batching = Batching()
        self._queue, self._durations, self._limit = queue, durations, limit
        self._heard_s: dict[tuple[Hashable, str], float] = {}  # group and robot session -> when

    def largest(self, group: Hashable) -> int:
        """How many of ``group`` may go together."""
        return min(self.batching.max_batch, self._limit(group))

    def heard(self, entry: Entry) -> None:
        """A request was queued."""
        if self.batching.max_batch > 1:
            self._heard_s[entry.group, entry.request.session] = entry.received_s
            if len(self._heard_s) > MAX_HEARD:
                self._forget_old(entry.received_s)

    def forget(self, session: str) -> None:
        """A robot is gone."""
        self._heard_s = {key: at_s for key, at_s in self._heard_s.items() if key[1] != session}

    def next(self, now_s: float, may_wait: bool) -> tuple[list[Entry], float]:
        """(what to run now, taken out; or nothing, and when to ask again if nothing comes before).

        ``may_wait``: nothing else could be done meanwhile. Steady clock.
        """
        turn = self._queue.in_turn(1)
        if not turn:
            return [], math.inf
        first = turn[0]
        largest = self.largest(first.group)
        if largest == 1:
            self._queue.take(turn)
            return turn, now_s
        others = self._queue.others(first.group)
        batch = self._together(first, others, largest, now_s)
        if may_wait and not others and len(batch) < largest:
            until_s = self._gathers_until_s(batch, now_s)
            if until_s > now_s:
                return [], until_s
        self._queue.take(batch)
        return batch, now_s

    def _together(
        self, first: Entry, others: list[Entry], largest: int, now_s: float
    ) -> list[Entry]:
        """``first`` and those that go along."""
        model_hash = first.request.model_hash

        def typical_s(size: int) -> float:
            return self._durations.typical_s(model_hash, size)

        alone_s = typical_s(1)
        # Who would be late anyway holds nobody back.
        spare_s = [first.deadline_s - now_s]
        spare_s += [
            each.deadline_s - now_s - self._durations.typical_s(each.request.model_hash)
            for each in others
        ]
        least_s = min((each for each in spare_s if each >= alone_s), default=math.inf)
        if first.deadline_s - now_s < alone_s:
            return [first]
        floor = max((each.request.priority for each in others), default=0)
        batch = [first]
        for entry in self._queue.in_turn(CANDIDATES * largest, first.group):
            if entry is first or entry.request.priority < floor:
                continue
            longer_s = typical_s(len(batch) + 1)
            if len(batch) == largest or longer_s > least_s:
                break
            left_s = entry.deadline_s - now_s
            if left_s > 0.0 and left_s >= longer_s:
                batch.append(entry)
                least_s = min(least_s, left_s)
        return batch

    def _gathers_until_s(self, batch: list[Entry], now_s: float) -> float:
        """Until when more may come; in the past when nobody is missing who asked lately."""
        self._forget_old(now_s)
        group = batch[0].group
        here = {entry.request.session for entry in batch}
        if all(session in here for heard, session in self._heard_s if heard == group):
            return -math.inf
        longer_s = self._durations.typical_s(batch[0].request.model_hash, len(batch) + 1)
        return min(
            min(
                entry.received_s + self.batching.gather_s,
                entry.received_s + GATHER_SHARE * entry.request.budget_s,
                entry.deadline_s - longer_s,
            )
            for entry in batch
        )

    def _forget_old(self, now_s: float) -> None:
        self._heard_s = {
            key: at_s for key, at_s in self._heard_s.items() if now_s - at_s < ACTIVE_S
        }
