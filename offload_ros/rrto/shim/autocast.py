"""``torch.autocast('cuda')`` for calls that torch hands over whole.

Autocast acts on what composites are made of, but while a call is dispatched to Python torch hides
that it is on. So the switch itself is watched, per thread.
"""

from __future__ import annotations

from collections.abc import Callable
import threading
from typing import Any

import torch
from torch.utils._pytree import tree_map

from offload_ros.rrto.shim.classify import name_of
from offload_ros.rrto.shim.patches import Patches
from offload_ros.rrto.shim.tensor import RemoteTensor, call

# Whole on the server, without a rule of their own in autocast: their parts would be cast.
CAST = frozenset('conv1d conv2d conv3d lstm gru rnn_tanh rnn_relu'.split())
_KEY: Any = torch._C.DispatchKey.AutocastCUDA
_exclude: Callable[[Any, bool], None] = torch._C._dispatch_tls_set_dispatch_key_excluded
_switch = threading.local()


def is_enabled() -> bool:
    """Whether this thread is inside ``torch.autocast('cuda')``; also right while dispatching."""
    return getattr(_switch, 'on', False)


def dtype() -> torch.dtype:
    """What autocast computes in."""
    if hasattr(torch, 'get_autocast_dtype'):
        return torch.get_autocast_dtype('cuda')
    return torch.get_autocast_gpu_dtype()  # before 2.4


def needs_cast(func: torch._ops.OpOverload) -> bool:
    """Whether ``func`` goes through :func:`cast_and_call`."""
    return (
        func.namespace == 'aten'
        and func._schema.name.partition('::')[2] in CAST
        and not torch._C._dispatch_has_kernel_for_dispatch_key(name_of(func), 'AutocastCUDA')
    )


def cast_and_call(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Hand ``func`` to the device, inside autocast with its tensors cast as those of its parts."""
    if is_enabled():
        wanted = dtype()

        def cast(each: Any) -> Any:
            floating = isinstance(each, RemoteTensor) and each.is_floating_point()
            return each.to(wanted) if floating and each.dtype is not torch.float64 else each

        args, kwargs = tree_map(cast, (args, kwargs))
    return call(func, args, kwargs)


def decompose(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Take a composite apart as torch does outside inference mode."""
    # Not func.decompose: that prefers Python kernels, which are made for tracing.
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    if not is_enabled():
        return func._op_dk(key, *args, **kwargs)
    _exclude(_KEY, False)
    try:
        return func._op_dk(key, *args, **kwargs)
    finally:
        _exclude(_KEY, True)


def _watched(switch: Callable[..., None]) -> Callable[..., None]:
    def set_enabled(*args: Any) -> None:
        switch(*args)
        if len(args) == 1 or args[0] == 'cuda':  # without a device type it means cuda
            _switch.on = bool(args[-1])

    return set_enabled


def apply(patches: Patches) -> None:
    """Put all of this in place."""
    patches.set(torch, 'set_autocast_enabled', _watched(torch.set_autocast_enabled))
