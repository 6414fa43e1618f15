"""Pieces that come late or never: what the robot then has to compute itself, from what it holds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
import math

from offload_ros.graph.graph import Input, Parameter, Reference, Value
from offload_ros.graph.intervals import Interval
from offload_ros.intra_dp.pieces import Compute, Operand, RowGraph, RowSet


@dataclass(frozen=True)
class Patience:
    """How long the robot waits for pieces.

    ``late_s``: seconds after the run began when a piece counts as late; ``late_at``: of single
    pieces, by place, sooner or later than that. ``node_s``: seconds that the robot takes for each
    operator, by id (the profile's ``robot_s``): with it the robot stops waiting when what is
    missing would only just be computed before the deadline.
    """

    late_s: float = math.inf
    late_at: Mapping[int, float] = field(default_factory=dict)
    node_s: Mapping[int, float] = field(default_factory=dict)

    def of(self, places: Iterable[int]) -> float:
        """Seconds after the run began when the first of these pieces is late."""
        return min((self.late_at.get(place, self.late_s) for place in places), default=math.inf)

    @property
    def whole_s(self) -> float:
        """Of the whole model on the robot; 0 where it is not known."""
        return math.fsum(self.node_s.values())

    def duration_s(self, rows: RowGraph, computes: Iterable[Compute]) -> float:
        """About how long computing takes on the robot."""
        total_s = 0.0
        for node, part, _ in computes:
            share = 1.0 if part is None else part.length / rows.width(node)
            total_s += share * self.node_s.get(node, 0.0)
        return total_s


PATIENT = Patience()  # waits for all pieces until the deadline


def completion(rows: RowGraph, has: Callable[[Reference], RowSet]) -> list[Compute]:
    """What gives the outputs of the model, in order, from the rows that are here (``has``) and the
    inputs."""
    return _Backward(rows, has).computes()


def last_reads(rows: RowGraph, computes: Sequence[Compute]) -> dict[int, list[Reference]]:
    """After which computation (its place) which values are not needed any more."""
    last: dict[Reference, int] = {}
    for place, compute in enumerate(computes):
        for read in compute.reads:
            last[read.value] = place
    found: dict[int, list[Reference]] = {}
    for value, place in last.items():
        if value not in rows.outputs:
            found.setdefault(place, []).append(value)
    return found


class _Backward:
    def __init__(self, rows: RowGraph, has: Callable[[Reference], RowSet]) -> None:
        self.rows, self.has = rows, has
        self.lacking: dict[int, RowSet] = {}  # by node

    def computes(self) -> list[Compute]:
        for value in self.rows.outputs:
            self.need(Operand(value, Interval(0, self.rows.count(value))))
        found: list[Compute] = []
        for node in reversed(range(len(self.rows.graph.nodes))):
            for rows in reversed(list(self.lacking.pop(node, RowSet()))):
                whole = rows.length == self.rows.width(node) or not self.rows.is_local(node)
                reads = self.rows.whole(node) if whole else self.rows.part(node, rows)
                for each in reads:
                    self.need(each)
                found.append(Compute(node, None if whole else rows, reads))
        return found[::-1]

    def need(self, operand: Operand) -> None:
        value, rows, _ = operand
        if isinstance(value, (Input, Parameter)) or rows.empty:
            return
        assert isinstance(value, Value)
        for each in self.has(value).lacking(*rows):
            if not self.rows.is_local(value.node):
                each = Interval(0, self.rows.width(value.node))
            self.lacking.setdefault(value.node, RowSet()).add(*each)
