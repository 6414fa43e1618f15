"""Whether the shapes that a graph declares are those that its operators give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, UnsupportedOperatorException

from offload_ros.graph.execute import flat
from offload_ros.graph.graph import (
    Graph,
    GraphError,
    Node,
    Reference,
    TensorSpec,
    Value,
    map_references,
    references_in,
)
from offload_ros.graph.operators import find

_STAND_IN = 3  # for an extent that is unknown


def check_shapes(graph: Graph) -> None:
    """Runs each operator without memory on the declared shapes; ``GraphError`` where its results
    are declared otherwise, or where it does not take its arguments.

    Where extents depend on data, operators that cannot run on a stand-in are let pass: only the
    run itself can tell.
    """
    # Without fallback: it would run operators for real, on as much memory as is declared.
    with FakeTensorMode(allow_fallback_kernels=False), torch.no_grad():
        made: dict[Reference, Any] = {}
        for node in graph.nodes:
            _check(graph, node, made)


def _check(graph: Graph, node: Node, made: dict[Reference, Any]) -> None:
    operator = find(node.operator)
    reads = [graph.spec_of(each) for each in node.references]
    known = all(spec.is_static for spec in (*reads, *node.outputs))
    dynamic = operator.dynamic or operator.reads_mask(
        node.args, lambda each: graph.spec_of(each).dtype
    )
    if dynamic:
        return
    numbers = any(
        True
        for name, each in operator.bound(node.args, node.kwargs).items()
        if operator.kinds[name] == 'number'
        for _ in references_in(each)
    )
    if numbers or operator.name.startswith('number.'):
        return  # sizes that only the run knows
    device = {'device': 'cpu'} if operator.takes_device else {}

    def value(reference: Reference) -> Any:
        if reference not in made:
            made[reference] = _stand_in(graph.spec_of(reference))
        return made[reference]

    try:
        args = [map_references(each, value) for each in node.args]
        kwargs = {name: map_references(each, value) for name, each in node.kwargs.items()}
        results = flat(operator.function(*args, **kwargs, **device))
    except UnsupportedOperatorException:
        return  # this torch cannot run it without memory
    except Exception as error:
        if not known:
            return
        reason = str(error).strip().split('\n', 1)[0][:300]
        raise GraphError(
            f'node {node.id} ({node.operator}) does not take its arguments: {reason}'
        ) from None
    _compare(node, results)
    if known:
        made.update({Value(node.id, place): each for place, each in enumerate(results)})


def _stand_in(spec: TensorSpec) -> Tensor:
    extents = [_STAND_IN if extent is None else extent for extent in spec.shape]
    order = spec.order or range(len(extents))
    inverse = sorted(range(len(extents)), key=list(order).__getitem__)
    return torch.empty([extents[axis] for axis in order], dtype=spec.dtype).permute(inverse)


def _compare(node: Node, results: list[Any]) -> None:
    if len(results) != len(node.outputs):
        raise GraphError(
            f'node {node.id} ({node.operator}) has {len(results)} results, {len(node.outputs)} '
            'are declared'
        )
    for spec, each in zip(node.outputs, results, strict=True):
        shape: tuple[int, ...] = tuple(each.shape) if isinstance(each, Tensor) else ()
        fits = len(shape) == len(spec.shape) and all(
            want is None or want == have for want, have in zip(spec.shape, shape, strict=True)
        )
        if not fits or (isinstance(each, Tensor) and each.dtype != spec.dtype):
            raise GraphError(
                f'node {node.id} ({node.operator}) gives {shape}, declared is '
                f'{spec.dtype} {spec.shape}'
            )
