"""The requests that wait on a server: bounded, by priority, fair between robots."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass

from offload_ros.wire.exchange import Reply, Request


@dataclass(frozen=True, eq=False)
class Entry:
    """A request, the way to answer it, and when it came (the server's steady clock).

    Equal only to itself: two requests of one number would else be told apart by their tensors.
    """

    request: Request
    answer: Callable[[Reply], None]
    received_s: float
    group: Hashable = None  # what may be computed together

    @property
    def deadline_s(self) -> float:
        """When the answer must be there."""
        return self.received_s + self.request.budget_s


class FairQueue:
    """Not safe between threads: the engine holds its lock around every call.

    Served next is the highest priority; among equals the robot that was served longest ago; of one
    robot the oldest. When ``limit`` entries wait, a robot with more of them than the newcomer's
    loses its newest: whoever floods pushes out itself, not others.
    """

    def __init__(self, limit: int) -> None:
        if limit < 1:
            raise ValueError('limit must be at least 1')
        self.limit = limit
        self._waiting: dict[str, list[Entry]] = {}  # robot session -> oldest first
        self._served: dict[str, int] = {}  # robot session -> turn in which it was served last
        self._last = 0  # the turn of whoever was served last

    def __len__(self) -> int:
        return sum(len(entries) for entries in self._waiting.values())

    def push(self, entry: Entry) -> Entry | None:
        """Add ``entry``; the one that has no place now (``entry`` itself, perhaps), or None."""
        session = entry.request.session
        refused = None
        if len(self) >= self.limit:
            flooder = max(self._waiting, key=lambda other: len(self._waiting[other]))
            if len(self._waiting[flooder]) <= len(self._waiting.get(session, ())) + 1:
                return entry
            refused = self._waiting[flooder].pop()
        self._waiting.setdefault(session, []).append(entry)
        return refused

    def pop(self) -> Entry | None:
        """Take the next one out, or None."""
        first = self.in_turn(1)
        self.take(first)
        return first[0] if first else None

    def in_turn(self, count: int, group: Hashable = None) -> list[Entry]:
        """Those that would be served next, in this order; with ``group``: if only it were there."""
        waiting = {
            session: [entry for entry in entries if group is None or entry.group == group]
            for session, entries in self._waiting.items()
        }
        served = dict(self._served)
        found: list[Entry] = []
        while len(found) < count:
            heads = [
                (max(entries, key=lambda entry: entry.request.priority), session)
                for session, entries in waiting.items()
                if entries
            ]
            if not heads:
                break
            entry, session = min(
                heads, key=lambda head: (-head[0].request.priority, served.get(head[1], 0))
            )
            waiting[session].remove(entry)
            served[session] = self._last + 1 + len(found)
            found.append(entry)
        return found

    def take(self, entries: Iterable[Entry]) -> None:
        """Take these out: they are served, in this order."""
        for entry in entries:
            session = entry.request.session
            self._remove(session, entry)
            self._last += 1
            self._served[session] = self._last

    def others(self, group: Hashable) -> list[Entry]:
        """All that are not of ``group``."""
        return [
            entry for entries in self._waiting.values() for entry in entries if entry.group != group
        ]

    def ahead_of(self, session: str, priority: int) -> list[Entry]:
        """Those that would be served before a new entry of ``session``."""
        own = len(self._waiting.get(session, ()))
        ahead = []
        for entries in self._waiting.values():
            rivals = [entry for entry in entries if entry.request.priority >= priority]
            ahead += rivals[: own + 1]
        return ahead

    def cancel(self, session: str, seq: int) -> bool:
        """Take out one request; False when it does not wait."""
        for entry in self._waiting.get(session, ()):
            if entry.request.seq == seq:
                self._remove(session, entry)
                return True
        return False

    def drop(self, session: str) -> None:
        """Forget a robot that is gone, and all that it asked for."""
        self._waiting.pop(session, None)
        self._served.pop(session, None)

    def clear(self) -> list[Entry]:
        """Take all out."""
        entries = [entry for waiting in self._waiting.values() for entry in waiting]
        self._waiting.clear()
        return entries

    def _remove(self, session: str, entry: Entry) -> None:
        self._waiting[session].remove(entry)
        if not self._waiting[session]:
            del self._waiting[session]
