"""A partition carried out in one process: every part computes from what it has and was sent."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from offload_ros.graph.classify import SplitGraph
from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import Input, Node, Parameter, Reference, Value
from offload_ros.graph.intervals import WHOLE, Interval, Need
from offload_ros.graph.partition import Flow, Partition, Transfer, needed_intervals
from offload_ros.graph.slices import Operand, Slice, cut_out, slice_execute, whole_of


class PartValues:
    """The values one part has: whole ones, and slices along their split axes."""

    def __init__(self, split: SplitGraph, device: torch.device) -> None:
        self.split = split
        self.device = device
        self.whole: dict[Reference, Tensor] = {}
        self.pieces: dict[Reference, list[Slice]] = {}

    def add(self, reference: Reference, tensor: Tensor, start: int | None) -> None:
        """``start`` is the tensor's first index along the split axis; None for a whole value."""
        if start is None:
            self.whole[reference] = tensor
        else:
            self.pieces.setdefault(reference, []).append(Slice(tensor, start))

    def get(self, reference: Reference, need: Need) -> Operand:
        """At least what is needed: a whole value or one slice, joined if it came in several.

        ``LookupError`` where the part lacks some of it.
        """
        if reference in self.whole:
            return self.whole[reference]
        axis, extent = self.split.axes.get(reference), self.split.extent(reference)
        if axis is None or extent is None:
            raise LookupError(f'{reference} is not here')
        wanted = Interval(0, extent) if need is WHOLE else need
        if wanted.empty:  # the operator reads only padding, of the right shape
            return self._nothing(reference, axis)
        joined = self._join(reference, axis, wanted)
        return joined.tensor if need is WHOLE else joined

    def _nothing(self, reference: Reference, axis: int) -> Slice:
        spec = self.split.graph.spec_of(reference)
        shape = [0 if each == axis else extent or 0 for each, extent in enumerate(spec.shape)]
        return Slice(torch.empty(shape, dtype=spec.dtype, device=self.device), 0)

    def _join(self, reference: Reference, axis: int, wanted: Interval) -> Slice:
        parts: list[Tensor] = []
        place = wanted.start
        for piece in sorted(self.pieces.get(reference, ()), key=lambda each: each.start):
            held = Interval(piece.start, piece.start + piece.tensor.shape[axis])
            used = held.intersect(Interval(place, wanted.stop))
            if held.start <= place and not used.empty:
                parts.append(cut_out(piece, axis, used))
                place = used.stop
        if place < wanted.stop:
            raise LookupError(f'{reference} is here only up to index {place} of {wanted}')
        return Slice(parts[0] if len(parts) == 1 else torch.cat(parts, axis), wanted.start)


class Constants:
    """What every part has: parameters, and what follows from them alone, computed once."""

    def __init__(
        self, split: SplitGraph, executor: Executor, parameters: Mapping[str, Tensor]
    ) -> None:
        self.split = split
        self.executor = executor
        self.values: dict[Reference, Tensor] = {
            Parameter(name): tensor.to(executor.device) for name, tensor in parameters.items()
        }

    def get(self, reference: Reference) -> Tensor | None:
        """The value; None for one that depends on inputs."""
        found = self.values.get(reference)
        if found is None and self.split.is_constant(reference):
            before = range(reference.node + 1) if isinstance(reference, Value) else ()
            self.values.update(self.executor.run({}, before, (reference,)))
            found = self.values[reference]
        return found


class PartitionRun:
    """One inference; ``parts`` are stepped through node by node."""

    def __init__(
        self,
        split: SplitGraph,
        executor: Executor,
        constants: Constants,
        partition: Partition,
        flow: Flow,
    ) -> None:
        self.split = split
        self.executor = executor
        self.constants = constants
        self.partition = partition
        self.flow = flow
        self.parts = [PartValues(split, executor.device) for _ in range(partition.parts)]
        self.sends: dict[int, list[Transfer]] = {}
        for transfer in flow.transfers:
            value = transfer.value
            node = value.node if isinstance(value, Value) else -1
            self.sends.setdefault(node, []).append(transfer)

    def run(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Inputs by name, each to the part that has it; outputs by name."""
        for name in self.split.graph.inputs:
            self.parts[self.partition.inputs.get(name, 0)].add(Input(name), inputs[name], None)
        self.exchange(-1)
        for node in self.split.graph.nodes:
            for part, need in enumerate(self.flow.computed.get(node.id, ())):
                if need is WHOLE:
                    self.compute_whole(node, part)
                elif not need.empty:
                    self.compute_slice(node, part, need)
            self.exchange(node.id)
        return {
            name: self.whole(self.partition.outputs, reference)
            for name, reference in self.split.graph.outputs.items()
        }

    def compute_whole(self, node: Node, part: int) -> None:
        """A barrier: in the memory layout and with the kernels of the whole run."""
        values = {each: self.whole(part, each) for each in node.references}
        outputs = [Value(node.id, output) for output in range(len(node.outputs))]
        results = self.executor.run(values, (node.id,), outputs)
        for value, result in results.items():
            self.parts[part].add(value, result, None)

    def compute_slice(self, node: Node, part: int, interval: Interval) -> None:
        """An interval of a local operator, from what the part has."""
        operator = self.split.operators[node.id]
        given: list[Operand] = []
        for reference, relation in zip(operator.call.tensors, operator.relations, strict=True):
            along = relation is not None and relation.axis == self.split.axes.get(reference)
            if along and not self.split.is_constant(reference):
                assert relation is not None
                given.append(self.parts[part].get(reference, relation.needs(interval)))
            else:
                given.append(self.whole(part, reference))
        results = slice_execute(operator, interval, given)
        for output, (axis, result) in enumerate(zip(operator.axes, results, strict=True)):
            if axis is not None:
                self.parts[part].add(Value(node.id, output), result, interval.start)

    def exchange(self, node: int) -> None:
        """Sends what others need of the node's outputs (-1: of the inputs)."""
        for transfer in self.sends.get(node, ()):
            given = self.parts[transfer.source].get(transfer.value, transfer.interval)
            receiver = self.parts[transfer.destination]
            axis = self.split.axes.get(transfer.value)
            if transfer.interval is WHOLE or axis is None:
                receiver.add(transfer.value, whole_of(given).clone(), None)
            else:
                piece = cut_out(given, axis, transfer.interval).clone()
                receiver.add(transfer.value, piece, transfer.interval.start)

    def whole(self, part: int, reference: Reference) -> Tensor:
        """All of a value; of constants, what everybody has."""
        constant = self.constants.get(reference)
        if constant is not None:
            return constant
        return whole_of(self.parts[part].get(reference, WHOLE))


def run_partition(
    split: SplitGraph,
    parameters: Mapping[str, Tensor],
    inputs: Mapping[str, Tensor],
    partition: Partition,
) -> dict[str, Tensor]:
    """All parts in this process, in turn; outputs by name, equal to those of the whole graph.

    A part uses only what it computed and what ``needed_intervals`` says it was sent: values are
    copied when they cross. Tolerance as for ``slice_execute``; barriers run as in the whole graph.
    ``ValueError`` for a partition or inputs that do not fit the graph.
    """
    executor = Executor(split.graph, parameters)
    constants = Constants(split, executor, parameters)
    flow = needed_intervals(split, partition)
    with torch.no_grad():
        return PartitionRun(split, executor, constants, partition, flow).run(inputs)
