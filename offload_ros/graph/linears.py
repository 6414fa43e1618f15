"""Linear layers over the last axis of larger tensors, put together again after a trace.

PyTorch flattens the other axes, multiplies two matrices and undoes the flattening. On flat rows the
split axis is lost; in one operator each index of it stands for itself. Bits are the same: this is
what ``linear`` does with such tensors.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from offload_ros.graph.builder import Builder
from offload_ros.graph.graph import Node, Parameter, Reference, TensorSpec, Value

_VIEWS = frozenset(f'aten.{name}.default' for name in ('view', '_unsafe_view', 'reshape'))


def join_linears(builder: Builder) -> None:
    """Replaces each view of a product of a flattened tensor by ``linear`` of the tensor itself;
    what nobody needs any more is left out by ``Builder.graph``."""
    for place, node in enumerate(builder.nodes):
        arguments = _linear(builder, node)
        if arguments is not None:
            joined = replace(node, operator='aten.linear.default', args=arguments, kwargs={})
            builder.nodes[place] = joined


def _linear(builder: Builder, node: Node) -> tuple[Any, ...] | None:
    """Input, weight and bias, where ``node`` ends such a sequence."""
    product = _made_by(builder, node.args[0]) if node.operator in _VIEWS else None
    if product is None or product.kwargs:
        return None
    if product.operator == 'aten.addmm.default' and len(product.args) == 3:
        bias, flat, right = product.args
    elif product.operator == 'aten.mm.default':
        (flat, right), bias = product.args, None
    else:
        return None
    view = _made_by(builder, flat)
    if view is None or view.operator not in _VIEWS or not isinstance(right, Parameter):
        return None
    if bias is not None and not (isinstance(bias, Parameter) and _ndim(builder, bias) == 1):
        return None
    given, whole, result = _spec(builder, view.args[0]), view.outputs[0], node.outputs[0]
    inner, outer = builder.tensors[right.name].shape
    flattened = len(given.shape) > 2 and given.shape[-1] == inner == whole.shape[-1]
    if not flattened or len(whole.shape) != 2 or result.shape != (*given.shape[:-1], outer):
        return None
    weight = builder.parameter(right.name, builder.tensors[right.name].t())
    return (view.args[0], weight) if bias is None else (view.args[0], weight, bias)


def _made_by(builder: Builder, reference: Any) -> Node | None:
    return builder.nodes[reference.node] if isinstance(reference, Value) else None


def _ndim(builder: Builder, parameter: Parameter) -> int:
    return builder.tensors[parameter.name].ndim


def _spec(builder: Builder, reference: Reference) -> TensorSpec:
    if isinstance(reference, Value):
        return builder.nodes[reference.node].outputs[reference.output]
    if isinstance(reference, Parameter):
        return TensorSpec(
            tuple(builder.tensors[reference.name].shape), builder.tensors[reference.name].dtype
        )
    return builder.inputs[reference.name]
