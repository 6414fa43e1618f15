"""``torch.save``, ``torch.load`` and copies: files are real CUDA checkpoints.

A tensor of the device is saved as its values with the location tag ``cuda:0``, so that any torch
reads the file. Loading to ``cuda`` uploads every storage once; tensors that share it share it on
the server too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
import copy
import functools
import threading
from typing import Any

import torch
from torch import _weights_only_unpickler
from torch.serialization import _package_registry, register_package

from offload_ros.rrto.shim.classify import checked_device
from offload_ros.rrto.shim.patches import Patches
from offload_ros.rrto.shim.tensor import (
    DEVICE,
    PRIVATE_ATTRIBUTES,
    RemoteTensor,
    current,
    share,
)

_MARK = '_offloaded_location'
_UPLOADED = '_offloaded_tensor'
_dtypes_of_storages: Any = torch.storage._dtype_to_storage_type_map
_TypedStorage: Any = torch.TypedStorage
_saving = threading.local()  # what this thread's torch.save has read: handle -> values
_PRIORITY = 5  # before torch's own packages (10 and more)
_plain_storage: Any = torch._C.TensorBase.untyped_storage


def _tag(storage: Any) -> str | None:
    """The location that a marked CPU storage stands for."""
    return str(DEVICE) if hasattr(_untyped(storage), _MARK) else None


def _restore(storage: Any, location: str) -> Any:
    """Mark a storage that a file or ``map_location`` says is on CUDA."""
    if not location.startswith('cuda'):
        return None
    checked_device(torch.device(location))
    setattr(_untyped(storage), _MARK, True)
    return storage


def _untyped(storage: Any) -> Any:
    return storage._untyped_storage if isinstance(storage, torch.TypedStorage) else storage


def _reduce(self: RemoteTensor, protocol: int) -> Any:
    """As torch pickles a CUDA tensor."""
    if isinstance(self, torch.nn.Parameter):
        return torch._utils._rebuild_parameter, (share(self), self.requires_grad, OrderedDict())
    read: dict[int, torch.Tensor] | None = getattr(_saving, 'read', None)
    read = {} if read is None else read
    values = read.get(self._h)
    if values is None or values.shape != self.shape or values.stride() != self.stride():
        values = read[self._h] = current().read(self)
    storage = values.untyped_storage()
    setattr(storage, _MARK, True)
    layout = (values.storage_offset(), tuple(values.shape), values.stride())
    rest: tuple[Any, ...] = (self.requires_grad, OrderedDict())
    if values.dtype not in _dtypes_of_storages():
        untyped = _TypedStorage(wrap_storage=storage, dtype=torch.uint8, _internal=True)
        return torch._utils._rebuild_tensor_v3, (untyped, *layout, *rest, values.dtype)
    typed = _TypedStorage(wrap_storage=storage, dtype=values.dtype, _internal=True)
    return torch._utils._rebuild_tensor_v2, (typed, *layout, *rest)


def _saved_once(save: Callable[..., None]) -> Callable[..., None]:
    """``torch.save``: a tensor that occurs twice, as tied weights do, is written once."""

    def save_once(*args: Any, **kwargs: Any) -> None:
        _saving.read = {}
        try:
            save(*args, **kwargs)
        finally:
            _saving.read = None

    save_once.__doc__ = save.__doc__
    return save_once


def _attributes(tensor: torch.Tensor) -> dict[str, Any]:
    return {name: each for name, each in vars(tensor).items() if name not in PRIVATE_ATTRIBUTES}


def _deepcopy(self: RemoteTensor, memo: dict[int, Any]) -> RemoteTensor:
    if id(self) in memo:
        return memo[id(self)]  # type: ignore[no-any-return]
    with torch.no_grad():
        result: Any = self.detach().clone()
    if isinstance(self, torch.nn.Parameter):
        result = torch.nn.Parameter(result, requires_grad=self.requires_grad)
    else:
        result.requires_grad_(self.requires_grad)
    memo[id(self)] = result
    result.__dict__.update(copy.deepcopy(_attributes(self), memo))
    return result  # type: ignore[no-any-return]


def _copy(self: RemoteTensor) -> RemoteTensor:
    result: Any = share(self)
    if isinstance(self, torch.nn.Parameter):
        result = torch.nn.Parameter(result, requires_grad=self.requires_grad)
    else:
        result.requires_grad_(self.requires_grad)
    result.__dict__.update(_attributes(self))
    return result  # type: ignore[no-any-return]


class RemoteStorage(torch.UntypedStorage):
    """Storage of a device tensor, for programs that ask whether tensors share theirs."""

    _tensor: RemoteTensor
    _bytes: int

    def __new__(cls, tensor: RemoteTensor) -> RemoteStorage:
        storage: Any = torch.UntypedStorage.__new__(cls, 0)  # type: ignore[call-arg]
        storage._tensor = tensor
        storage._bytes = _plain_storage(tensor).nbytes()
        return storage  # type: ignore[no-any-return]

    def __init__(self, tensor: RemoteTensor) -> None:
        """All is set in ``__new__``."""

    device = DEVICE  # type: ignore[assignment]
    is_cuda = True  # type: ignore[assignment]

    def data_ptr(self) -> int:
        """The same for tensors of one handle, another one for every other."""
        return self._tensor.data_ptr()

    def nbytes(self) -> int:
        """Bytes on the device."""
        return self._bytes

    size = nbytes

    def __len__(self) -> int:
        return self._bytes

    def cpu(self) -> torch.UntypedStorage:
        """The whole storage as one on the CPU."""
        itemsize = self._tensor.dtype.itemsize
        whole = self._tensor.detach().as_strided((self._bytes // itemsize,), (1,), 0)
        return current().read(whole).untyped_storage()  # type: ignore[arg-type]

    def tolist(self) -> list[int]:
        """Its bytes."""
        return list(bytes(self.cpu()))


def _untyped_storage(self: RemoteTensor) -> RemoteStorage:
    return RemoteStorage(self)


def _storage_to_cuda(self: Any, device: Any = None, non_blocking: bool = False) -> Any:
    """``storage.cuda()``, as ``map_location=lambda storage, _: storage.cuda()`` wants it."""
    copied = self.clone()
    setattr(copied, _MARK, True)
    return copied


def _on_device(
    untyped: Any, dtype: torch.dtype, offset: int, size: Any, stride: Any
) -> torch.Tensor:
    whole = getattr(untyped, _UPLOADED, None)
    if whole is None:
        count = untyped.nbytes() // dtype.itemsize
        on_cpu = torch.empty(0, dtype=dtype, device='cpu').set_(untyped, 0, (count,), (1,))
        whole = on_cpu.to(DEVICE)
        setattr(untyped, _UPLOADED, whole)
    if whole.dtype != dtype:
        whole = whole.view(dtype)
    return whole.as_strided(size, stride, offset)  # type: ignore[no-any-return]


def _rebuild(rebuild: Any) -> Any:
    """``torch._utils._rebuild_tensor`` that makes device tensors of marked storages."""

    @functools.wraps(rebuild)
    def build(storage: Any, offset: int, size: Any, stride: Any) -> Any:
        untyped = _untyped(storage)
        if hasattr(untyped, _MARK):
            return _on_device(untyped, storage.dtype, offset, size, stride)
        return rebuild(storage, offset, size, stride)

    return build


def _rebuild_v3(rebuild: Any) -> Any:
    """The same for dtypes without a storage class of their own, e.g. uint16."""

    @functools.wraps(rebuild)
    def build(
        storage: Any,
        offset: int,
        size: Any,
        stride: Any,
        requires_grad: bool,
        hooks: Any,
        dtype: torch.dtype,
        *metadata: Any,
    ) -> Any:
        untyped = _untyped(storage)
        if hasattr(untyped, _MARK):
            tensor = _on_device(untyped, dtype, offset, size, stride)
            return tensor.requires_grad_(requires_grad)
        return rebuild(storage, offset, size, stride, requires_grad, hooks, dtype, *metadata)

    return build


def apply(patches: Patches) -> None:
    """Put all of this in place."""
    entry = (_PRIORITY, _tag, _restore)
    register_package(*entry)
    patches.on_undo(lambda: _package_registry.remove(entry))
    utils = torch._utils
    patches.set(utils, '_rebuild_tensor', _rebuild(utils._rebuild_tensor))
    patches.set(utils, '_rebuild_tensor_v3', _rebuild_v3(utils._rebuild_tensor_v3))
    # The weights-only unpickler keeps what it has found in torch._utils.
    forget = getattr(_weights_only_unpickler._get_allowed_globals, 'cache_clear', lambda: None)
    forget()
    patches.on_undo(forget)
    for name, method in {
        '__reduce_ex__': _reduce,
        '__deepcopy__': _deepcopy,
        '__copy__': _copy,
        'untyped_storage': _untyped_storage,
    }.items():
        patches.set(RemoteTensor, name, method)
    save = _saved_once(torch.serialization.save)
    for holder in (torch, torch.serialization):
        patches.set(holder, 'save', save)
    patches.set(torch.UntypedStorage, 'cuda', _storage_to_cuda)
