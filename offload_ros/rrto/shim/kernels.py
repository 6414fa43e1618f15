"""Kernels for torch's CUDA dispatch key: where tensors come from, and what stays whole."""

from __future__ import annotations

from typing import Any
import warnings

import torch

from offload_ros.rrto.shim.classify import COMPOSITE, WHOLE, server_arguments
from offload_ros.rrto.shim.tensor import call

aten = torch.ops.aten
_Library: Any = torch.library.Library
_has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key


def _given(**options: Any) -> dict[str, Any]:
    return server_arguments({name: each for name, each in options.items() if each is not None})


def _empty(
    size: Any,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
    memory_format: Any = None,
) -> Any:
    options = _given(dtype=dtype, layout=layout, device=device, memory_format=memory_format)
    return call(aten.empty.memory_format, (size,), options)


def _empty_strided(
    size: Any,
    stride: Any,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
) -> Any:
    options = _given(dtype=dtype, layout=layout, device=device)
    return call(aten.empty_strided.default, (size, stride), options)


def _tril_indices(
    row: int,
    col: int,
    offset: int = 0,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
) -> Any:
    options = _given(dtype=dtype, layout=layout, device=device)
    return call(aten.tril_indices.default, (row, col, offset), options)


def _triu_indices(
    row: int,
    col: int,
    offset: int = 0,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
) -> Any:
    options = _given(dtype=dtype, layout=layout, device=device)
    return call(aten.triu_indices.default, (row, col, offset), options)


def _copy(self: Any, src: Any, non_blocking: bool = False) -> Any:
    return call(aten.copy_.default, (self, src, non_blocking), {})


def _local_scalar_dense(self: Any) -> Any:
    return call(aten._local_scalar_dense.default, (self,), {})


# Every other factory (zeros, arange, rand, ...) is one of these and an operator on its result, and
# x.cuda() is empty_strided and copy_.
_FACTORIES = {
    'empty.memory_format': _empty,
    'empty_strided': _empty_strided,
    'tril_indices': _tril_indices,
    'triu_indices': _triu_indices,
}
# Torch's constructors (`x[[0, 2]]`, `torch.tensor([x.sum(), 1])`) switch Python dispatch off while
# they fill a tensor or read one.
_IN_CONSTRUCTORS = {'copy_': _copy, '_local_scalar_dense': _local_scalar_dense}


def register() -> Any:
    """Register the kernels; they stay until :func:`unregister` is given what this gives."""
    library: Any = _Library('aten', 'IMPL')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # a CUDA build has kernels of its own here
        for name, kernel in {**_FACTORIES, **_IN_CONSTRUCTORS}.items():
            library.impl(name, kernel, 'CUDA')
        for name in whole_overloads():
            # A kernel of its own at this key keeps torch from taking the composite apart; that it
            # falls through costs nothing, and the call reaches the tensor's own dispatch.
            library.impl(name, torch.library.fallthrough_kernel, 'AutogradCUDA')
    return library


def whole_overloads() -> list[str]:
    """The overloads of ``WHOLE`` that this torch has as composites, e.g. ``'lstm.input'``."""
    found = []
    for packet_name in sorted(WHOLE):
        packet = getattr(aten, packet_name, None)
        for overload_name in packet.overloads() if packet is not None else ():
            name = getattr(packet, overload_name).name()
            if _has_kernel(name, COMPOSITE):
                found.append(name.partition('::')[2])
    return found


def unregister(library: Any) -> None:
    """Take the kernels of :func:`register` away again."""
    library._destroy()
