"""Computing an interval of an operator's output from slices of its arguments.

``slice_execute`` equals the same indices of the whole operator. Bit-equal for what arranges,
selects or computes element by element; where a kernel sums (convolution, matrix products,
interpolation) its order of summation may change with the shape: rtol 1e-4, atol 1e-5 of the
output's maximum. An interval that is all of the output is bit-equal again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from torch import Tensor

from offload_ros.graph.graph import Graph, Node
from offload_ros.graph.intervals import NOTHING, WHOLE, Interval, Need, hull
from offload_ros.graph.local import LocalOperator, local_operator


class Slice(NamedTuple):
    """Contiguous indices of a tensor along its split axis; the first one is ``start``."""

    tensor: Tensor
    start: int


Operand: TypeAlias = 'Tensor | Slice'


def input_intervals(graph: Graph, node: Node, axis: int, interval: Interval) -> tuple[Need, ...]:
    """What ``interval`` along ``axis`` of the first output needs of each tensor argument.

    Arguments in the order of the operator's schema; ``WHOLE`` for all of one, an empty interval for
    nothing. ``ValueError`` for a barrier or an interval outside of the output.
    """
    return required(graph, node, axis).input_intervals(interval)


def required(graph: Graph, node: Node, axis: int) -> LocalOperator:
    """The local operator; ``ValueError`` where the node is a barrier along ``axis``."""
    operator = local_operator(graph, node, axis)
    if operator is None:
        raise ValueError(
            f'node {node.id} ({node.operator}) is a barrier along axis {axis} of its output: '
            'compute it as a whole'
        )
    return operator


def slice_execute(
    operator: LocalOperator, interval: Interval, inputs: Sequence[Operand]
) -> tuple[Tensor, ...]:
    """``interval`` of the outputs of ``operator``.

    ``inputs``: one for each tensor argument, either whole or a ``Slice`` that holds at least what
    ``operator.input_intervals`` says. Outputs without the split axis (the statistics of a batch
    norm) come as the kernel leaves them. ``ValueError`` for an empty interval, one outside of the
    output, a wrong number of inputs, or a slice that lacks what is needed.
    """
    operator.check(interval)
    if interval.empty:
        raise ValueError(f'node {operator.call.node.id}: an empty interval has nothing to compute')
    if len(inputs) != len(operator.relations):
        raise ValueError(
            f'node {operator.call.node.id} ({operator.call.node.operator}) has '
            f'{len(operator.relations)} tensor arguments, not {len(inputs)}'
        )
    exact = [
        whole_of(given) if relation is None else cut_out(given, relation.axis, needed)
        for relation, given, needed in zip(
            operator.relations, inputs, _intervals(operator, interval), strict=True
        )
    ]
    results = operator.run(interval, exact)
    return (results,) if isinstance(results, Tensor) else tuple(results)


def _intervals(operator: LocalOperator, interval: Interval) -> list[Interval]:
    return [NOTHING if need is WHOLE else need for need in operator.input_intervals(interval)]


def whole_of(given: Operand) -> Tensor:
    """The tensor itself, of one that is needed as a whole."""
    return given.tensor if isinstance(given, Slice) else given


def cut_out(given: Operand, axis: int, interval: Interval) -> Tensor:
    """Exactly ``interval`` of what is given; ``ValueError`` where that is not in it."""
    tensor, start = given if isinstance(given, Slice) else (given, 0)
    if interval.empty:
        return tensor.narrow(axis, 0, 0)
    held = Interval(start, start + tensor.shape[axis])
    if not held.covers(interval):
        raise ValueError(
            f'the slice holds [{held.start}, {held.stop}) along axis {axis}, and '
            f'[{interval.start}, {interval.stop}) is needed'
        )
    return tensor.narrow(axis, interval.start - start, interval.length)


def needed_hull(needs: Sequence[Need], extent: int | None) -> Need:
    """The one need that covers several of the same tensor; with ``extent`` WHOLE is an interval."""
    if any(need is WHOLE for need in needs):
        return WHOLE if extent is None else Interval(0, extent)
    return hull(need for need in needs if need is not WHOLE)
