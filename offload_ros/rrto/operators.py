"""Which operators a server runs, how they are called by name, and what is special about each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch._ops import OpOverload

from offload_ros.graph import custom
from offload_ros.rrto.operator_names import OPERATOR_NAMES
from offload_ros.wire.errors import WireError

MAX_NAME = 120
# Metadata of the result depends on values, although no tag says so.
_DYNAMIC = frozenset({'aten::repeat_interleave.Tensor', 'aten::one_hot', 'aten::nonzero_numpy'})
_BY_MASK = frozenset({'aten::index.Tensor', 'aten::index_put.default'})
_MASKS = (torch.bool, torch.uint8)


@dataclass(frozen=True)
class Operator:
    """``writes``: which arguments (position, or keyword) it changes. ``dynamic``: the shapes of its
    results depend on values. ``random``: it draws from the generator. ``factory``: no tensors go
    in."""

    name: str
    func: OpOverload
    writes: tuple[int | str, ...]
    dynamic: bool
    random: bool
    factory: bool
    arguments: frozenset[str]


def name_of(func: OpOverload) -> str:
    """``namespace::name.overload``, without an overload that is the default."""
    name: str = func._schema.name
    overload = func._schema.overload_name
    return f'{name}.{overload}' if overload else name


@cache
def operator_of(func: OpOverload) -> Operator:
    """What is special about an operator, whether servers run it or not."""
    schema = func._schema
    writes: list[int | str] = []
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            writes.append(argument.name if argument.kwarg_only else position)
    tensors = [each for each in schema.arguments if 'Tensor' in str(each.type)]
    tags = func.tags
    name = name_of(func)
    returns = [str(each.type) for each in schema.returns]
    valued = 'float' in returns or not any('Tensor' in each for each in returns)
    dynamic = (
        (torch.Tag.dynamic_output_shape in tags and name not in _BY_MASK)
        or name in _DYNAMIC
        or (valued and bool(returns))  # a number made of values (allclose)
        or not name.startswith('aten::')  # nobody knows: it is asked each time
    )
    return Operator(
        name=name,
        func=func,
        writes=tuple(writes),
        dynamic=dynamic,
        random=torch.Tag.nondeterministic_seeded in tags,
        factory=not tensors,
        arguments=frozenset(argument.name for argument in schema.arguments),
    )


def by_mask(operator: Operator, dtypes: Iterable[torch.dtype]) -> bool:
    """Whether an indexing with tensors of ``dtypes`` has a result of unknown shape."""
    return operator.name in _BY_MASK and any(dtype in _MASKS for dtype in dtypes)


class AllowedOperators:
    """The list of a server. ``more``: names that its owner adds, as ``torchvision::nms``.
    ``all_there_are``: for a program that runs in this very process."""

    def __init__(self, more: Iterable[str] = (), all_there_are: bool = False) -> None:
        self._more = frozenset(more)
        self._all = all_there_are

    def find(self, name: str) -> Operator:
        """``WireError`` when it is not allowed or this torch does not have it."""
        namespace, colons, rest = name.partition('::')
        base, _, overload = rest.partition('.')
        plain = f'{namespace}::{base}'
        if not colons or len(name) > MAX_NAME or not base.isidentifier():
            raise WireError(f'{name[:MAX_NAME]!r} names no operator')
        if (namespace, base) != ('aten', '_reshape_alias'):  # run as another: see ``callable_of``
            allowed = (namespace == 'aten' and base in OPERATOR_NAMES) or (
                namespace == custom.NAMESPACE and base in custom.NAMES
            )
            if not (allowed or self._all or plain in self._more):
                raise WireError(
                    f'operator {plain} is not among those that this server runs; its owner can add '
                    'it to the parameter rrto.operators'
                )
        packet = getattr(getattr(torch.ops, namespace), base, None)
        func = getattr(packet, overload or 'default', None) if packet is not None else None
        if not isinstance(func, OpOverload):
            raise WireError(
                f'torch {torch.__version__} of the server has no operator {name}: give robot and '
                'server the same torch'
            )
        return operator_of(func)


def callable_of(operator: Operator) -> Callable[..., Any]:
    """What runs it: itself, but where it would trust its arguments."""
    if operator.name == 'aten::_reshape_alias':
        return _reshape_alias
    return operator.func


def _reshape_alias(tensor: torch.Tensor, size: list[int], stride: list[int]) -> torch.Tensor:
    # Without the storage's bounds checked it would read any memory.
    return tensor.as_strided(size, stride, tensor.storage_offset())
