"""A model as a graph of operators: what is computed from what, with shapes, dtypes and parameters.

The graph is functional: each node makes new values and none changes another's, so any set of nodes
can run on any machine that is given the values which come from elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import torch


class GraphError(ValueError):
    """A graph that contradicts itself, or a model or file from which none can be made."""


@dataclass(frozen=True)
class TensorSpec:
    """``shape``: an extent is None where only the run tells it (the rows of ``nonzero``).

    ``order``: the axes from the outermost to the innermost in memory, where that is not row-major
    (a channels-last image has (0, 2, 3, 1)); None for row-major. It decides which kernels run, and
    so the last bits of a result. ``strides`` (in elements): only of views that leave gaps or repeat
    elements (a slice, an expanded axis); a sum over one adds in another order than over a copy.
    A number (an ``item()``, a size) is a tensor without axes.
    """

    shape: tuple[int | None, ...]
    dtype: torch.dtype
    order: tuple[int, ...] | None = None
    strides: tuple[int, ...] | None = None

    @property
    def is_static(self) -> bool:
        """Whether every extent is known."""
        return None not in self.shape

    @property
    def numel(self) -> int:
        """Elements; ``GraphError`` where an extent is unknown."""
        count = 1
        for extent in self.shape:
            if extent is None:
                raise GraphError(f'the number of elements of shape {self.shape} is not known')
            count *= extent
        return count

    @property
    def nbytes(self) -> int:
        """Bytes of the elements; ``GraphError`` where an extent is unknown."""
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True)
class Value:
    """Output ``output`` of node ``node``."""

    node: int
    output: int = 0


@dataclass(frozen=True)
class Input:
    """What the caller gives under ``name``."""

    name: str


@dataclass(frozen=True)
class Parameter:
    """A weight, buffer or constant of the model."""

    name: str


Reference: TypeAlias = Value | Input | Parameter


@dataclass(frozen=True)
class Node:
    """One operator: ``operator`` is ``namespace.name.overload`` (``aten.convolution.default``).

    ``args`` and ``kwargs`` hold references and static values (None, bool, int, float, str, dtype,
    memory format, layout, and tuples of these); no device: that is the executor's.
    """

    id: int
    operator: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    outputs: tuple[TensorSpec, ...]

    @cached_property
    def references(self) -> tuple[Reference, ...]:
        """What the node reads, each once, in the order of its arguments."""
        found: dict[Reference, None] = {}
        for argument in (*self.args, *self.kwargs.values()):
            found.update(dict.fromkeys(references_in(argument)))
        return tuple(found)

    @cached_property
    def predecessors(self) -> tuple[int, ...]:
        """Ids of the nodes whose values it reads, each once, ascending."""
        return tuple(sorted({each.node for each in self.references if isinstance(each, Value)}))


def references_in(argument: Any) -> Iterator[Reference]:
    """All references within an argument, nested tuples included."""
    if isinstance(argument, (Value, Input, Parameter)):
        yield argument
    elif isinstance(argument, (tuple, list)):
        for each in argument:
            yield from references_in(each)


def map_references(argument: Any, function: Any) -> Any:
    """``argument`` with each reference replaced by ``function(reference)``."""
    if isinstance(argument, (Value, Input, Parameter)):
        return function(argument)
    if isinstance(argument, (tuple, list)):
        return tuple(map_references(each, function) for each in argument)
    return argument


@dataclass(frozen=True)
class Graph:
    """``nodes`` in execution order, the id of each its place; ``outputs``: what returns, by name.

    ``parameters`` says shape and dtype; the tensors themselves travel beside the graph.
    """

    name: str
    inputs: Mapping[str, TensorSpec]
    parameters: Mapping[str, TensorSpec]
    nodes: tuple[Node, ...]
    outputs: Mapping[str, Reference]
    notes: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        self.validate()

    def spec_of(self, reference: Reference) -> TensorSpec:
        """Shape and dtype of what ``reference`` names; ``GraphError`` where it names nothing."""
        try:
            if isinstance(reference, Value):
                if reference.node < 0 or reference.output < 0:
                    raise IndexError
                return self.nodes[reference.node].outputs[reference.output]
            if isinstance(reference, Input):
                return self.inputs[reference.name]
            return self.parameters[reference.name]
        except (IndexError, KeyError):
            raise GraphError(f'graph {self.name}: {reference} does not exist') from None

    @cached_property
    def consumers(self) -> Mapping[Reference, tuple[int, ...]]:
        """Ids of the nodes that read a value, ascending; what nobody reads is not in it."""
        found: dict[Reference, list[int]] = {}
        for node in self.nodes:
            for reference in node.references:
                found.setdefault(reference, []).append(node.id)
        return {reference: tuple(ids) for reference, ids in found.items()}

    def validate(self) -> None:
        """``GraphError`` unless ids are places and references point backward to what exists."""
        for place, node in enumerate(self.nodes):
            if node.id != place:
                raise GraphError(f'graph {self.name}: node {node.id} stands at place {place}')
            for reference in node.references:
                self.spec_of(reference)
                if isinstance(reference, Value) and reference.node >= place:
                    raise GraphError(
                        f'graph {self.name}: node {place} reads the later node {reference.node}'
                    )
        if not self.outputs:
            raise GraphError(f'graph {self.name} has no outputs')
        for reference in self.outputs.values():
            self.spec_of(reference)
