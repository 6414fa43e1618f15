"""The ways to and from the device that do not reach the dispatcher as they should.

``'cuda'`` without an index would make torch ask the device guard which device is current, and
``torch.tensor(..., device='cuda')`` fills its memory without dispatching.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import overrides
from torch.utils import _device as default_device

from offload_ros.rrto.shim.classify import checked_device
from offload_ros.rrto.shim.patches import Patches
from offload_ros.rrto.shim.tensor import DEVICE, RemoteTensor, assign_data, share

_function_modes: Any = overrides._get_current_function_mode_stack
_plain_data: Any = torch._C.TensorBase.data
_plain_to: Any = torch._C.TensorBase.to
_plain_is_pinned: Any = torch._C.TensorBase.is_pinned
_plain_type: Any = torch._C.TensorBase.type
_PINNED = '_is_pinned_for_offload'

# Copied to the CPU first, then moved.
_BUILT_ON_CPU = ('tensor', 'as_tensor', 'asarray')
_FACTORIES = [
    'empty',
    'empty_strided',
    'zeros',
    'ones',
    'full',
    'rand',
    'randn',
    'randint',
    'arange',
    'eye',
    'linspace',
    'logspace',
    'empty_like',
    'zeros_like',
    'ones_like',
    'full_like',
    'rand_like',
    'randn_like',
]


_KNOWN: dict[Any, torch.device] = {
    'cpu': torch.device('cpu'),
    torch.device('cpu'): torch.device('cpu'),
    'cuda': DEVICE,
    'cuda:0': DEVICE,
    torch.device('cuda'): DEVICE,
    DEVICE: DEVICE,
}


def indexed(device: Any) -> Any:
    """``device`` (str, int, ``torch.device`` or None) with an index where it is of CUDA."""
    if device is None:
        return None
    known = _KNOWN.get(device)
    if known is not None:
        return known
    found = torch.device('cuda', device) if isinstance(device, int) else torch.device(device)
    return checked_device(found)


def _to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    if args and type(args[0]) in _DEVICE_TYPES:
        args = (indexed(args[0]), *args[1:])
    if kwargs:
        device = kwargs.get('device')
        if device is not None:
            kwargs['device'] = indexed(device)
    return _plain_to(self, *args, **kwargs)  # type: ignore[no-any-return]


_DEVICE_TYPES = frozenset({str, int, torch.device})


def _cuda(
    self: torch.Tensor,
    device: Any = None,
    non_blocking: bool = False,
    memory_format: torch.memory_format = torch.preserve_format,
) -> torch.Tensor:
    target = indexed('cuda' if device is None else device)
    if target.type != 'cuda':
        raise RuntimeError(f'Invalid device, must be cuda device but got {target}')
    return _plain_to(  # type: ignore[no-any-return]
        self, target, non_blocking=non_blocking, memory_format=memory_format
    )


_CUDA_TYPE = 'torch.cuda.'


def _type(self: torch.Tensor, dtype: Any = None, non_blocking: bool = False, **_: Any) -> Any:
    name = dtype if isinstance(dtype, str) else getattr(dtype, 'legacy_name', '')
    if name.startswith(_CUDA_TYPE):
        wanted = dtype_of_legacy_name(name)
        return _plain_to(self, DEVICE, wanted, non_blocking=non_blocking)
    if dtype is None and isinstance(self, RemoteTensor):
        return legacy_name(self.dtype)
    return _plain_type(self, dtype, non_blocking)


_LEGACY_NAMES = {
    torch.float32: 'FloatTensor',
    torch.float64: 'DoubleTensor',
    torch.float16: 'HalfTensor',
    torch.bfloat16: 'BFloat16Tensor',
    torch.uint8: 'ByteTensor',
    torch.int8: 'CharTensor',
    torch.int16: 'ShortTensor',
    torch.int32: 'IntTensor',
    torch.int64: 'LongTensor',
    torch.bool: 'BoolTensor',
}
_LEGACY_DTYPES = {name: dtype for dtype, name in _LEGACY_NAMES.items()}


def legacy_name(dtype: torch.dtype) -> str:
    """``'torch.cuda.FloatTensor'`` for float32."""
    return _CUDA_TYPE + _LEGACY_NAMES.get(dtype, 'Tensor')


def dtype_of_legacy_name(name: str) -> torch.dtype:
    """The dtype of ``'torch.cuda.FloatTensor'``; ``ValueError`` for another name."""
    dtype = _LEGACY_DTYPES.get(name.removeprefix(_CUDA_TYPE))
    if dtype is None:
        raise ValueError(f"invalid type: '{name}'")
    return dtype


class LegacyType(type):
    """Type of ``torch.cuda.FloatTensor`` and its like."""

    dtype: torch.dtype
    legacy_name: str

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        plain = getattr(torch, cls.legacy_name.removeprefix(_CUDA_TYPE))
        if len(args) == 1 and isinstance(args[0], RemoteTensor):
            if args[0].dtype is not cls.dtype:
                raise TypeError(f'expected {cls.legacy_name} (got {legacy_name(args[0].dtype)})')
            return share(args[0])
        kwargs.pop('device', None)
        return _plain_to(plain(*args, **kwargs), DEVICE)

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, RemoteTensor) and instance.dtype is cls.dtype


def legacy_types() -> dict[str, LegacyType]:
    """``FloatTensor`` and its like for ``torch.cuda``."""
    return {
        name: LegacyType(
            name, (), {'dtype': dtype, 'legacy_name': _CUDA_TYPE + name, '__module__': 'torch.cuda'}
        )
        for dtype, name in _LEGACY_NAMES.items()
    }


def _get_data(self: torch.Tensor) -> torch.Tensor:
    return _plain_data.__get__(self)  # type: ignore[no-any-return]


def _set_data(self: torch.Tensor, value: torch.Tensor) -> None:
    if isinstance(value, RemoteTensor):
        assign_data(self, value)
    else:
        _plain_data.__set__(self, value)


def _pin_memory(self: torch.Tensor, device: Any = None) -> torch.Tensor:
    """Pinned memory speeds a copy up and changes no value: a copy that says it is pinned."""
    if isinstance(self, RemoteTensor):
        kind = legacy_name(self.dtype)
        raise RuntimeError(f"cannot pin '{kind}' only dense CPU tensors can be pinned")
    if _PINNED in self.__dict__:
        return self
    copy = self.clone(memory_format=torch.preserve_format)
    copy.__dict__[_PINNED] = True
    return copy


def _is_pinned(self: torch.Tensor, device: Any = None) -> bool:
    return _PINNED in self.__dict__


def _factory(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    def build(*args: Any, **kwargs: Any) -> torch.Tensor:
        if not kwargs.get('pin_memory'):
            tensor = factory(*args, **kwargs)
            if type(tensor) is RemoteTensor and kwargs.get('requires_grad'):
                tensor.requires_grad_(True)  # a mark, instead of the flag that torch has set
            return tensor
        kwargs['pin_memory'] = False
        tensor = factory(*args, **kwargs)
        tensor.__dict__[_PINNED] = True
        return tensor

    return _named(build, factory)  # type: ignore[no-any-return]


def _named(function: Any, original: Any) -> Any:
    function.__name__ = original.__name__
    function.__doc__ = original.__doc__
    function.__wrapped__ = original
    return function


def default_of_factories() -> torch.device | None:
    """The device that ``torch.set_default_device`` or ``with torch.device(...)`` asks for."""
    for mode in reversed(_function_modes()):
        if isinstance(mode, default_device.DeviceContext):
            return mode.device  # type: ignore[no-any-return]
    return None


def _built_on_cpu(builder: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    keeps = builder is not torch.tensor

    def build(data: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        device = kwargs.pop('device', None)
        if device is None and len(args) > 1:  # as_tensor(data, dtype, device)
            device, args = args[1], args[:1]
        if device is None and not isinstance(data, torch.Tensor):
            device = default_of_factories()
        device = indexed(device)
        if isinstance(data, RemoteTensor):
            dtype = kwargs.get('dtype', args[0] if args else None) or data.dtype
            copy = kwargs.get('copy', not keeps) is True
            moved = _plain_to(data, device or DEVICE, dtype, copy=copy)
            marked = kwargs.get('requires_grad')
            return moved.requires_grad_(True) if marked else share_of(moved, data, keeps)
        if device is None or device.type != 'cuda':
            if device is not None:
                kwargs['device'] = device
            return builder(data, *args, **kwargs)
        marked = kwargs.pop('requires_grad', False)
        pinned = kwargs.pop('pin_memory', False)
        if pinned:
            raise RuntimeError('Only dense CPU tensors can be pinned')
        built = _plain_to(builder(data, *args, device='cpu', **kwargs), DEVICE)
        return built.requires_grad_(True) if marked else built  # type: ignore[no-any-return]

    return _named(build, builder)  # type: ignore[no-any-return]


def share_of(moved: torch.Tensor, data: torch.Tensor, keeps: bool) -> torch.Tensor:
    """``as_tensor`` gives its very argument where nothing changes; ``tensor`` never does."""
    return moved if keeps or moved is not data else moved.clone()


def _new_tensor(self: torch.Tensor, data: Any, **kwargs: Any) -> torch.Tensor:
    if kwargs.get('dtype') is None:
        kwargs['dtype'] = self.dtype
    if kwargs.get('device') is None:
        kwargs['device'] = DEVICE
    return torch.tensor(data, **kwargs)


def apply(patches: Patches) -> None:
    """Put all of this in place."""
    tensor = torch.Tensor
    patches.set(tensor, 'to', _named(_to, _plain_to))
    patches.set(tensor, 'cuda', _named(_cuda, torch._C.TensorBase.cuda))
    patches.set(tensor, 'type', _named(_type, _plain_type))
    patches.set(tensor, 'data', property(_get_data, _set_data))
    patches.set(tensor, 'pin_memory', _named(_pin_memory, torch._C.TensorBase.pin_memory))
    patches.set(tensor, 'is_pinned', _named(_is_pinned, _plain_is_pinned))
    patches.set(RemoteTensor, 'new_tensor', _new_tensor)

    constructors = default_device._device_constructors()  # cached: holds torch's own functions
    for name in _BUILT_ON_CPU:
        original = getattr(torch, name)
        # Else the default device would be asked for behind the back of the function put here.
        constructors.discard(original)
        patches.on_undo(lambda original=original: constructors.add(original))  # type: ignore[misc]
        patches.set(torch, name, _built_on_cpu(original))
    for name in _FACTORIES:
        patches.set(torch, name, _factory(getattr(torch, name)))
