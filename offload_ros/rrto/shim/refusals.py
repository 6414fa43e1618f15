"""What cannot work without the device's memory in this process: refused with a clear error, or
left out where leaving it out changes no result."""

from __future__ import annotations

from collections.abc import Callable
import os
from typing import Any

import torch

from offload_ros.rrto.shim.device import FORKED, NoDevice
from offload_ros.rrto.shim.patches import Patches
from offload_ros.rrto.shim.tensor import RemoteTensor, bind, current

BACKWARD = (
    'backward is not supported on the offloaded device: it runs inferences only. Train with '
    'plain PyTorch, or keep the tensors that need gradients on the CPU'
)
HOOK = (
    'hooks of gradients are not supported on the offloaded device: it runs inferences only, '
    'gradients are never computed'
)
ARCHIVE = (
    'TorchScript archives cannot run on the offloaded device: its operators are intercepted in '
    'Python and an archive has none. Build the model in Python and load its weights with '
    'load_state_dict, or run this program without the transparent device'
)
GRAPH = 'CUDA graphs are not supported on the offloaded device: repeated sequences are replayed'
# What torch says of a loss on the CPU whose inputs came from the device.
_MAY_BE_OURS = ('does not require grad', 'accelerator device')
_forked = False


def in_forked_child() -> bool:
    """Whether this process was forked from one that has the device."""
    return _forked


def _after_fork() -> None:
    global _forked
    if not _installed or not getattr(current(), 'opened', True):
        return
    _forked = True
    bind(NoDevice(FORKED))


_installed = False
os.register_at_fork(after_in_child=_after_fork)


def _is_remote(argument: Any) -> bool:
    if isinstance(argument, RemoteTensor):
        return True
    return isinstance(argument, (list, tuple)) and any(map(_is_remote, argument))


def _no_backward(run: Callable[..., Any]) -> Callable[..., Any]:
    def checked(*args: Any, **kwargs: Any) -> Any:
        if any(map(_is_remote, (*args, *kwargs.values()))):
            raise RuntimeError(BACKWARD)
        try:
            return run(*args, **kwargs)
        except RuntimeError as error:
            if not any(hint in str(error) for hint in _MAY_BE_OURS):
                raise
            raise RuntimeError(f'{error} (if it depends on the device: {BACKWARD})') from error

    checked.__name__ = run.__name__
    checked.__doc__ = run.__doc__
    return checked


def _refusing(reason: str) -> Callable[..., Any]:
    def refuse(*_: Any, **__: Any) -> Any:
        raise RuntimeError(reason)

    return refuse


def _hook(self: torch.Tensor, *_: Any) -> Any:
    raise RuntimeError(HOOK)


def _compile(model: Any = None, **_: Any) -> Any:
    """Identity, also as a decorator: the operators run on the server in any case."""
    return model if model is not None else (lambda function: function)


def _compile_module(self: torch.nn.Module, *_: Any, **__: Any) -> None:
    """As torch's, which compiles in place."""


def _share_memory(self: RemoteTensor) -> RemoteTensor:
    return self


def apply(patches: Patches) -> None:
    """Put all of this in place."""
    global _installed
    _installed = True
    patches.on_undo(_uninstalled)

    patches.set(RemoteTensor, 'backward', _refusing(BACKWARD))
    for name in ('register_hook', 'register_post_accumulate_grad_hook', 'retain_grad'):
        patches.set(RemoteTensor, name, _hook)
    for name in ('backward', 'grad'):
        patches.set(torch.autograd, name, _no_backward(getattr(torch.autograd, name)))

    patches.set(torch, 'compile', _compile)
    patches.set_existing(torch.nn.Module, 'compile', _compile_module)

    enabled = torch.jit._state._enabled
    before = enabled.enabled
    torch.jit._state.disable()  # script gives back what it is given
    patches.on_undo(lambda: setattr(enabled, 'enabled', before))
    patches.set(torch.jit, 'load', _refusing(ARCHIVE))

    # It would pack the weights for cuDNN, by address.
    patches.set(torch.nn.RNNBase, 'flatten_parameters', lambda self: None)
    patches.set(RemoteTensor, 'share_memory_', _share_memory)
    patches.set(RemoteTensor, 'is_shared', lambda self: True)


def _uninstalled() -> None:
    global _installed
    _installed = False
