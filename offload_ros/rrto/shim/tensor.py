"""The tensor that a program holds instead of one on a CUDA device."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
import gc
from typing import Any

import torch

from offload_ros.rrto.metadata import TensorMeta
from offload_ros.rrto.shim.device import NOT_INSTALLED, Device, NoDevice

DEVICE = torch.device('cuda', 0)
Action = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]

_make = torch.Tensor._make_wrapper_subclass  # type: ignore[attr-defined]
_inference = torch.is_inference_mode_enabled
_InferenceMode: Any = torch._C._InferenceMode  # type: ignore[attr-defined]
_swap_tensor_impl: Any = torch._C._swap_tensor_impl  # type: ignore[attr-defined]
_STRIDED = torch.strided
_plain_data: Any = torch._C.TensorBase.data
_plain_requires_grad: Any = torch._C.TensorBase.requires_grad
_plain_grad: Any = torch._C.TensorBase.grad  # type: ignore[attr-defined]


class HandleOwner:
    """Life of one handle: when the last tensor that holds this dies, the handle is free."""

    __slots__ = ('freed', 'handle', 'shared')

    def __init__(self, handle: int, freed: deque[int]) -> None:
        self.handle = handle
        self.freed = freed
        self.shared = False  # more than one tensor has had this handle

    def __del__(self) -> None:
        # May run anywhere, also inside a dispatch and in another thread: nothing but an append.
        self.freed.append(self.handle)


class _HandleOfOwner:
    """The handle of a tensor that has none written into it: that of its owner."""

    def __get__(self, tensor: Any, kind: Any = None) -> int:
        return tensor._owner.handle  # type: ignore[no-any-return]


class RemoteTensor(torch.Tensor):
    """Metadata and handle of a tensor on the server; claims to be on ``cuda:0``.

    ``_h``: handle (int). ``_meta``: its ``TensorMeta``. ``_owner``: frees the handle; tensors that
    are the same tensor for the server (``x.data``, ``Parameter(x)``) share it.

    Gradients are not recorded: ``requires_grad`` is a mere mark, kept for programs that read it.
    """

    _h: int = _HandleOfOwner()  # type: ignore[assignment]
    _meta: TensorMeta
    _owner: HandleOwner

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # By identity: an operator is one object for ever, and its own hash is a Python function.
        action = _actions.get(id(func), _first_time)
        if action is None:
            return _call(func, args, kwargs or {})
        return action(func, args, kwargs or {})

    @property
    def data(self) -> torch.Tensor:  # type: ignore[override]
        """As of any tensor: the same values without the mark of gradients."""
        return share(self)

    @data.setter
    def data(self, value: torch.Tensor) -> None:
        assign_data(self, value)

    @property
    def requires_grad(self) -> bool:  # type: ignore[override]
        """Whether the program marked this tensor so."""
        marked: bool = self.__dict__.get('_marked') or _plain_requires_grad.__get__(self)
        return marked

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    @property
    def grad(self) -> torch.Tensor | None:  # type: ignore[override]
        """What the program has put there."""
        return _plain_grad.__get__(self)  # type: ignore[no-any-return]

    @grad.setter
    def grad(self, value: torch.Tensor | None) -> None:
        self.__dict__['_has_had_grad'] = True
        _plain_grad.__set__(self, value)

    @grad.deleter
    def grad(self) -> None:
        _plain_grad.__set__(self, None)

    def requires_grad_(self, requires_grad: bool = True) -> RemoteTensor:  # type: ignore[override]
        """Mark this tensor; ``RuntimeError`` for a dtype that has no gradients."""
        dtype = self.dtype
        if requires_grad and not (dtype.is_floating_point or dtype.is_complex):
            raise RuntimeError(
                'only Tensors of floating point and complex dtype can require gradients'
            )
        if _plain_requires_grad.__get__(self):
            _plain_requires_grad.__set__(self, False)
        self.__dict__['_marked'] = bool(requires_grad)
        return self


# Filled by `local` and, operator by operator, on first use. None: hand the call to the device.
_actions: dict[int, Action | None] = {}
_kept: list[Any] = []  # operators whose id is a key above must not die
_device: Device = NoDevice(NOT_INSTALLED)


def _refuse(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return _device.call(func, args, kwargs)  # a NoDevice: its attribute raises


def _no_action(func: Any) -> Action | None:
    return None


_call: Action = _refuse
_classify: Callable[[Any], Action | None] = _no_action


def bind(device: Device, classify: Callable[[Any], Action | None] | None = None) -> None:
    """Send everything to ``device``; ``classify`` gives the local answer to an operator or None."""
    global _device, _call, _classify
    _device = device
    _call = device.call if not isinstance(device, NoDevice) else _refuse
    if classify is not None:
        _classify = classify
        _actions.clear()
        _kept.clear()


def current() -> Device:
    """The device that operators go to."""
    return _device


def call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Hand one operator to the device."""
    return _call(func, args, kwargs)


def _first_time(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    action = _classify(func)
    _kept.append(func)
    _actions[id(func)] = action
    return (action or _call)(func, args, kwargs)


def remote(owner: HandleOwner, meta: TensorMeta) -> RemoteTensor:
    """A tensor for the handle of ``owner``.

    Also inside inference mode it is a normal tensor: one made as an inference tensor could not be
    the view of a normal one.
    """
    tensor = _wrapper(meta)
    tensor._owner = owner
    tensor._h = owner.handle
    tensor._meta = meta
    return tensor


def in_advance(owner: HandleOwner, meta: TensorMeta) -> RemoteTensor:
    """As ``remote``; its handle is what the owner's is at any time."""
    tensor = _wrapper(meta)
    tensor._owner = owner
    tensor._meta = meta
    return tensor


def _wrapper(meta: TensorMeta) -> RemoteTensor:
    shape, stride, offset, dtype = meta
    # By position, which saves a fifth: strides, offset, memory format, dtype, layout, device.
    if _inference():
        with _InferenceMode(False):
            made = _make(RemoteTensor, shape, stride, offset, None, dtype, _STRIDED, DEVICE)
    else:
        made = _make(RemoteTensor, shape, stride, offset, None, dtype, _STRIDED, DEVICE)
    return made  # type: ignore[no-any-return]


def share(tensor: RemoteTensor) -> RemoteTensor:
    """Another tensor with the same handle."""
    owner = tensor._owner
    owner.shared = True
    return remote(owner, tensor._meta)


def set_metadata(tensor: RemoteTensor, meta: TensorMeta) -> None:
    """Give ``tensor`` the metadata that an operator has left it with (``t_``, ``resize_``,
    ``out=``)."""
    _plain_data.__set__(tensor, remote(tensor._owner, meta))
    tensor._meta = meta


def adopt(tensor: RemoteTensor, source: RemoteTensor) -> None:
    """Make ``tensor`` the same tensor for the server as ``source``; it stays the same object."""
    source._owner.shared = True
    _plain_data.__set__(tensor, share(source))
    tensor._owner, tensor._h, tensor._meta = source._owner, source._h, source._meta


def assign_data(tensor: torch.Tensor, value: torch.Tensor) -> None:
    """``tensor.data = value`` where at least one of them is a ``RemoteTensor``.

    Also between the devices, as ``module.to`` and ``p.data = p.data.cuda()`` do it: then the object
    keeps its identity (ties and references of optimisers hold) and changes its class.
    """
    if not isinstance(value, torch.Tensor):
        raise TypeError(f'Variable data has to be a tensor, but got {type(value).__name__}')
    if isinstance(tensor, RemoteTensor) and isinstance(value, RemoteTensor):
        adopt(tensor, value)
        return
    marked = tensor.requires_grad
    is_param = isinstance(tensor, torch.nn.Parameter)
    attributes = {
        name: each for name, each in tensor.__dict__.items() if name not in PRIVATE_ATTRIBUTES
    }
    fresh: torch.Tensor = share(value) if isinstance(value, RemoteTensor) else value.detach()
    if is_param:
        fresh = torch.nn.Parameter(fresh, requires_grad=marked)
    else:
        fresh.requires_grad_(marked)
    fresh.__dict__.update(attributes)
    _swap(tensor, fresh)


def _swap(tensor: torch.Tensor, fresh: torch.Tensor) -> None:
    """Exchange the contents of two Python objects.

    As ``torch.utils.swap_tensors``, without its refusals, which guard a later backward: a program
    may still hold what it computed with the tensor on the other device.
    """
    try:
        _swap_tensor_impl(tensor, fresh)
    except RuntimeError:
        gc.collect()
        try:
            _swap_tensor_impl(tensor, fresh)
        except RuntimeError as error:  # an older torch
            raise RuntimeError(
                f'torch {torch.__version__} cannot move this tensor while results that were '
                'computed with it in grad mode are alive: delete them, or compute them under '
                f'torch.no_grad() ({error})'
            ) from error
    tensor.__class__, fresh.__class__ = fresh.__class__, tensor.__class__
    tensor.__dict__, fresh.__dict__ = fresh.__dict__, tensor.__dict__


PRIVATE_ATTRIBUTES = frozenset({'_h', '_meta', '_owner', '_marked', '_is_param', '_has_had_grad'})
