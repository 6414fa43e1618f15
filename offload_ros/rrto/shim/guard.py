"""A device guard for the CUDA slot of a torch that has no CUDA device.

Torch's hand-written bindings (``x[i]``, ``contiguous``, item assignment) enter a guard of the
tensor's device before they dispatch. A CPU build has none for CUDA, and a CUDA build's needs a
driver. The meta device's guard does nothing; torch keeps guards in an exported table, so its entry
can be put in the CUDA slot too.
"""

from __future__ import annotations

from collections import deque
import ctypes
from pathlib import Path
import sys
from typing import Any

import torch
from torch._ops import OpOverload
from torch.utils._pytree import tree_map

from offload_ros.rrto.metadata import meta_of
from offload_ros.rrto.shim.tensor import HandleOwner, RemoteTensor, bind, current, remote

CUDA_SLOT, META_SLOT = 1, 14  # c10::DeviceType
_TABLE = '_ZN3c104impl26device_guard_impl_registryE'
_LIBRARY = {'linux': 'libc10.so', 'darwin': 'libc10.dylib'}


class GuardError(RuntimeError):
    """This torch cannot be made to believe in a CUDA device."""


def _table() -> ctypes.Array[ctypes.c_void_p]:
    folder = Path(torch.__file__).parent / 'lib'
    name = _LIBRARY.get(sys.platform)
    if name is None or not (folder / name).exists():
        raise _unusable(f'its core library was not found in {folder}')
    try:
        return (ctypes.c_void_p * (META_SLOT + 1)).in_dll(ctypes.CDLL(str(folder / name)), _TABLE)
    except (OSError, ValueError) as error:
        raise _unusable(f'its table of device guards cannot be reached: {error}') from error


def _unusable(reason: str) -> GuardError:
    return GuardError(
        f'torch {torch.__version__} cannot pretend to have a CUDA device: {reason}. Install an '
        'official Linux or macOS wheel of torch 2.3 or newer, or use a strategy that needs no '
        'transparent device'
    )


def put() -> int | None:
    """Put the guard in the CUDA slot and give what was there; ``GuardError`` where it cannot."""
    table = _table()
    if not table[META_SLOT]:
        raise _unusable('it has no guard of the meta device')
    before: int | None = table[CUDA_SLOT]
    table[CUDA_SLOT] = table[META_SLOT]
    return before


def restore(before: int | None) -> None:
    """Put back what :func:`put` gave."""
    _table()[CUDA_SLOT] = before


class _NoServer:
    """A device without values: enough to see whether torch takes its tensors."""

    def __init__(self) -> None:
        self.freed: deque[int] = deque()

    def call(self, func: OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func._schema.is_mutable:
            return args[0]
        given = tree_map(_on_meta, (args, {**kwargs, 'device': torch.device('meta')}))
        if all(argument.name != 'device' for argument in func._schema.arguments):
            del given[1]['device']
        return remote(HandleOwner(0, self.freed), meta_of(func(*given[0], **given[1])))


def _on_meta(each: Any) -> Any:
    if not isinstance(each, RemoteTensor):
        return each
    shape, stride, offset, dtype = each._meta
    return torch.empty(0, dtype=dtype, device='meta').as_strided(shape, stride, offset)


def check() -> None:
    """``GuardError`` unless indexing a tensor of the device works; the shim must be in place. Does
    not use the device itself, which may not be there yet."""
    device = current()
    bind(_NoServer())  # type: ignore[arg-type]
    try:
        _check()
    finally:
        bind(device)


def _check() -> None:
    try:
        tensor = torch.empty(2, 3, device='cuda:0')
        inner = tensor[1:, 0]
        inner[0] = 1
        found = (tensor.device.type, tuple(inner.shape), inner.stride())
    except Exception as error:
        raise _unusable(f'the check of its device guard failed: {error}') from error
    if found != ('cuda', (1,), (3,)):
        raise _unusable(f'the check of its device guard gave {found}')
