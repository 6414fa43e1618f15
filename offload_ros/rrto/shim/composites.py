"""Frequent composites in their plain case.

Inside inference mode composites arrive whole, and taking one apart costs some 10 us. These do what
torch's own kernels do where that is a single operator, or nothing at all.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from offload_ros.rrto.shim.autocast import decompose
from offload_ros.rrto.shim.tensor import Action, RemoteTensor, call

aten = torch.ops.aten


def _contiguous(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    wanted = kwargs.get('memory_format', torch.contiguous_format)
    if args[0].is_contiguous(memory_format=wanted):
        return args[0]
    return decompose(func, args, kwargs)


def _reshape(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    source, shape = args
    if source.is_contiguous():
        return call(aten.view.default, (source, _inferred(shape, source.numel())), {})
    return decompose(func, args, kwargs)


def _inferred(shape: list[int], count: int) -> list[int]:
    """``shape`` with its -1 replaced; as it is where that would be wrong, which ``view`` says."""
    if -1 not in shape:
        return shape
    rest = -math.prod(shape)
    if rest <= 0 or count % rest or shape.count(-1) > 1:
        return shape
    return [count // rest if extent == -1 else extent for extent in shape]


def _flatten(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    source = args[0]
    dims = source.dim()
    first = args[1] if len(args) > 1 else 0
    last = args[2] if len(args) > 2 else -1
    first, last = first + dims * (first < 0), last + dims * (last < 0)
    if 0 <= first < last < dims and source.is_contiguous():
        shape = source.shape
        flat = [*shape[:first], math.prod(shape[first : last + 1]), *shape[last + 1 :]]
        return call(aten.view.default, (source, flat), {})
    return decompose(func, args, kwargs)


def _dropout(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) == 3 and not args[2]:
        return args[0]
    return decompose(func, args, kwargs)


def _to_device(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) == 3 and not kwargs and isinstance(args[0], RemoteTensor):
        source, device, dtype = args
        if device == source.device and dtype == source.dtype:
            return source
    return decompose(func, args, kwargs)


def _to_dtype(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    if len(args) == 2 and not kwargs and args[1] == args[0].dtype:
        return args[0]
    return decompose(func, args, kwargs)


SHORTCUTS: dict[Any, Action] = {
    aten.contiguous.default: _contiguous,
    aten.dropout.default: _dropout,
    aten.feature_dropout.default: _dropout,
    aten.flatten.using_ints: _flatten,
    aten.reshape.default: _reshape,
    aten.to.device: _to_device,
    aten.to.dtype: _to_dtype,
}
