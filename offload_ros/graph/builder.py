"""Assembling a graph call by call, as capture meets the calls."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from offload_ros.graph.graph import (
    Graph,
    GraphError,
    Input,
    Node,
    Parameter,
    Reference,
    TensorSpec,
    Value,
    map_references,
    references_in,
)
from offload_ros.graph.layout import gapped_strides, order_of
from offload_ros.graph.normalise import Alike, Dropped, Use, first_only, normalised
from offload_ros.graph.operators import find, name_of

MAX_FOLDED_BYTES = 1 << 20
_NUMBER_DTYPES = {bool: torch.bool, int: torch.int64, float: torch.float64}


class Builder:
    """Takes inputs, parameters and calls in their order; ``graph`` makes the graph of them.

    A call that computes with parameters alone is done at once: its result is a parameter.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.inputs: dict[str, TensorSpec] = {}
        self.tensors: dict[str, Tensor] = {}
        self.nodes: list[Node] = []
        self._alike: dict[Reference, Any] = {}  # a tensor with its shape, dtype and strides
        self._known: dict[tuple[Any, ...], Parameter] = {}

    def input(self, name: str, alike: Any) -> Input:
        """``alike``: a tensor, perhaps a fake one with symbols for extents."""
        self.inputs[name] = replace(spec_of(alike), strides=None)  # gaps are the example's own
        self._alike[Input(name)] = _without_memory(alike)
        return Input(name)

    def parameter(self, name: str, tensor: Tensor) -> Parameter:
        """The same memory under a second name is the same parameter."""
        tensor = tensor.detach()
        if gapped_strides(tensor.shape, tensor.stride()) is not None:
            tensor = tensor.contiguous()  # as a server gets it
        place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and place in self._known:
            return self._known[place]
        number, unique = 1, name
        while unique in self.tensors:
            number += 1
            unique = f'{name}.{number}'
        self.tensors[unique] = tensor
        self._known[place] = Parameter(unique)
        self._alike[Parameter(unique)] = tensor
        return Parameter(unique)

    def call(
        self, func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], alike: Any
    ) -> list[Reference | None]:
        """What its results are from now on. ``alike``: the results, or fake ones.

        ``GraphError`` for an operator that a graph may not hold.
        """
        name = name_of(func)
        if name is None:
            raise GraphError(f'{func} is not an operator that a graph can hold')
        args = tuple(_static(each) for each in args)
        kwargs = {key: _static(each) for key, each in kwargs.items()}
        leaves = leaves_of(alike)
        use = Use(name, args, kwargs, leaves, self._alike)
        result = normalised(use)
        if isinstance(result, Dropped):
            return [None] * len(leaves)
        if isinstance(result, Alike):
            return [result.reference]
        return self._added(result)

    def _added(self, use: Use) -> list[Reference | None]:
        operator = find(use.name)
        if operator.draws(use.args, use.kwargs):
            raise GraphError(
                f'the model draws random numbers ({use.name}): set it to evaluation mode, or give '
                'the random tensor as an input'
            )
        references = [*references_in(use.args), *references_in(tuple(use.kwargs.values()))]
        known = [each for each in references if isinstance(each, Parameter)]
        if len(known) == len(references):
            folded = self._folded(use, known)
            if folded is not None:
                return folded
        specs = tuple(spec_of(each) for each in use.alike)
        node = Node(len(self.nodes), use.name, use.args, use.kwargs, specs)
        self.nodes.append(node)
        results: list[Reference | None] = []
        for index, each in enumerate(use.alike):
            results.append(Value(node.id, index))
            self._alike[Value(node.id, index)] = _without_memory(each)
        return [*results, *[None] * use.unused]

    def _folded(self, use: Use, read: Sequence[Parameter]) -> list[Reference | None] | None:
        specs = [spec_of(each) for each in use.alike]
        operator = find(use.name)
        if operator.dynamic or not all(spec.is_static for spec in specs):
            return None
        device = use.alike[0].device  # constants of a model on a GPU may be on the CPU
        tensors = {each.name: self.tensors[each.name].to(device) for each in read}
        size = sum(spec.nbytes for spec in specs)
        if size > max(MAX_FOLDED_BYTES, sum(each.nbytes for each in tensors.values())):
            return None
        call = map_references(use.args, lambda each: tensors[each.name])
        named = {
            key: map_references(each, lambda reference: tensors[reference.name])
            for key, each in use.kwargs.items()
        }
        if operator.takes_device:
            named['device'] = device
        with torch.no_grad():
            results = leaves_of(operator.function(*call, **named))
        base = use.name.split('.')[1].strip('_')
        stem = f'{next(iter(tensors))}:{base}' if tensors else base
        if not all(isinstance(each, Tensor) for each in results):
            return None
        found: list[Reference | None] = [self.parameter(stem, each) for each in results]
        return [*found, *[None] * use.unused]

    def graph(self, outputs: Mapping[str, Reference], notes: Sequence[str] = ()) -> Graph:
        """Without what no output needs."""
        needed: set[int] = set()
        for node in reversed(self.nodes):
            if node.id in needed or any(
                isinstance(each, Value) and each.node == node.id for each in outputs.values()
            ):
                needed.add(node.id)
                needed.update(node.predecessors)
        place = {old: new for new, old in enumerate(sorted(needed))}

        def moved(reference: Reference) -> Reference:
            if isinstance(reference, Value):
                return Value(place[reference.node], reference.output)
            return reference

        nodes = tuple(
            Node(
                place[node.id],
                node.operator,
                map_references(node.args, moved),
                {name: map_references(each, moved) for name, each in node.kwargs.items()},
                node.outputs,
            )
            for node in self.nodes
            if node.id in needed
        )
        nodes = _with_public_names(nodes, [moved(each) for each in outputs.values()])
        read = {reference for node in nodes for reference in node.references}
        read.update(outputs.values())
        self.tensors = {
            name: tensor for name, tensor in self.tensors.items() if Parameter(name) in read
        }
        return Graph(
            name=self.name,
            inputs=self.inputs,
            parameters={name: spec_of(tensor) for name, tensor in self.tensors.items()},
            nodes=nodes,
            outputs={name: moved(reference) for name, reference in outputs.items()},
            notes=tuple(notes),
        )


def _with_public_names(nodes: tuple[Node, ...], outputs: Sequence[Reference]) -> tuple[Node, ...]:
    read = {reference for node in nodes for reference in node.references}.union(outputs)
    found = []
    for node in nodes:
        if node.kwargs or any(Value(node.id, place) in read for place in range(1, 9)):
            found.append(node)
            continue
        form = first_only(node.operator, node.args)
        if form is not None:
            node = Node(node.id, *form, {}, node.outputs[:1])
        found.append(node)
    return tuple(found)


def spec_of(alike: Any) -> TensorSpec:
    """Of a tensor, a fake one, or a number (also a symbolic one)."""
    if not isinstance(alike, Tensor):
        for kind, symbol in ((bool, torch.SymBool), (int, torch.SymInt), (float, torch.SymFloat)):
            if isinstance(alike, (kind, symbol)):
                return TensorSpec((), _NUMBER_DTYPES[kind])
        raise GraphError(f'{type(alike).__name__} is neither a tensor nor a number')
    if alike.layout != torch.strided or alike.is_quantized:
        raise GraphError(f'tensors of layout {alike.layout} cannot be part of a graph')
    shape = tuple(_extent(each) for each in alike.shape)
    strides = tuple(_extent(each) for each in alike.stride())
    if None in shape or None in strides:
        return TensorSpec(shape, alike.dtype)
    known: tuple[Any, Any] = (shape, strides)
    return TensorSpec(shape, alike.dtype, order_of(*known), gapped_strides(*known))


def _without_memory(alike: Any) -> Any:
    # A trace's tensors are real: they would all stay in memory.
    if not isinstance(alike, Tensor) or isinstance(alike, FakeTensor):
        return alike
    return torch.empty_strided(alike.shape, alike.stride(), dtype=alike.dtype, device='meta')


def leaves_of(result: Any) -> list[Any]:
    """Results of a call in one list, in the order in which values are numbered."""
    if isinstance(result, (tuple, list)):
        return [leaf for each in result for leaf in leaves_of(each)]
    return [] if result is None else [result]


def _extent(extent: Any) -> int | None:
    if isinstance(extent, torch.SymInt):
        known = extent.node.maybe_as_int()
        return None if known is None else int(known)
    return int(extent)


def _static(argument: Any) -> Any:
    """Lists as tuples, known symbols as numbers."""
    if isinstance(argument, (list, tuple)):
        return tuple(_static(each) for each in argument)
    if isinstance(argument, torch.SymInt):
        extent = _extent(argument)
        if extent is None:
            raise GraphError('a size that depends on data is used in a way that capture misses')
        return extent
    return argument
