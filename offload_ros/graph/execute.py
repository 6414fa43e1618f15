"""Running a graph, or any part of it, on one machine.

A part is a set of nodes. Given the values that come from elsewhere it computes those that are asked
for, with the very kernels that the whole model calls; a layer cut is two such executors that hand
each other values (``offload_ros.graph.cuts``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import torch
from torch import Tensor

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
)
from offload_ros.graph.layout import laid_out
from offload_ros.graph.operators import find

# Around each operator: gets the node and what computes it, returns what that returned. The profiler
# times with it, the paced robot of the testbed sleeps in it.
Hook = Callable[[Node, Callable[[], Any]], Any]
_Held: TypeAlias = 'list[Any] | dict[int, Any]'  # values by slot


@dataclass(frozen=True)
class _Call:
    """A node made ready: its values live in numbered slots, and most arguments never change."""

    node: Node
    function: Callable[..., Any]
    args: tuple[Any, ...]
    direct: tuple[tuple[int, int], ...]  # (place of an argument, its slot)
    nested: tuple[tuple[int, Any], ...]  # (place, argument with _Slot and _Number in it)
    kwargs: dict[str, Any]
    nested_kwargs: dict[str, Any]
    outputs: tuple[int, ...]  # slots


@dataclass(frozen=True)
class _Plan:
    """Nodes to run in this order; after each, the slots whose last reader it was."""

    steps: tuple[tuple[_Call, tuple[int, ...]], ...]
    needed: tuple[Reference, ...]


@dataclass(frozen=True)
class _Slot:
    """A reference in an argument, by the number of its slot."""

    number: int


@dataclass(frozen=True)
class _Number(_Slot):
    """One that must be a number, not a tensor."""


class Executor:
    """``graph`` with its ``parameters`` on ``device``. Several threads may run it at a time.

    ``GraphError`` when a parameter is missing or has another shape or dtype than the graph says.
    """

    def __init__(
        self,
        graph: Graph,
        parameters: Mapping[str, Tensor],
        device: torch.device | str = 'cpu',
    ) -> None:
        self.graph = graph
        self.device = torch.device(device)
        self._slots: dict[Reference, int] = {}
        self._parameters: list[Any] = []
        for name, spec in graph.parameters.items():
            self._slots[Parameter(name)] = len(self._slots)
            tensor = _checked(parameters.get(name), spec, f'parameter {name}')
            self._parameters.append(tensor.detach().to(self.device))
        for reference in _made(graph):
            self._slots[reference] = len(self._slots)
        self._calls = [self._prepared(node) for node in graph.nodes]
        self._plan = lru_cache(maxsize=512)(self._planned)

    def __call__(self, inputs: Mapping[str, Tensor], hook: Hook | None = None) -> dict[str, Tensor]:
        """The whole graph: inputs by name to outputs by name. An output may share memory with an
        input, as it does in the model; it never shares a parameter's."""
        if inputs.keys() != self.graph.inputs.keys():
            raise GraphError(
                f'graph {self.graph.name} takes the inputs {", ".join(self.graph.inputs)}, '
                f'got {", ".join(inputs)}'
            )
        values: dict[Reference, Tensor] = {Input(name): each for name, each in inputs.items()}
        outputs = self.graph.outputs
        results = self.run(values, range(len(self._calls)), outputs.values(), hook)
        return {name: results[reference] for name, reference in outputs.items()}

    def run(
        self,
        values: Mapping[Reference, Tensor],
        nodes: Iterable[int],
        wanted: Iterable[Reference],
        hook: Hook | None = None,
    ) -> dict[Reference, Tensor]:
        """Of ``nodes`` run those that ``wanted`` needs, given ``values``; the wanted ones return.

        ``values``: what the nodes read from outside of them (inputs, values of other nodes); more
        than that is allowed, and a value that is given is not computed. A tensor that came over a
        link is brought into the memory layout that the model gives it. ``GraphError`` when a value
        is missing or does not have the shape and dtype that the graph says.
        """
        wanted = tuple(dict.fromkeys(wanted))
        plan = self._plan(frozenset(nodes), wanted, frozenset(values))
        held = self._parameters + [None] * (len(self._slots) - len(self._parameters))
        for reference in plan.needed:
            spec = self.graph.spec_of(reference)
            tensor = _checked(values.get(reference), spec, f'value {reference}')
            held[self._slots[reference]] = laid_out(
                tensor.to(self.device), spec.order, spec.strides
            )
        with torch.no_grad():
            for call, released in plan.steps:
                _run(call, held, hook)
                for slot in released:
                    held[slot] = None
        return {each: self._returned(each, held[self._slots[each]]) for each in wanted}

    def run_node(self, node: int, values: Mapping[Reference, Tensor]) -> list[Tensor]:
        """All outputs of one node. ``values``: what it reads beside parameters, on the device and
        in the memory layout that the graph says (``laid_out``). ``GraphError`` as ``run``."""
        call = self._calls[node]
        held: dict[int, Any] = {}
        for reference in call.node.references:
            slot = self._slots[reference]
            if isinstance(reference, Parameter):
                held[slot] = self._parameters[slot]
            else:
                spec = self.graph.spec_of(reference)
                held[slot] = _checked(values.get(reference), spec, f'value {reference}')
        with torch.no_grad():
            _run(call, held, None)
        return [
            self._returned(Value(node, place), held[slot])
            for place, slot in enumerate(call.outputs)
        ]

    def parameter(self, reference: Parameter) -> Tensor:
        """On the device; ``KeyError`` for an unknown one."""
        tensor: Tensor = self._parameters[self._slots[reference]]
        return tensor

    def _returned(self, reference: Reference, value: Any) -> Tensor:
        spec = self.graph.spec_of(reference)
        if not isinstance(value, Tensor):
            return torch.tensor(value, dtype=spec.dtype)
        if isinstance(reference, Parameter):
            return value.clone()
        _checked(value, spec, f'value {reference}')
        return value

    def _prepared(self, node: Node) -> _Call:
        operator = find(node.operator)
        if operator.draws(node.args, node.kwargs):
            raise GraphError(f'node {node.id}: operator {node.operator} draws random numbers')
        operator.bound(node.args, node.kwargs)
        kinds = operator.kinds
        args = [
            self._slotted(each, kind) for each, kind in zip(node.args, kinds.values(), strict=False)
        ]
        kwargs = {name: self._slotted(each, kinds[name]) for name, each in node.kwargs.items()}
        if operator.takes_device:
            kwargs['device'] = self.device
        nested = {place: each for place, each in enumerate(args) if _has_slot(each)}
        direct = {place: each for place, each in nested.items() if type(each) is _Slot}
        named = {name: each for name, each in kwargs.items() if _has_slot(each)}
        return _Call(
            node,
            operator.function,
            tuple(args),
            tuple((place, each.number) for place, each in direct.items()),
            tuple((place, each) for place, each in nested.items() if place not in direct),
            {name: each for name, each in kwargs.items() if name not in named},
            named,
            tuple(self._slots[Value(node.id, place)] for place in range(len(node.outputs))),
        )

    def _slotted(self, argument: Any, kind: str) -> Any:
        if kind == 'own' and argument is not None:
            raise GraphError('a graph names no device and no generator: they are of one machine')
        mark = _Number if kind == 'number' else _Slot
        return map_references(argument, lambda reference: mark(self._slots[reference]))

    def _planned(
        self, nodes: frozenset[int], wanted: tuple[Reference, ...], given: frozenset[Reference]
    ) -> _Plan:
        graph = self.graph
        if nodes and not (min(nodes) >= 0 and max(nodes) < len(graph.nodes)):
            raise GraphError(f'graph {graph.name} has the nodes 0 to {len(graph.nodes) - 1}')
        needed: dict[Reference, None] = {}
        chosen: set[int] = set()
        pending = list(wanted)
        while pending:
            reference = pending.pop()
            graph.spec_of(reference)
            if isinstance(reference, Parameter):
                continue
            if reference in given or not isinstance(reference, Value):
                needed[reference] = None
            elif reference.node not in nodes:
                raise GraphError(
                    f'{reference} ({graph.nodes[reference.node].operator}) is needed: it is '
                    'neither given nor among the nodes to run'
                )
            elif reference.node not in chosen:
                chosen.add(reference.node)
                pending.extend(graph.nodes[reference.node].references)
        calls = [self._calls[index] for index in sorted(chosen)]
        released = [
            tuple(self._slots[each] for each in last)
            for last in _releases([call.node for call in calls], wanted)
        ]
        return _Plan(tuple(zip(calls, released, strict=True)), tuple(needed))


def _run(call: _Call, held: _Held, hook: Hook | None) -> None:
    args = list(call.args)
    for place, slot in call.direct:
        args[place] = held[slot]
    for place, argument in call.nested:
        args[place] = _filled(argument, held)
    kwargs = call.kwargs
    if call.nested_kwargs:
        kwargs = {
            **kwargs,
            **{name: _filled(each, held) for name, each in call.nested_kwargs.items()},
        }
    if hook is None:
        result = call.function(*args, **kwargs)
    else:
        result = hook(call.node, lambda: call.function(*args, **kwargs))
    if isinstance(result, Tensor) and len(call.outputs) == 1:
        held[call.outputs[0]] = result
        return
    results = flat(result)
    if len(results) != len(call.outputs):
        raise GraphError(
            f'node {call.node.id} ({call.node.operator}) gave {len(results)} results instead of '
            f'{len(call.outputs)}'
        )
    for slot, each in zip(call.outputs, results, strict=True):
        held[slot] = each


def _filled(argument: Any, held: _Held) -> Any:
    if isinstance(argument, _Number):
        value = held[argument.number]
        return value.item() if isinstance(value, Tensor) else value
    if isinstance(argument, _Slot):
        return held[argument.number]
    if isinstance(argument, tuple):
        return [_filled(each, held) for each in argument]
    return argument


def _has_slot(argument: Any) -> bool:
    if isinstance(argument, tuple):
        return any(map(_has_slot, argument))
    return isinstance(argument, _Slot)


def _made(graph: Graph) -> Iterator[Reference]:
    """All that a run brings: inputs and values."""
    yield from map(Input, graph.inputs)
    for node in graph.nodes:
        for place in range(len(node.outputs)):
            yield Value(node.id, place)


def _releases(nodes: Sequence[Node], wanted: Collection[Reference]) -> list[list[Reference]]:
    """After which node nobody reads a value any more."""
    kept = set(wanted)
    releases: list[list[Reference]] = []
    for node in reversed(nodes):
        own: set[Reference] = {Value(node.id, index) for index in range(len(node.outputs))}
        reads = {each for each in node.references if not isinstance(each, Parameter)}
        last = (own | reads) - kept
        kept |= last
        releases.append(list(last))
    return releases[::-1]


def flat(result: Any) -> list[Any]:
    """Results of an operator in one list: tensors, numbers, tuples and lists of tensors."""
    if isinstance(result, (tuple, list)):
        return [leaf for each in result for leaf in flat(each)]
    return [result]


def _checked(tensor: Tensor | None, spec: TensorSpec, what: str) -> Tensor:
    if tensor is None:
        raise GraphError(f'{what} is missing')
    fits = tensor.dtype == spec.dtype and tensor.ndim == len(spec.shape)
    if fits and all(
        want is None or want == have for want, have in zip(spec.shape, tensor.shape, strict=True)
    ):
        return tensor
    raise GraphError(
        f'{what} is {tensor.dtype} {tuple(tensor.shape)}, the graph says {spec.dtype} {spec.shape}'
    )
