"""``torch.cuda`` and ``torch.accelerator`` of a process with one offloaded device."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch.utils._pytree import tree_map

from offload_ros.rrto.shim import streams
from offload_ros.rrto.shim.conversions import indexed, legacy_types
from offload_ros.rrto.shim.device import DeviceProperties
from offload_ros.rrto.shim.patches import Patches
from offload_ros.rrto.shim.refusals import GRAPH, in_forked_child
from offload_ros.rrto.shim.tensor import DEVICE, RemoteTensor, current


def _constant(value: Any) -> Any:
    def give(*_: Any, **__: Any) -> Any:
        return value

    return give


def _is_available() -> bool:
    """A device that may yet turn out not to be there tells with ``available``."""
    available = getattr(current(), 'available', None)
    return available is None or bool(available())


def _device_count() -> int:
    return int(_is_available())


def _properties(device: Any = None) -> DeviceProperties:
    indexed(device)
    return current().properties()


def _capability(device: Any = None) -> tuple[int, int]:
    properties = _properties(device)
    return properties.major, properties.minor


def _name(device: Any = None) -> str:
    return _properties(device).name


def _memory(device: Any = None) -> tuple[int, int]:
    indexed(device)
    return current().memory()


def _set_device(device: Any) -> None:
    if not (isinstance(device, int) and device < 0):
        indexed(device)


def _is_bf16_supported(including_emulation: bool = True) -> bool:
    return True  # the CPU and every CUDA device compute it, natively or not


class _NoGraph:
    """``torch.cuda.CUDAGraph``: refused."""

    def __init__(self, *_: Any, **__: Any) -> None:
        raise RuntimeError(GRAPH)


_FUNCTIONS: dict[str, Any] = {
    '_lazy_init': _constant(None),
    'init': _constant(None),
    'is_available': _is_available,
    'is_initialized': _constant(True),
    '_is_in_bad_fork': in_forked_child,
    'device_count': _device_count,
    'current_device': _constant(0),
    '_exchange_device': _constant(0),
    '_maybe_exchange_device': _constant(0),
    'set_device': _set_device,
    'get_device_name': _name,
    'get_device_capability': _capability,
    'get_device_properties': _properties,
    'get_arch_list': _constant([]),
    'can_device_access_peer': _constant(False),
    'is_bf16_supported': _is_bf16_supported,
    'is_tf32_supported': _constant(False),
    'ipc_collect': _constant(None),
    'set_sync_debug_mode': _constant(None),
    'get_sync_debug_mode': _constant(0),
    'is_current_stream_capturing': _constant(False),
    'CUDAGraph': _NoGraph,
    'graph': _NoGraph,
    'make_graphed_callables': _NoGraph,
}
# The memory is the server's, and shared: what this program has of it is not counted.
_MEMORY: dict[str, Any] = {
    'mem_get_info': _memory,
    'empty_cache': _constant(None),
    'memory_allocated': _constant(0),
    'max_memory_allocated': _constant(0),
    'memory_reserved': _constant(0),
    'max_memory_reserved': _constant(0),
    'memory_cached': _constant(0),
    'max_memory_cached': _constant(0),
    'reset_peak_memory_stats': _constant(None),
    'reset_accumulated_memory_stats': _constant(None),
    'reset_max_memory_allocated': _constant(None),
    'reset_max_memory_cached': _constant(None),
    'set_per_process_memory_fraction': _constant(None),
    'memory_snapshot': _constant([]),
    'memory_stats': lambda *_, **__: OrderedDict(),
    'memory_summary': _constant('memory of the offloaded device is not counted'),
    'list_gpu_processes': _constant('GPU:0\nno processes are listed'),
}
_NVTX = ('range_push', 'range_pop', 'mark', 'range_start', 'range_end')


class _DeviceIndex:
    """``torch.accelerator.device_index``: there is one."""

    def __init__(self, device: Any = None) -> None:
        _set_device(0 if device is None else device)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: Any) -> None:
        return None


def _current_accelerator(check_available: bool = False) -> torch.device:
    return torch.device('cuda')


_ACCELERATOR: dict[str, Any] = {
    'is_available': _is_available,
    'device_count': _device_count,
    'current_accelerator': _current_accelerator,
    'current_device_index': _constant(0),
    'current_device_idx': _constant(0),
    'set_device_index': _set_device,
    'set_device_idx': _set_device,
    'current_stream': streams.current_stream,
    'set_stream': streams.set_stream,
    'synchronize': streams.synchronize,
    'device_index': _DeviceIndex,
    'empty_cache': _constant(None),
    'get_memory_info': _memory,
    'memory_allocated': _constant(0),
    'max_memory_allocated': _constant(0),
    'memory_reserved': _constant(0),
    'max_memory_reserved': _constant(0),
    'reset_peak_memory_stats': _constant(None),
    'reset_accumulated_memory_stats': _constant(None),
    'memory_stats': lambda *_, **__: OrderedDict(),
}


def _scatter(self: Any, inputs: Any, kwargs: Any, device_ids: Any) -> Any:
    """Of ``DataParallel`` with one device: everything goes to it."""

    def move(each: Any) -> Any:
        return each.to(DEVICE) if isinstance(each, torch.Tensor) else each

    return (tree_map(move, inputs),), (tree_map(move, kwargs or {}),)


def _set_default_tensor_type(original: Any) -> Any:
    def set_type(kind: Any) -> None:
        name = kind if isinstance(kind, str) else getattr(kind, 'legacy_name', '')
        if not name.startswith('torch.cuda.'):
            original(kind)
            return
        original(name.replace('torch.cuda.', 'torch.'))
        torch.set_default_device(DEVICE)

    return set_type


def apply(patches: Patches) -> None:
    """Put all of this in place."""
    cuda = torch.cuda
    for name, value in _FUNCTIONS.items():
        patches.set_existing(cuda, name, value)
    for name, value in _MEMORY.items():
        patches.set_existing(cuda, name, value)
        patches.set_existing(cuda.memory, name, value)
    for name in ('CUDAGraph', 'graph', 'make_graphed_callables'):
        patches.set_existing(cuda.graphs, name, _NoGraph)
    for name in _NVTX:
        patches.set_existing(cuda.nvtx, name, _constant(0))
    for name in ('start', 'stop'):
        patches.set_existing(cuda.profiler, name, _constant(None))
    for name, value in legacy_types().items():
        patches.set(cuda, name, value)
    patches.set(torch.backends.cuda, 'is_built', _constant(True))
    patches.set_existing(
        torch, 'set_default_tensor_type', _set_default_tensor_type(torch.set_default_tensor_type)
    )
    patches.set(torch.nn.DataParallel, 'scatter', _scatter)
    patches.set(RemoteTensor, 'record_stream', _constant(None))
    accelerator = getattr(torch, 'accelerator', None)
    for name, value in _ACCELERATOR.items() if accelerator is not None else ():
        patches.set_existing(accelerator, name, value)
        patches.set_existing(getattr(accelerator, 'memory', accelerator), name, value)
