"""Calls that are answered, or put into another form, without the device."""

from __future__ import annotations

from typing import Any

import torch

from offload_ros.rrto.shim import autocast
from offload_ros.rrto.shim.classify import must_decompose
from offload_ros.rrto.shim.composites import SHORTCUTS
from offload_ros.rrto.shim.tensor import Action, RemoteTensor, call, share

aten = torch.ops.aten
_LIKE = [
    'empty_like',
    'zeros_like',
    'ones_like',
    'full_like',
    'rand_like',
    'randn_like',
    'randint_like',
    'new_empty',
    'new_empty_strided',
    'new_full',
    'new_zeros',
    'new_ones',
]
_METADATA_CHANGERS = frozenset({'aten::resize_', 'aten::resize_as_', 'aten::set_'})


def action_of(func: Any) -> Action | None:
    """How ``func`` is answered here; None: the device gets the raw call."""
    action = _LOCAL.get(func)
    if action is not None:
        return action
    if must_decompose(func):
        shortcut: Action = SHORTCUTS.get(func, autocast.decompose)
        return shortcut
    if autocast.needs_cast(func):
        return autocast.cast_and_call
    if torch.Tag.inplace_view in func.tags or func._schema.name in _METADATA_CHANGERS:
        return _change_metadata
    return None


def _detach(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return share(args[0])


def _itself(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0]


def _true(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return True


def _false(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return False


def _nothing(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    return None


def _conj(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    # Torch's lazy conjugate is a bit of the tensor that this one would not know of.
    return call(aten._conj_physical.default, args, {})


def _negative(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return call(aten.neg.default, args, {})


def _is_same_size(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    one, other = args
    return bool(one.shape == other.shape)


def _change_metadata(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``t_``, ``resize_``, ...: a tensor that shares its handle gets one of its own first, since
    the others keep their shape."""
    target = args[0]
    if isinstance(target, RemoteTensor) and target._owner.shared:
        alias = call(aten.alias.default, (target,), {})
        target._owner, target._h = alias._owner, alias._h
    return call(func, args, kwargs)


def _like(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """``new_zeros(..., device='cpu')`` needs only the metadata of its input."""
    device = kwargs.get('device')
    if device is None or device.type == 'cuda' or not isinstance(args[0], RemoteTensor):
        return call(func, args, kwargs)
    meta = args[0]._meta
    stand_in = torch.empty_strided(meta.shape, meta.stride, dtype=meta.dtype, device=device)
    return func(stand_in, *args[1:], **kwargs)


def _to_copy(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    device = kwargs.get('device')
    if device is not None and device.type not in ('cpu', 'cuda'):  # meta
        meta = args[0]._meta
        stand_in = torch.empty_strided(meta.shape, meta.stride, dtype=meta.dtype, device=device)
        return func(stand_in, **kwargs)
    return call(func, args, kwargs)


def _pack_padded_sequence(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    # Torch's own kernel for every device: slices and a cat of the input; the lengths and the batch
    # sizes that it gives are on the CPU.
    kernel = torch._C.DispatchKey.CompositeExplicitAutograd
    return func._op_dk(kernel, *args, **kwargs)


def _overloads(names: list[str]) -> list[Any]:
    packets = [getattr(aten, name) for name in names if hasattr(aten, name)]
    return [
        getattr(packet, overload)
        for packet in packets
        for overload in packet.overloads()
        if not overload.endswith('out')
    ]


_LOCAL: dict[Any, Action] = {
    aten._conj.default: _conj,
    aten._neg_view.default: _negative,
    aten._has_compatible_shallow_copy_type.default: _true,
    aten._pack_padded_sequence.default: _pack_padded_sequence,
    aten._to_copy.default: _to_copy,
    aten.detach.default: _detach,
    aten.detach_.default: _itself,
    aten.is_pinned.default: _false,
    aten.is_same_size.default: _is_same_size,
    aten.lift_fresh.default: _detach,
    aten.record_stream.default: _nothing,
    **dict.fromkeys(_overloads(_LIKE), _like),
}
