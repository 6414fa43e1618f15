"""Which extents of a traced graph depend on data: all were numbers when it ran."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from offload_ros.graph.execute import flat
from offload_ros.graph.graph import (
    Graph,
    Input,
    Node,
    Reference,
    TensorSpec,
    Value,
    map_references,
)
from offload_ros.graph.operators import Operator, find


def with_unknown_extents(graph: Graph, axes: Mapping[str, Sequence[int]]) -> Graph:
    """The graph is run a second time without memory, with one element more wherever an extent
    depends on data (a mask, ``nonzero``) or is announced in ``axes``: what differs is unknown.

    Where an operator cannot run so, all extents of its results are unknown.
    """
    inputs = {
        name: _unknown(spec, axes[name]) if name in axes else spec
        for name, spec in graph.inputs.items()
    }
    grown: dict[Reference, Tensor | None] = {}
    for name in axes:
        grown[Input(name)] = _meta(inputs[name], graph.inputs[name])
    nodes = []
    for node in graph.nodes:
        operator = find(node.operator)
        dynamic = operator.dynamic or operator.reads_mask(
            node.args, lambda each: graph.spec_of(each).dtype
        )
        if dynamic or any(each in grown for each in node.references):
            node = replace(node, outputs=_outputs(graph, node, operator, dynamic, grown))
        nodes.append(node)
    return replace(graph, inputs=inputs, nodes=tuple(nodes))


def _outputs(
    graph: Graph,
    node: Node,
    operator: Operator,
    dynamic: bool,
    grown: dict[Reference, Tensor | None],
) -> tuple[TensorSpec, ...]:
    if dynamic:
        axis = _varying_axis(node)
        found = tuple(_unknown(spec, [axis] if spec.shape else []) for spec in node.outputs)
        again: list[Any] = [_meta(new, old) for new, old in zip(found, node.outputs, strict=True)]
    else:
        again = _run(graph, node, operator, grown)
        found = tuple(_compared(spec, each) for spec, each in zip(node.outputs, again, strict=True))
    for index, (spec, each) in enumerate(zip(found, again, strict=True)):
        if not spec.is_static:
            grown[Value(node.id, index)] = each
    return found


def _varying_axis(node: Node) -> int:
    """Where the elements that a mask chose stand: in place of the mask."""
    if not node.operator.startswith('aten.index.'):
        return -1 if node.operator.startswith('aten.one_hot') else 0
    indices = node.args[1]
    places = [place for place, each in enumerate(indices) if each is not None]
    adjacent = places == list(range(places[0], places[-1] + 1))
    return places[0] if adjacent else 0


def _run(
    graph: Graph, node: Node, operator: Operator, grown: dict[Reference, Tensor | None]
) -> list[Any]:
    def value(reference: Reference) -> Any:
        if reference in grown:
            if grown[reference] is None:
                raise RuntimeError
            return grown[reference]
        spec = graph.spec_of(reference)
        return _meta(spec, spec)

    try:
        args = [map_references(each, value) for each in node.args]
        kwargs = {key: map_references(each, value) for key, each in node.kwargs.items()}
        with torch.no_grad():
            return flat(operator.function(*args, **kwargs))
    except Exception:  # no kernel without memory, or numbers that were frozen do not fit
        return [None] * len(node.outputs)


def _compared(spec: TensorSpec, again: Any) -> TensorSpec:
    if not isinstance(again, Tensor) or again.ndim != len(spec.shape):
        return _unknown(spec, range(len(spec.shape)))
    differing = [axis for axis, extent in enumerate(again.shape) if extent != spec.shape[axis]]
    return _unknown(spec, differing)


def _unknown(spec: TensorSpec, axes: Sequence[int]) -> TensorSpec:
    if not axes:
        return spec
    places = {axis % len(spec.shape) for axis in axes}
    shape = tuple(None if axis in places else extent for axis, extent in enumerate(spec.shape))
    return TensorSpec(shape, spec.dtype)


def _meta(spec: TensorSpec, known: TensorSpec) -> Tensor:
    """Without memory; one element more than known where the extent is unknown."""
    extents = [
        extent if extent is not None else (old or 0) + 1
        for extent, old in zip(spec.shape, known.shape, strict=True)
    ]
    return torch.empty(extents, dtype=spec.dtype, device='meta')
