"""Rows of values: which there are, which cross, and which rows of what each operator reads.

A value with a split axis has as many rows as indices along it. One without (a number, a tensor of
unknown extents) counts as one row.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from offload_ros.graph.classify import SplitGraph
from offload_ros.graph.graph import Input, Parameter, Reference, TensorSpec, Value
from offload_ros.graph.intervals import NOTHING, Interval, Relation
from offload_ros.graph.local import Kind
from offload_ros.graph.measure import input_id, is_view
from offload_ros.graph.stopwatch import live_nodes


class RowSet:
    """A set of rows, as disjoint intervals that do not touch."""

    def __init__(self, *intervals: Interval) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for each in intervals:
            self.add(*each)

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __iter__(self) -> Iterator[Interval]:
        return map(Interval, self._starts, self._stops)

    def add(self, start: int, stop: int) -> None:
        """Also the rows [start, stop)."""
        if stop <= start:
            return
        first = bisect_left(self._stops, start)
        last = bisect_right(self._starts, stop)
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def common(self, start: int, stop: int) -> list[Interval]:
        """Its rows within [start, stop), ascending."""
        found = []
        for place in range(bisect_right(self._stops, start), len(self._starts)):
            if self._starts[place] >= stop:
                break
            found.append(Interval(max(start, self._starts[place]), min(stop, self._stops[place])))
        return found

    def lacking(self, start: int, stop: int) -> list[Interval]:
        """Rows of [start, stop) that it does not have, ascending."""
        found, place = [], start
        for each in self.common(start, stop):
            if each.start > place:
                found.append(Interval(place, each.start))
            place = each.stop
        if place < stop:
            found.append(Interval(place, stop))
        return found

    def covers(self, start: int, stop: int) -> bool:
        """Whether it has all of [start, stop)."""
        place = bisect_right(self._starts, start) - 1
        return stop <= start or (place >= 0 and self._stops[place] >= stop)


class Piece(NamedTuple):
    """Rows of a value that cross the link in one transfer."""

    value: Reference
    rows: Interval


class Operand(NamedTuple):
    """``rows`` of a value that an operator reads; ``cut``: of them only these indices of another
    axis (axis, indices)."""

    value: Reference
    rows: Interval
    cut: tuple[int, Interval] | None = None


class Compute(NamedTuple):
    """``rows`` of the outputs of a node; None: all, by the kernel and in the memory layout of the
    whole model. ``reads`` are in the order of the operator's arguments."""

    node: int
    rows: Interval | None
    reads: tuple[Operand, ...]


class Block(NamedTuple):
    """Nodes that run whole one after another, as the whole model runs them. ``reads``: values of
    other nodes; ``keeps``: what is needed afterwards."""

    nodes: frozenset[int]
    reads: tuple[Reference, ...]
    keeps: tuple[Value, ...]


class RowGraph:
    """A split graph in rows. What is asked often is looked up: a value is one object everywhere, so
    that tables find it at once."""

    def __init__(self, split: SplitGraph) -> None:
        self.split = split
        self.graph = graph = split.graph
        self.outputs = tuple(dict.fromkeys(graph.outputs.values()))  # each once
        self.live = frozenset(live_nodes(graph))  # nodes that an output needs
        read = set(graph.consumers) | set(self.outputs)
        values = [Value(node.id, n) for node in graph.nodes for n in range(len(node.outputs))]
        self._one: dict[Reference, Reference] = {}
        self._one.update((each, each) for each in map(Input, graph.inputs))
        self._one.update((each, each) for each in map(Parameter, graph.parameters))
        self._one.update((each, each) for each in values)
        self._values: list[list[Value]] = [[] for _ in graph.nodes]
        for value in values:
            if value in read:
                self._values[value.node].append(value)
        self._counts = {each: split.extent(each) or 1 for each in self._one}
        self._axes = {
            each: split.axes.get(each) if split.extent(each) else None for each in self._one
        }
        self._widths = [self._counts[Value(node.id)] for node in graph.nodes]
        self._local = [
            node.id in split.operators and split.operators[node.id].extent > 0
            for node in graph.nodes
        ]
        self._arguments: dict[int, list[tuple[Operand, Relation | None, bool]]] = {}
        self._row_bytes = {
            each: split.index_bytes(each) if graph.spec_of(each).is_static else 0
            for each in self._one
        }
        self._ids = {name: input_id(place) for place, name in enumerate(graph.inputs)}

    def values(self, node: int) -> Sequence[Value]:
        """The node's outputs that somebody reads."""
        return self._values[node]

    def id_of(self, value: Reference) -> int:
        """Under which a profile lists who makes it: the node's, or -1, -2, ... for inputs."""
        return value.node if isinstance(value, Value) else self._ids[value.name]

    def axis(self, value: Reference) -> int | None:
        """The split axis; None where there is but one row."""
        return self._axes[value]

    def count(self, value: Reference) -> int:
        """Rows of a value."""
        return self._counts[value]

    def is_local(self, node: int) -> bool:
        """Whether rows of its outputs can be computed from rows."""
        return self._local[node]

    def is_constant(self, node: int) -> bool:
        """Whether it needs no input of the model: each side that reads it computes it."""
        return self.split.kinds[node] is Kind.CONSTANT

    def is_view(self, node: int) -> bool:
        """Whether it costs nothing: its outputs are its inputs' memory."""
        return is_view(self.graph.nodes[node])

    def width(self, node: int) -> int:
        """Rows of the node, as a profile counts them: what a step of it may name."""
        return self._widths[node]

    def made(self, node: int, rows: Interval) -> list[tuple[Value, Interval]]:
        """What of its values is there when ``rows`` of it are computed."""
        if self._local[node]:
            return [(value, rows) for value in self._values[node]]
        return [(value, Interval(0, self._counts[value])) for value in self._values[node]]

    def whole(self, node: int) -> tuple[Operand, ...]:
        """What all of a node reads, parameters left out."""
        return tuple(
            Operand(self._one[each], Interval(0, self._counts[each]))
            for each in self.graph.nodes[node].references
            if not isinstance(each, Parameter)
        )

    def part(self, node: int, rows: Interval) -> tuple[Operand, ...]:
        """What rows of a local node read, for each tensor argument."""
        found = []
        arguments = self._arguments.get(node)
        if arguments is None:
            arguments = self._arguments[node] = self._arguments_of(node)
        for operand, relation, along in arguments:
            if relation is None:
                found.append(operand)
                continue
            need = relation.needs(rows)
            if along:
                found.append(Operand(operand.value, NOTHING if need.empty else need))
            else:
                found.append(Operand(*operand[:2], (relation.axis, need)))
        return tuple(found)

    def _arguments_of(self, node: int) -> list[tuple[Operand, Relation | None, bool]]:
        """Of each tensor argument all rows; how they follow; whether along its split axis."""
        operator = self.split.operators[node]
        return [
            (
                Operand(self._one[value], Interval(0, self._counts[value])),
                relation,
                relation is not None and relation.axis == self._axes[value],
            )
            for value, relation in zip(operator.call.tensors, operator.relations, strict=True)
        ]

    def spec(self, piece: Piece) -> TensorSpec:
        """Shape and dtype of the tensor that crosses."""
        spec = self.graph.spec_of(piece.value)
        axis = self._axes[piece.value]
        if axis is None:
            return replace(spec, strides=None)
        shape = list(spec.shape)
        shape[axis] = piece.rows.length
        return replace(spec, shape=tuple(shape), strides=None)

    def nbytes(self, piece: Piece) -> int:
        """Of the tensor that crosses; 0 where only the run tells."""
        return self._row_bytes[piece.value] * piece.rows.length
