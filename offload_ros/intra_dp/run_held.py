"""The tensors that one side has in one inference, and computing more from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from offload_ros.graph.execute import Executor
from offload_ros.graph.graph import Parameter, Reference
from offload_ros.graph.intervals import Interval
from offload_ros.graph.layout import laid_out
from offload_ros.intra_dp.pieces import Block, Compute, Operand, RowGraph, RowSet


class _Buffer(NamedTuple):
    place: Interval
    tensor: Tensor
    filled: RowSet


class Held:
    """Not safe between threads. ``buffers``: values whose rows are not read as they are made or
    come, with the rows that come of them: these lie together, so that reading needs no copy."""

    def __init__(
        self,
        rows: RowGraph,
        executor: Executor,
        buffers: Mapping[Reference, Interval] | None = None,
    ) -> None:
        self._rows, self._executor = rows, executor
        self._places = buffers or {}
        self._buffers: dict[Reference, _Buffer] = {}
        self._parts: dict[Reference, list[tuple[Interval, Tensor]]] = {}
        self._native: set[Reference] = set()  # whole, as the model has them in memory

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self._executor.device

    def has(self, value: Reference) -> RowSet:
        """Which rows are here."""
        return RowSet(*(rows for rows, _ in self._there(value)))

    def put(self, value: Reference, rows: Interval, tensor: Tensor, native: bool = False) -> None:
        """``tensor`` holds ``rows``; ``native``: all of them, as the whole model makes them."""
        if value in self._native:  # all of it is here, with the bits of the whole model
            return
        tensor = tensor.to(self._executor.device)
        if native:
            self.drop(value)
            self._native.add(value)
        elif value in self._places and self._places[value].covers(rows):
            self._fill(value, rows, tensor)
            return
        self._parts.setdefault(value, []).append((rows, tensor))

    def get(self, value: Reference, rows: Interval) -> Tensor:
        """Exactly these rows; ``LookupError`` where some are not here."""
        axis = self._rows.axis(value)
        start, stop = rows
        if start < stop:
            for held, tensor in self._parts.get(value, ()):
                if held[0] <= start and stop <= held[1]:
                    if axis is None or held == rows:
                        return tensor
                    return tensor.narrow(axis, start - held[0], stop - start)
            buffer = self._buffers.get(value)
            if buffer is not None and axis is not None and buffer.filled.covers(start, stop):
                return buffer.tensor.narrow(axis, start - buffer.place.start, stop - start)
        if axis is None:
            raise LookupError(f'{value} is not here')
        return self._joined(value, axis, rows)

    def whole(self, value: Reference) -> Tensor:
        """All rows, in the memory layout of the whole model; a parameter's in memory of its own."""
        if isinstance(value, Parameter):
            return self._executor.parameter(value).clone()
        tensor = self.get(value, Interval(0, self._rows.count(value)))
        if value in self._native:
            return tensor
        spec = self._rows.graph.spec_of(value)
        return laid_out(tensor, spec.order, spec.strides)

    def drop(self, value: Reference) -> None:
        """It is not needed any more."""
        self._parts.pop(value, None)
        self._buffers.pop(value, None)
        self._native.discard(value)

    def compute(self, item: Compute | Block) -> None:
        """Add what ``item`` computes; gradients are off."""
        if isinstance(item, Block):
            given = {each: self.whole(each) for each in item.reads}
            for value, tensor in self._executor.run(given, item.nodes, item.keeps).items():
                self.put(value, Interval(0, self._rows.count(value)), tensor, native=True)
            return
        if item.rows is None:
            values = {each.value: self.whole(each.value) for each in item.reads}
            results: Sequence[Tensor] = self._executor.run_node(item.node, values)
            for value in self._rows.values(item.node):
                every = Interval(0, self._rows.count(value))
                self.put(value, every, results[value.output], native=True)
            return
        operator = self._rows.split.operators[item.node]
        made = operator.run(item.rows, [self._operand(each) for each in item.reads])
        results = (made,) if isinstance(made, Tensor) else tuple(made)
        for value in self._rows.values(item.node):
            self.put(value, item.rows, results[value.output])

    def _operand(self, operand: Operand) -> Tensor:
        value, rows, cut = operand
        if isinstance(value, Parameter):
            tensor = self._executor.parameter(value)
        else:
            tensor = self.get(value, rows)
        if cut is not None:
            axis, indices = cut
            tensor = tensor.narrow(axis, indices.start, indices.length)
        return tensor

    def _there(self, value: Reference) -> Iterator[tuple[Interval, Tensor]]:
        """Of a buffer only what was put into it."""
        yield from self._parts.get(value, ())
        buffer, axis = self._buffers.get(value), self._rows.axis(value)
        if buffer is not None and axis is not None:
            for each in buffer.filled:
                start = each.start - buffer.place.start
                yield each, buffer.tensor.narrow(axis, start, each.length)

    def _fill(self, value: Reference, rows: Interval, tensor: Tensor) -> None:
        axis = self._rows.axis(value)
        assert axis is not None
        buffer = self._buffers.get(value)
        if buffer is None:
            place = self._places[value]
            buffer = _Buffer(place, self._empty(value, axis, place.length), RowSet())
            self._buffers[value] = buffer
        start, stop = rows
        buffer.tensor.narrow(axis, start - buffer.place.start, stop - start).copy_(tensor)
        buffer.filled.add(start, stop)

    def _joined(self, value: Reference, axis: int, rows: Interval) -> Tensor:
        if rows.empty:  # only padding is read, of the right shape
            return self._empty(value, axis, 0)
        parts, place = [], rows.start
        for held, tensor in sorted(self._there(value), key=lambda each: each[0]):
            used = held.intersect(Interval(place, rows.stop))
            if held.start <= place and not used.empty:
                parts.append(tensor.narrow(axis, used.start - held.start, used.length))
                place = used.stop
        if place < rows.stop:
            raise LookupError(f'{value} is here only up to row {place} of {tuple(rows)}')
        return torch.cat(parts, axis)

    def _empty(self, value: Reference, axis: int, count: int) -> Tensor:
        spec = self._rows.graph.spec_of(value)
        shape = [count if each == axis else extent or 0 for each, extent in enumerate(spec.shape)]
        device = self._executor.device
        if spec.order is None:
            return torch.empty(shape, dtype=spec.dtype, device=device)
        lying = torch.empty([shape[each] for each in spec.order], dtype=spec.dtype, device=device)
        return lying.permute(*sorted(range(len(shape)), key=spec.order.__getitem__))
