"""One operator that can be computed in slices; the rules that say which can, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache, cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch._ops import OpOverload

from offload_ros.graph.graph import (
    Graph,
    Node,
    Parameter,
    Reference,
    TensorSpec,
    map_references,
    references_in,
)
from offload_ros.graph.intervals import NOTHING, WHOLE, Interval, Need, Relation

Results: TypeAlias = 'Tensor | Sequence[Tensor]'


class Kind(Enum):
    """The classes of Intra-DP, section 3: the first three are local, the last is global.

    ``CONSTANT`` is ours: it depends on parameters only, so that everybody has it.
    """

    ELEMENT_WISE = 'element-wise'
    BLOCK_WISE = 'block-wise'
    ROW_WISE = 'row-wise'
    BARRIER = 'barrier'
    CONSTANT = 'constant'

    @property
    def is_local(self) -> bool:
        """Whether slices of it can be computed from slices."""
        return self in (Kind.ELEMENT_WISE, Kind.BLOCK_WISE, Kind.ROW_WISE)


@cache
def overload_of(name: str) -> OpOverload | None:
    """The operator ``namespace.name.overload`` of PyTorch; None where this one has none."""
    parts = name.split('.')
    if len(parts) != 3 or parts[0] != 'aten':
        return None
    packet = getattr(torch.ops.aten, parts[1], None)
    found = getattr(packet, parts[2], None)
    return found if isinstance(found, OpOverload) else None


class Call:
    """A node with its arguments by name: references, static values, and defaults of the schema.

    ``tensors`` are the references in the order of the schema, one for each place where one stands
    (``mul(x, x)`` has two); ``specs`` their shapes.
    """

    def __init__(self, node: Node, graph: Graph, func: OpOverload) -> None:
        self.node = node
        self.func = func
        arguments: dict[str, Any] = {}
        for place, argument in enumerate(func._schema.arguments):
            if place < len(node.args):
                arguments[argument.name] = node.args[place]
            elif argument.name in node.kwargs:
                arguments[argument.name] = node.kwargs[argument.name]
            else:
                arguments[argument.name] = argument.default_value
        self.arguments = arguments
        self.tensors = tuple(
            each for argument in arguments.values() for each in references_in(argument)
        )
        self.specs = tuple(graph.spec_of(each) for each in self.tensors)

    def __getitem__(self, name: str) -> Any:
        return self.arguments[name]

    def get(self, name: str, default: Any = None) -> Any:
        """The argument, or ``default`` where the operator has no such argument."""
        return self.arguments.get(name, default)

    @property
    def output(self) -> TensorSpec:
        """Of the first output."""
        return self.node.outputs[0]

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of the first output."""
        return static(self.output)

    @cached_property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Of the tensor arguments."""
        return tuple(static(spec) for spec in self.specs)

    @cached_property
    def is_static(self) -> bool:
        """Whether all shapes are known."""
        return all(spec.is_static for spec in (*self.specs, *self.node.outputs))

    @cached_property
    def _slots(self) -> Mapping[str, tuple[int, ...]]:
        place, slots = 0, {}
        for name, argument in self.arguments.items():
            count = sum(1 for _ in references_in(argument))
            slots[name] = tuple(range(place, place + count))
            place += count
        return slots

    def slots(self, name: str) -> tuple[int, ...]:
        """The places in ``tensors`` of the references that argument ``name`` holds."""
        return self._slots.get(name, ())

    def given(self, tensors: Sequence[Tensor], name: str) -> Tensor | None:
        """Of ``tensors`` the one that stands for argument ``name``; None where that is None."""
        slots = self.slots(name)
        return tensors[slots[0]] if slots else None

    def run(self, tensors: Sequence[Tensor], changes: Mapping[str, Any] | None = None) -> Results:
        """The operator on other ``tensors``, with ``changes`` to its static arguments."""
        given = iter(tensors)
        positional: list[Any] = []
        named: dict[str, Any] = {}
        for name, value, filled, by_name in self._template:
            if filled:
                value = map_references(value, lambda _: next(given))
            if changes and name in changes:
                value = changes[name]
            if by_name:
                named[name] = value
            else:
                positional.append(value)
        result: Results = self.func(*positional, **named)
        return result

    @cached_property
    def _template(self) -> tuple[tuple[str, Any, bool, bool], ...]:
        """Name, value, whether it holds references, whether it is given by name."""
        return tuple(
            (each.name, self[each.name], bool(self.slots(each.name)), each.kwarg_only)
            for each in self.func._schema.arguments
        )


def static(spec: TensorSpec) -> tuple[int, ...]:
    """The shape; ``GraphError`` where an extent is unknown."""
    spec.numel  # noqa: B018  raises
    return tuple(extent for extent in spec.shape if extent is not None)


Compute: TypeAlias = Callable[[Interval, Sequence[Tensor]], Results]


@dataclass(frozen=True)
class LocalOperator:
    """An operator along one axis of its output.

    ``axes``: the split axis of each output, None for an output that slices do not give.
    ``relations``: for each of ``call.tensors`` how its slice follows; None where all of it is
    needed. ``compute(interval, tensors)`` takes exactly these slices. ``by_parts``: its slices are
    computed otherwise than the whole, with other padding or by other kernels.
    """

    kind: Kind
    call: Call
    axes: tuple[int | None, ...]
    relations: tuple[Relation | None, ...]
    compute: Compute
    by_parts: bool = False

    @property
    def extent(self) -> int:
        """Of the split axis of the output."""
        axis = self.axes[0]
        assert axis is not None
        return self.call.shape[axis]

    def input_intervals(self, interval: Interval) -> tuple[Need, ...]:
        """For each tensor argument the indices that ``interval`` of the output needs.

        Along the axis of its relation; ``WHOLE`` for all of it, ``NOTHING`` (an empty interval)
        for none. ``ValueError`` for an interval outside of the output.
        """
        self.check(interval)
        if interval.empty:
            return (NOTHING,) * len(self.relations)
        return tuple(
            WHOLE if relation is None else relation.needs(interval) for relation in self.relations
        )

    def run(self, interval: Interval, tensors: Sequence[Tensor]) -> Results:
        """``interval`` from exactly what it needs; all of it by the kernel of the whole."""
        if self.by_parts and interval.length == self.extent:
            shapes = (tuple(tensor.shape) for tensor in tensors)
            if all(have == want for have, want in zip(shapes, self.call.shapes, strict=True)):
                return self.call.run(tensors)
        return self.compute(interval, tensors)

    def check(self, interval: Interval) -> None:
        """``ValueError`` unless ``interval`` lies within the output."""
        if not interval.empty and not Interval(0, self.extent).covers(interval):
            raise ValueError(
                f'node {self.call.node.id} ({self.call.node.operator}) has {self.extent} indices '
                f'along its split axis: the interval [{interval.start}, {interval.stop}) does not '
                'lie within them'
            )


Rule: TypeAlias = Callable[[Call, int], 'LocalOperator | None']
_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule for operators ``name.overload`` (of aten); ``name`` alone is its default.

    The rule gets a call with known shapes and an axis of the first output, not negative, and says
    how the call is local along it, or None.
    """

    def register(function: Rule) -> Rule:
        for name in names:
            full = f'aten.{name}' if '.' in name else f'aten.{name}.default'
            _RULES[full] = function
        return function

    return register


def rule_of(name: str) -> Rule | None:
    """The rule for an operator that needs one of its own."""
    return _RULES.get(name)


def rerun(
    call: Call,
    kind: Kind,
    axis: int,
    relations: Sequence[Relation | None],
    changes: Mapping[str, Any] | None = None,
    axes: tuple[int | None, ...] | None = None,
) -> LocalOperator:
    """The operator itself on the slices, where that is all there is to do."""
    return LocalOperator(
        kind,
        call,
        axes or (axis,) * len(call.node.outputs),
        tuple(relations),
        lambda interval, tensors: call.run(tensors, changes),
    )


def only(call: Call, relation: Relation, name: str = '') -> tuple[Relation | None, ...]:
    """``relation`` for the argument ``name`` (or the first); all the others whole."""
    slots = call.slots(name) if name else (0,)
    return tuple(relation if slot in slots else None for slot in range(len(call.tensors)))


def is_parameter(reference: Reference) -> bool:
    """Whether everybody has it."""
    return isinstance(reference, Parameter)
