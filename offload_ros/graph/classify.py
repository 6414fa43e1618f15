"""The split axis followed through a graph, and with it which operators are local and which not."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch

from offload_ros.graph.graph import Graph, Input, Node, Parameter, Reference, Value
from offload_ros.graph.intervals import NOTHING, WHOLE, AffineWindow, Interval, Need, affine_window
from offload_ros.graph.local import Call, Kind, LocalOperator, call_of, local_call

# How many operators behind a tensor decide along which of its axes it is best split.
_LOOK_AHEAD = 12


@dataclass(frozen=True)
class SplitGraph:
    """A graph with, for each value, the axis along which it is split.

    ``axes``: None for a value that only exists as a whole (unknown extents, no axis, constants).
    ``operators``: the local ones by node id. ``kinds``: of each node, by id.
    """

    graph: Graph
    axes: Mapping[Reference, int | None]
    operators: Mapping[int, LocalOperator]
    kinds: tuple[Kind, ...]

    def extent(self, reference: Reference) -> int | None:
        """Indices along the split axis; None for a value without one."""
        axis = self.axes.get(reference)
        return None if axis is None else self.graph.spec_of(reference).shape[axis]

    def index_bytes(self, reference: Reference) -> int:
        """Bytes of one index of the split axis; of the whole value where it has none.

        ``GraphError`` where the size is known only at run time.
        """
        size = self.graph.spec_of(reference).nbytes
        return size // max(1, self.extent(reference) or 1)

    def is_constant(self, reference: Reference) -> bool:
        """Whether everybody has it: parameters and what depends on them alone."""
        if isinstance(reference, Value):
            return self.kinds[reference.node] is Kind.CONSTANT
        return isinstance(reference, Parameter)

    def needs(self, node: int, interval: Interval | None) -> Iterator[tuple[Reference, Need]]:
        """What ``interval`` of a local operator (None: all of any operator) needs of each value.

        Constants are left out, values that stand twice come twice. The intervals are along the
        value's split axis; ``WHOLE`` where it has none or is needed along another one.
        """
        operator = self.operators.get(node)
        if operator is None or interval is None:
            for reference in self.graph.nodes[node].references:
                if not self.is_constant(reference):
                    yield reference, WHOLE
            return
        found = operator.input_intervals(interval)
        for reference, relation, need in zip(
            operator.call.tensors, operator.relations, found, strict=True
        ):
            if self.is_constant(reference):
                continue
            along = relation is not None and relation.axis == self.axes[reference]
            yield reference, need if along or need == NOTHING else WHOLE

    def window(self, node: int) -> AffineWindow | None:
        """What a local operator needs of the values that are split like it, for a profile.

        None for barriers, constants, and operators that need their values whole.
        """
        operator = self.operators.get(node)
        if operator is None:
            return None
        found = {
            affine_window(relation, operator.extent, shape[relation.axis])
            for reference, relation, shape in zip(
                operator.call.tensors, operator.relations, operator.call.shapes, strict=True
            )
            if relation is not None
            and not self.is_constant(reference)
            and relation.axis == self.axes[reference]
        }
        if len(found) < 2:
            return next(iter(found), None)
        padding = max(each.padding for each in found)
        stride = max(each.stride for each in found)
        if any(each.stride != stride for each in found):
            return None
        kernel = max(each.kernel - each.padding for each in found) + padding
        return AffineWindow(kernel, stride, padding)

    @cached_property
    def counts(self) -> Mapping[Kind, int]:
        """Nodes of each kind."""
        return Counter(self.kinds)


def classify(graph: Graph, input_axes: Mapping[str, int] | None = None) -> SplitGraph:
    """Follows the split axis from the inputs through the graph.

    ``input_axes``: by input name, negative from the end; without it that axis along which most of
    the next operators are local, the last of equals: W of images (N, C, H, W), D of volumes
    (N, C, W, H, D). The same holds for what a barrier makes. ``ValueError`` for an input or axis
    that the graph does not have.
    """
    return _Classifier(graph, input_axes or {}).split_graph()


class _Classifier:
    def __init__(self, graph: Graph, input_axes: Mapping[str, int]) -> None:
        self.graph = graph
        self.calls = [call_of(graph, node) for node in graph.nodes]
        self.found: dict[tuple[int, int], LocalOperator | None] = {}
        self.axes: dict[Reference, int | None] = {}
        self.kinds: list[Kind] = []
        self.operators: dict[int, LocalOperator] = {}
        for name in input_axes:
            if name not in graph.inputs:
                raise ValueError(
                    f'graph {graph.name} has no input {name!r}, only {", ".join(graph.inputs)}'
                )
        for name, spec in graph.inputs.items():
            axis = input_axes.get(name)
            if axis is None:
                self.axes[Input(name)] = self.best_axis(Input(name))
            elif not -len(spec.shape) <= axis < len(spec.shape):
                raise ValueError(f'input {name!r} has {len(spec.shape)} axes, none is {axis}')
            else:
                self.axes[Input(name)] = axis % len(spec.shape)

    def split_graph(self) -> SplitGraph:
        for node in self.graph.nodes:
            self.add(node)
        self.drop_partial_outputs()
        return SplitGraph(self.graph, self.axes, self.operators, tuple(self.kinds))

    def local(self, call: Call, axis: int) -> LocalOperator | None:
        key = call.node.id, axis
        if key not in self.found:
            self.found[key] = local_call(call, axis)
        return self.found[key]

    def add(self, node: Node) -> None:
        """Kind and axes of one node; those before it are known."""
        if self.is_constant(node):
            self.finish(node, Kind.CONSTANT, (None,) * len(node.outputs))
            return
        call = self.calls[node.id]
        operator = None if call is None else self.best_operator(call)
        if operator is not None:
            self.operators[node.id] = operator
            self.finish(node, operator.kind, operator.axes)
            return
        values = [Value(node.id, output) for output in range(len(node.outputs))]
        self.finish(node, Kind.BARRIER, tuple(self.best_axis(value) for value in values))

    def finish(self, node: Node, kind: Kind, axes: tuple[int | None, ...]) -> None:
        self.kinds.append(kind)
        for output, axis in enumerate(axes):
            self.axes[Value(node.id, output)] = axis

    def is_constant(self, node: Node) -> bool:
        """Parameters alone go in, and no random numbers."""
        call = self.calls[node.id]
        if call is None or torch.Tag.nondeterministic_seeded in call.func.tags:
            return False
        return all(
            isinstance(each, Parameter)
            or (isinstance(each, Value) and self.kinds[each.node] is Kind.CONSTANT)
            for each in node.references
        )

    def best_operator(self, call: Call) -> LocalOperator | None:
        """Along the axis that most bytes of the arguments are split along, of equals the one along
        which more of the next operators are local; None for a barrier."""
        found: list[tuple[int, int, LocalOperator]] = []
        for axis in range(len(call.shape)):
            operator = self.local(call, axis)
            if operator is None:
                continue
            followed = sum(
                spec.nbytes
                for reference, spec, relation in zip(
                    call.tensors, call.specs, operator.relations, strict=True
                )
                if relation is not None and self.axes.get(reference) == relation.axis
            )
            if followed:
                found.append((followed, axis, operator))
        if len(found) < 2:
            return found[0][2] if found else None
        value = Value(call.node.id)
        return max(found, key=lambda each: (each[0], self.reach(value, each[1]), each[1]))[2]

    def best_axis(self, value: Reference) -> int | None:
        """For a value that nothing before it splits: where most of the next operators are local."""
        spec = self.graph.spec_of(value)
        if not spec.is_static or not spec.shape or 0 in spec.shape:
            return None
        count = len(spec.shape)
        # Not the batch, not the channels of a feature map; an image (H, W, C) has neither in front.
        first = (1 if isinstance(value, Input) else 2) if count > 3 else count - 2
        first = 0 if isinstance(value, Input) and count < 4 else max(0, first)
        spread = [axis for axis in range(first, count) if spec.shape[axis] != 1]
        preferred = spread or [count - 1]
        return max(preferred, key=lambda axis: (self.reach(value, axis), axis))

    def reach(self, value: Reference, axis: int) -> int:
        """How many of the next operators are local if ``value`` is split along ``axis``."""
        waiting, seen = deque([(value, axis)]), set[int]()
        while waiting and len(seen) < _LOOK_AHEAD:
            reference, split = waiting.popleft()
            for consumer in self.graph.consumers.get(reference, ()):
                operator = None if consumer in seen else self.follow(consumer, reference, split)
                if operator is None:
                    continue
                seen.add(consumer)
                waiting.extend(
                    (Value(consumer, output), each)
                    for output, each in enumerate(operator.axes)
                    if each is not None
                )
        return len(seen)

    def follow(self, consumer: int, reference: Reference, axis: int) -> LocalOperator | None:
        """The consumer along the axis to which ``axis`` of ``reference`` leads."""
        call = self.calls[consumer]
        if call is None:
            return None
        for output_axis in reversed(range(len(call.shape))):
            operator = self.local(call, output_axis)
            if operator is not None and any(
                each == reference and relation is not None and relation.axis == axis
                for each, relation in zip(call.tensors, operator.relations, strict=True)
            ):
                return operator
        return None

    def drop_partial_outputs(self) -> None:
        """A node of which an output without split axis is read is a barrier after all."""
        read = set(self.graph.consumers) | set(self.graph.outputs.values())
        for id, operator in list(self.operators.items()):
            if any(
                axis is None and Value(id, output) in read
                for output, axis in enumerate(operator.axes)
            ):
                del self.operators[id]
                self.kinds[id] = Kind.BARRIER
