"""Which operators a graph may hold, by name, and how their arguments are read.

They are functions: ATen operators without those that change an argument, draw random numbers, open
files, trust their arguments blindly, return memory that nobody wrote or read by strides; arithmetic
on numbers that come from tensors (sizes, counts); and the operators of
``offload_ros.graph.custom``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
import operator as python
import re
from typing import Any

import torch
from torch._ops import OpOverload

from offload_ros.graph import custom
from offload_ros.graph.graph import GraphError, Reference, references_in
from offload_ros.rrto.operator_names import OPERATOR_NAMES
from offload_ros.rrto.operators import by_mask, operator_of

MAX_NAME = 120
_NAME = re.compile(r'[a-z]\w*\.\w+\.\w+', re.ASCII)

# What was never written is another's memory: captured models get zeros instead.
_UNWRITTEN = frozenset(
    'empty empty_like empty_permuted empty_strided new_empty new_empty_strided'.split()
)
# What they read is a matter of how a tensor lies in memory, which a link does not keep.
_OF_MEMORY = frozenset('as_strided as_strided_copy as_strided_scatter'.split())
_VIEWS = frozenset({'aten.view.default', 'aten._unsafe_view.default'})
# Results that are numbers, not tensors.
_NUMBERS = frozenset({'aten._local_scalar_dense.default', 'aten.sym_size.int'})
# No arguments of these kinds: they name what belongs to one machine.
_OWN = ('Device', 'Generator', 'Stream', 'Storage')

NUMBER_FUNCTIONS: dict[str, Callable[..., Any]] = {
    'add': python.add,
    'sub': python.sub,
    'mul': python.mul,
    'floordiv': python.floordiv,
    'truediv': python.truediv,
    'mod': python.mod,
    'neg': python.neg,
    'eq': python.eq,
    'ne': python.ne,
    'lt': python.lt,
    'le': python.le,
    'gt': python.gt,
    'ge': python.ge,
    'and': python.and_,
    'or': python.or_,
    'not': python.not_,
    'max': max,
    'min': min,
    'float': float,
    'int': int,
}


@dataclass(frozen=True)
class Operator:
    """``function(*args, **kwargs)`` computes it. ``kinds``: of each argument by name, ``tensor``
    (also lists and optional ones), ``number`` (also lists) or ``own`` (a device, a generator).

    ``takes_device``: it makes a tensor from nothing, on the device that is told. ``dynamic``: the
    shapes of its results depend on values. ``random``: it may draw, see ``draws``.
    """

    name: str
    function: Callable[..., Any]
    kinds: Mapping[str, str]
    takes_device: bool = False
    dynamic: bool = False
    random: bool = False

    def bound(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments by name; ``GraphError`` for too many or unknown ones."""
        names = list(self.kinds)
        if len(args) > len(names) or not kwargs.keys() <= self.kinds.keys():
            raise GraphError(f'operator {self.name} has the arguments {", ".join(names)}')
        return {**dict(zip(names, args, strict=False)), **kwargs}

    def draws(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether this call takes random numbers (a dropout that is off does not)."""
        if not self.random:
            return False
        bound = self.bound(args, kwargs)
        trains = [bound[name] for name in ('train', 'training') if name in bound]
        rates = [bound.get(name, 0.0) for name in ('dropout_p', 'dropout') if name in self.kinds]
        return not (any(each is False for each in trains) or (rates and not any(rates)))

    def reads_mask(self, args: Sequence[Any], dtype_of: Callable[[Reference], torch.dtype]) -> bool:
        """Whether it selects by a mask, so that the extents of its result depend on values."""
        if not self.name.startswith('aten.index.') or len(args) < 2:
            return False
        return any(dtype_of(each) in (torch.bool, torch.uint8) for each in references_in(args[1]))


def name_of(func: Any) -> str | None:
    """The name that ``find`` takes; None for what is neither an operator nor known arithmetic."""
    if isinstance(func, OpOverload):
        return str(func)
    return _NAME_OF_FUNCTION.get(func)


@lru_cache(maxsize=4096)
def find(name: str) -> Operator:
    """The operator; ``GraphError`` when it is not allowed or this torch does not have it."""
    if len(name) > MAX_NAME or not _NAME.fullmatch(name):
        raise GraphError(f'{name[:MAX_NAME]!r} names no operator (namespace.name.overload)')
    namespace, base, overload = name.split('.')
    if namespace == 'number':
        if base not in NUMBER_FUNCTIONS or overload != 'default':
            raise GraphError(f'{name} is no arithmetic that a graph may hold')
        return Operator(name, NUMBER_FUNCTIONS[base], {'a': 'number', 'b': 'number'})
    allowed = (
        (namespace == 'aten' and base in OPERATOR_NAMES and base not in _UNWRITTEN | _OF_MEMORY)
        or name in _NUMBERS
        or (namespace == custom.NAMESPACE and base in custom.NAMES)
    )
    if not allowed:
        raise GraphError(f'operator {name} is not among those that a graph may hold')
    func = getattr(getattr(getattr(torch.ops, namespace), base, None), overload, None)
    if not isinstance(func, OpOverload):
        raise GraphError(
            f'torch {torch.__version__} has no operator {name}: give robot and server one torch'
        )
    return _operator(name, func)


def _operator(name: str, func: OpOverload) -> Operator:
    schema, facts = func._schema, operator_of(func)
    writes = any(each.alias_info and each.alias_info.is_write for each in schema.arguments)
    tensors = [each for each in schema.arguments if 'Tensor' in str(each.type)]
    returns = [str(each.type) for each in schema.returns]
    # The other overloads are TorchScript's, for its strings and lists.
    makes_tensors = bool(returns) and all('Tensor' in each for each in returns)
    if writes or not (makes_tensors or name in _NUMBERS):
        raise GraphError(f'operator {name} is not a function of tensors')
    dynamic = name in custom.DYNAMIC or (
        facts.dynamic and name.startswith('aten.') and name not in _NUMBERS
    )
    kinds = {each.name: _kind(str(each.type)) for each in schema.arguments}
    return Operator(
        name=name,
        # A value from a link may have other strides than the model's own: then only reshape copies.
        function=torch.ops.aten.reshape.default if name in _VIEWS else func,
        kinds=kinds,
        takes_device=not tensors and 'device' in kinds,
        dynamic=dynamic,
        random=facts.random,
    )


def _kind(argument_type: str) -> str:
    if 'Tensor' in argument_type:
        return 'tensor'
    return 'own' if any(each in argument_type for each in _OWN) else 'number'


_NAME_OF_FUNCTION: dict[Any, str] = {
    **{function: f'number.{name}.default' for name, function in NUMBER_FUNCTIONS.items()},
    **{
        getattr(torch, f'sym_{name}'): f'number.{name}.default'
        for name in ('max', 'min', 'float', 'int', 'not')
        if hasattr(torch, f'sym_{name}')
    },
}

__all__ = ['NUMBER_FUNCTIONS', 'Operator', 'by_mask', 'find', 'name_of']
