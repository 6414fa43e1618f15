"""Arguments and tensor specifications in JSON.

None, bool, int, str and finite floats are themselves; lists are lists; the rest are objects with
one key: ``{"v": [node, output]}``, ``{"i": input}``, ``{"p": parameter}``, ``{"float": "inf"}``,
``{"dtype": "float32"}``, ``{"memory_format": ...}``, ``{"layout": "strided"}``.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from offload_ros.graph.graph import GraphError, Input, Parameter, TensorSpec, Value
from offload_ros.wire.tensors import CODE_OF_DTYPE, MAX_AXES

MAX_TEXT = 400
MAX_DEPTH = 4
_INT64 = 2**63
_FLOATS = {'inf': math.inf, '-inf': -math.inf, 'nan': math.nan}
# Those of the wire, and complex numbers between operators.
DTYPES: dict[str, torch.dtype] = {
    str(dtype).removeprefix('torch.'): dtype
    for dtype in (*CODE_OF_DTYPE, torch.complex64, torch.complex128)
}
_MEMORY_FORMATS = {
    str(each).removeprefix('torch.'): each
    for each in (
        torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d
    )
}  # fmt: skip


def encoded(argument: Any) -> Any:
    """For ``json.dumps``; ``GraphError`` for what has no form."""
    if argument is None or type(argument) in (bool, str):
        return argument
    if isinstance(argument, int) and -_INT64 <= argument < _INT64:
        return int(argument)
    if isinstance(argument, float):
        return argument if math.isfinite(argument) else {'float': str(float(argument))}
    if isinstance(argument, (tuple, list)):
        return [encoded(each) for each in argument]
    if isinstance(argument, Value):
        return {'v': [argument.node, argument.output]}
    if isinstance(argument, Input):
        return {'i': argument.name}
    if isinstance(argument, Parameter):
        return {'p': argument.name}
    for kind, known in (('dtype', DTYPES), ('memory_format', _MEMORY_FORMATS)):
        for name, each in known.items():
            if argument is each:
                return {kind: name}
    if argument is torch.strided:
        return {'layout': 'strided'}
    raise GraphError(f'an argument {argument!r} ({type(argument).__name__}) has no form in JSON')


def decoded(found: Any, depth: int = 0) -> Any:
    """Back from JSON; ``GraphError`` for what ``encoded`` does not make."""
    if found is None or isinstance(found, (bool, float)):
        return found
    if isinstance(found, int):
        if -_INT64 <= found < _INT64:
            return found
        raise GraphError('an argument is an integer of more than 64 bits')
    if isinstance(found, str):
        if len(found) <= MAX_TEXT:
            return found
        raise GraphError(f'an argument is a text of more than {MAX_TEXT} characters')
    if isinstance(found, list) and depth < MAX_DEPTH:
        return tuple(decoded(each, depth + 1) for each in found)
    if isinstance(found, dict) and len(found) == 1:
        ((kind, value),) = found.items()
        if kind == 'v' and isinstance(value, list) and len(value) == 2 and _indices(value):
            return Value(value[0], value[1])
        if isinstance(value, str) and len(value) <= MAX_TEXT:
            if kind in ('i', 'p'):
                return Input(value) if kind == 'i' else Parameter(value)
            known: dict[str, dict[str, Any]] = {
                'float': _FLOATS,
                'dtype': DTYPES,
                'memory_format': _MEMORY_FORMATS,
                'layout': {'strided': torch.strided},
            }
            if value in known.get(kind, {}):
                return known[kind][value]
    raise GraphError('an argument of the graph has no known form')


def spec_to(spec: TensorSpec) -> list[Any]:
    """``[dtype, shape]``, with the order and the strides behind it where there are any."""
    name = next((name for name, dtype in DTYPES.items() if dtype == spec.dtype), None)
    if name is None:
        raise GraphError(f'tensors of {spec.dtype} cannot be sent')
    order = None if spec.order is None else list(spec.order)
    rest: list[Any] = [order] if order else []
    if spec.strides is not None:
        rest = [order, list(spec.strides)]
    return [name, list(spec.shape), *rest]


def spec_from(found: Any, what: str) -> TensorSpec:
    """``GraphError`` for anything but what ``spec_to`` makes. ``what``: the name in errors."""
    fits = isinstance(found, list) and len(found) in (2, 3, 4) and isinstance(found[1], list)
    if not fits or not isinstance(found[0], str) or found[0] not in DTYPES:
        raise GraphError(f'{what}: a tensor is not given as [dtype, shape]')
    shape = tuple(found[1])
    if len(shape) > MAX_AXES or not _indices([each for each in shape if each is not None]):
        raise GraphError(f'{what}: a shape has at most {MAX_AXES} extents of 0 to 2**48')
    order = None
    if len(found) > 2 and found[2] is not None:
        if not isinstance(found[2], list) or not _indices(found[2]):
            raise GraphError(f'{what}: the memory order is not a list of axes')
        order = tuple(found[2])
        if sorted(order) != list(range(len(shape))):
            raise GraphError(f'{what}: the memory order does not name each axis once')
    strides = None
    if len(found) == 4:
        fits = isinstance(found[3], list) and len(found[3]) == len(shape) and None not in shape
        if not fits or not _indices(found[3]):
            raise GraphError(f'{what}: the strides are not one number for each known extent')
        strides = tuple(found[3])
    return TensorSpec(shape, DTYPES[found[0]], order, strides)


def _indices(found: list[Any]) -> bool:
    return all(type(each) is int and 0 <= each <= 2**48 for each in found)
