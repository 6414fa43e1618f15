"""Functions that tell whether a call is the one that was recorded at this step of a unit.

They run for each operator of a replayed inference, so each is compiled from its template: operator,
tensors, static arguments and nothing else is compared, in a quarter of a microsecond.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch._ops import OpOverload

from offload_ros.rrto.calls import (
    Constant,
    CudaDevice,
    CudaGenerator,
    PayloadHole,
    Template,
    TensorHole,
    fits_payload,
    same_values,
)
from offload_ros.rrto.metadata import interned
from offload_ros.rrto.operators import Operator
from offload_ros.rrto.sequences import OUTPUT_BITS, Carried, External, InFrame, Reference
from offload_ros.rrto.shim.classify import generator_number
from offload_ros.rrto.spares import Frame

# match(operator, args, kwargs, results made in advance, their owners, frame): None: another call;
# else what the step gives, where that is known in advance or given, or True.
Match = Callable[
    [OpOverload, Sequence[Any], Mapping[str, Any], Sequence[Any], Sequence[Any], Frame], Any
]
_SINGLE = (torch.dtype, torch.layout, torch.memory_format)


class _Whichever(Sequence[Any]):
    """In place of the tensors made in advance, where only whether a call matches is asked."""

    def __len__(self) -> int:
        return 0

    def __getitem__(self, _: Any) -> Any:
        return True


WHICHEVER = _Whichever()


def compile_match(
    operator: Operator,
    template: Template,
    references: Sequence[Reference],
    slots: Mapping[tuple[int, int], int],
    places: Mapping[tuple[int, int], int],
    gives: int | TensorHole | None,
) -> Match:
    """``slots``: place of each carried (step, output) among the frame's carried handles.
    ``places``: of the owner of each (step, output) that is made in advance. ``gives``: the step
    whose result, made in advance, the call gives; or which of its arguments."""
    values: list[Any] = []
    source = _source(operator, template, references, slots, values, places, gives)
    return _made(source)(*values)  # type: ignore[no-any-return]


def _takes_any_number(kind: str) -> bool:
    """Whether 1, 1.0 and True make a difference for an argument; so they do for a tensor's."""
    return 'number' in kind or 'Tensor' in kind


@lru_cache(maxsize=8192)
def _made(source: str) -> Callable[..., Match]:
    """Calls that differ in values alone share one function's text."""
    names: dict[str, Any] = {
        'fits': fits_payload,
        'same': same_values,
        'number_of': generator_number,
    }
    exec(source, names)
    return names['make']  # type: ignore[no-any-return]


def _source(
    operator: Operator,
    template: Template,
    references: Sequence[Reference],
    slots: Mapping[tuple[int, int], int],
    values: list[Any],
    places: Mapping[tuple[int, int], int],
    gives: int | TensorHole | None,
) -> str:
    types = [str(argument.type) for argument in operator.func._schema.arguments]
    by_name = {argument.name: str(argument.type) for argument in operator.func._schema.arguments}

    def value(given: Any) -> str:
        values.append(given)
        return f'v{len(values) - 1}'

    def tensor(place: str, hole: TensorHole) -> list[str]:
        reference = references[hole.index]
        if isinstance(reference, InFrame):
            owner = places.get((reference.step, reference.output))
            if owner is not None:
                return [f'{place}._owner is o[{value(owner)}]']
            handle = value(reference.step << OUTPUT_BITS | reference.output)
            return [f'{place}._h == w.shifted + {handle}']
        meta = f'{place}._meta is {value(interned(hole.meta))}'
        if isinstance(reference, External):
            return [f'{place}._h == {value(reference.handle)}', meta]
        assert isinstance(reference, Carried)
        slot = slots[reference.step, reference.output]
        return [f'{place}._h == w.carried[{value(slot)}]', meta]

    def conditions(place: str, node: Any, kind: str) -> list[str]:
        if isinstance(node, TensorHole):
            return tensor(place, node)
        if isinstance(node, PayloadHole):
            return [f'fits({place}, {value(node.meta)})']
        if isinstance(node, Constant):
            return [f'same({place}, {value(node.tensor)}, {value(node.data())})']
        if isinstance(node, CudaDevice):
            return [f"{place}.type == 'cuda'", f'not {place}.index']
        if isinstance(node, CudaGenerator):
            return [f'number_of({place}) == {node.number}']
        if isinstance(node, list):
            if all(type(each) is int for each in node) and not _takes_any_number(kind):
                return [f'{place} == {value(node)}']
            parts = [f'len({place}) == {len(node)}']
            for index, each in enumerate(node):
                parts += conditions(f'{place}[{index}]', each, kind)
            return parts
        if node is None or (isinstance(node, bool) and not _takes_any_number(kind)):
            return [f'{place} is {node}']
        if isinstance(node, _SINGLE):
            return [f'{place} is {value(node)}']
        delicate = isinstance(node, float) and (not node or node != node)
        if delicate or isinstance(node, complex):  # 0.0 is not -0.0, and NaN is NaN
            name = type(node).__name__
            return [f'type({place}) is {name}', f'repr({place}) == {value(repr(node))}']
        equal = f'{place} == {value(node)}'
        if isinstance(node, (bool, int, float)) and _takes_any_number(kind):
            # First: a tensor would be asked on the server whether it is equal.
            return [f'type({place}) is {type(node).__name__}', equal]
        return [equal]

    parts = [f'len(k) == {len(template.kwargs)}' if template.kwargs else 'not k']
    for index, node in enumerate(template.args):
        parts += conditions(f'a{index}', node, types[index] if index < len(types) else 'number')
    for keyword, node in template.kwargs.items():
        parts += conditions(f'k[{keyword!r}]', node, by_name.get(keyword, 'number'))
    names = ''.join(f'a{index}, ' for index in range(len(template.args)))
    given = 'True'
    if isinstance(gives, TensorHole):
        given = f'a{template.args.index(gives)}'
    elif gives is not None:
        given = f's[{value(gives)}]'
    func = value(operator.func)
    arguments = ', '.join(f'v{index}' for index in range(len(values)))
    return (
        f'def make({arguments}):\n'
        '    def match(f, a, k, s, o, w):\n'
        f'        if f is not {func}:\n'
        '            return None\n'
        '        try:\n'
        f'            {names or "()"} = a\n'
        f'            if {" and ".join(parts)}:\n'
        f'                return {given}\n'
        '        except (AttributeError, IndexError, KeyError, TypeError, ValueError):\n'
        '            pass\n'
        '        return None\n'
        '    return match\n'
    )
