"""Puts the shim in place."""

from __future__ import annotations

import threading

import torch

from offload_ros.rrto.shim import (
    autocast,
    conversions,
    cuda_api,
    generators,
    guard,
    kernels,
    local,
    printing,
    refusals,
    serialization,
    streams,
    tensor,
)
from offload_ros.rrto.shim.device import NOT_INSTALLED, Device, NoDevice
from offload_ros.rrto.shim.patches import Patches

_lock = threading.Lock()
_patches: Patches | None = None


def install(device: Device) -> None:
    """Make this process believe that ``device`` is its ``cuda:0``.

    Call it before the program's modules are imported: what they took from torch by name before
    stays as it was. ``GuardError`` when this torch cannot be used; then nothing is changed.
    ``RuntimeError`` when a device is installed already, or a real one is there.
    """
    global _patches
    with _lock:
        if _patches is not None:
            raise RuntimeError('an offloaded device is installed already: call uninstall first')
        if torch.cuda.is_available():
            raise RuntimeError(
                'this machine has a CUDA device: set CUDA_VISIBLE_DEVICES= (empty) to offload '
                'in its place'
            )
        patches = Patches()
        try:
            before = guard.put()
            patches.on_undo(lambda: guard.restore(before))
            library = kernels.register()
            patches.on_undo(lambda: kernels.unregister(library))
            tensor.bind(device, local.action_of)
            patches.on_undo(lambda: tensor.bind(NoDevice(NOT_INSTALLED)))
            for part in (
                autocast,
                conversions,
                printing,
                refusals,
                streams,
                generators,
                cuda_api,
                serialization,
            ):
                part.apply(patches)
            guard.check()
        except BaseException:
            patches.undo()
            raise
        _patches = patches


def uninstall() -> None:
    """Take the shim away again. Tensors of the device that are still alive are refused from then
    on; modules that the program imported meanwhile keep what they took from torch by name."""
    global _patches
    with _lock:
        if _patches is not None:
            _patches.undo()
            _patches = None
