"""Values of a device tensor where a program asks for them in Python: text, lists, numbers."""

from __future__ import annotations

from collections.abc import Callable
import threading
from typing import Any

import torch

from offload_ros.rrto.shim.patches import Patches
from offload_ros.rrto.shim.tensor import DEVICE, RemoteTensor, current

_TO_NUMPY = (
    "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to "
    'host memory first.'
)
_NO_EXPORT = (
    'the memory of an offloaded tensor is on another machine and cannot be shared (DLPack, '
    '__cuda_array_interface__): copy it with Tensor.cpu() first'
)
_str: Any = torch._tensor_str._str
_printed = threading.local()  # suffixes of the device tensor that this thread prints
_to_dlpack: Any = torch._C._to_dlpack  # type: ignore[attr-defined]
BASE_ADDRESS = 0x7F00_0000_0000
ADDRESS_STEP = 512  # CUDA's alignment


def _text(tensor: RemoteTensor, contents: str | None = None) -> str:
    """The text that torch prints for a CUDA tensor: that of its values, and the device."""
    values = current().read(tensor)
    _printed.first = [f"device='{DEVICE}'"] if torch._C._get_default_device() != 'cuda' else []
    _printed.last = ['requires_grad=True'] if tensor.requires_grad else []
    try:
        text: str = _str(values, tensor_contents=contents)
    finally:
        _printed.first = _printed.last = None
    if isinstance(tensor, torch.nn.Parameter):
        text = 'Parameter containing:\n' + text
    return text


def _with_device(add_suffixes: Callable[..., str]) -> Callable[..., str]:
    def add(text: str, suffixes: list[str], indent: int, force_newline: bool) -> str:
        if getattr(_printed, 'first', None) is not None:
            suffixes = [*_printed.first, *suffixes, *_printed.last]
        return add_suffixes(text, suffixes, indent, force_newline)

    return add


def _repr(self: RemoteTensor, *, tensor_contents: str | None = None) -> str:
    return _text(self, tensor_contents)


def _format(self: RemoteTensor, format_spec: str) -> str:
    if self.dim() == 0:
        text: str = self.item().__format__(format_spec)
        return text
    return object.__format__(self, format_spec)


def _tolist(self: RemoteTensor) -> Any:
    return current().read(self).tolist()


def _numpy(self: RemoteTensor, *, force: bool = False) -> Any:
    if not force:
        raise TypeError(_TO_NUMPY)
    return current().read(self).numpy()


def _array(self: RemoteTensor, dtype: Any = None, copy: Any = None) -> Any:
    raise TypeError(_TO_NUMPY)


def _refuse_export(*_: Any, **__: Any) -> Any:
    raise BufferError(_NO_EXPORT)


def _no_interface(self: RemoteTensor) -> Any:
    raise AttributeError(_NO_EXPORT)


def _data_ptr(self: RemoteTensor) -> int:
    """An address that no other handle has; not one that can be read."""
    if self.numel() == 0:
        return 0
    op, output = divmod(self._h, 1 << 16)
    return BASE_ADDRESS + ((op << 8 | output & 0xFF) + 1) * ADDRESS_STEP


def _export_checked(export: Callable[..., Any]) -> Callable[..., Any]:
    def checked(tensor: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(tensor, RemoteTensor):
            raise BufferError(_NO_EXPORT)
        return export(tensor, *args, **kwargs)

    return checked


def apply(patches: Patches) -> None:
    """Put all of this in place."""
    for name, method in {
        '__repr__': _repr,
        '__format__': _format,
        'tolist': _tolist,
        'numpy': _numpy,
        '__array__': _array,
        '__dlpack__': _refuse_export,
        '__dlpack_device__': _refuse_export,
        '__dlpack_c_exchange_api__': None,  # the C entry would read its null address
        '__cuda_array_interface__': property(_no_interface),
        'data_ptr': _data_ptr,
    }.items():
        patches.set(RemoteTensor, name, method)
    text = torch._tensor_str
    patches.set(text, '_add_suffixes', _with_device(text._add_suffixes))
    for name in ('_to_dlpack', '_to_dlpack_versioned'):
        export = getattr(torch._C, name, None)
        if export is not None:
            patches.set(torch._C, name, _export_checked(export))
    for holder in (torch, torch.utils.dlpack):
        patches.set_existing(holder, 'to_dlpack', _export_checked(_to_dlpack))
