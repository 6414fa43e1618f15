"""What kind of call an operator is: pure functions for the client session while it records."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch

from offload_ros.rrto.shim.tensor import DEVICE, RemoteTensor

aten = torch.ops.aten
CPU = torch.device('cpu')

# Composite operators whose decomposition depends on the device, or that have kernels of their own
# on some device: they go to the server whole, in every grad mode, so that its device decides. None
# of them ever gives a view of its input.
WHOLE = frozenset(
    [
        'adaptive_avg_pool1d',
        'adaptive_avg_pool2d',
        'adaptive_avg_pool3d',
        'adaptive_max_pool1d',
        'avg_pool1d',
        'batch_norm',
        'bilinear',
        'cdist',
        'conv1d',
        'conv2d',
        'conv3d',
        'conv_transpose1d',
        'conv_transpose2d',
        'conv_transpose3d',
        'embedding_bag',
        'group_norm',
        'gru',
        'gru_cell',
        'instance_norm',
        'layer_norm',
        'linear',
        'log_softmax',
        'lstm',
        'lstm_cell',
        'matmul',
        'max_pool1d',
        'max_pool2d',
        'max_pool3d',
        'rnn_relu',
        'rnn_relu_cell',
        'rnn_tanh',
        'rnn_tanh_cell',
        'scaled_dot_product_attention',
        'softmax',
        'upsample_bicubic2d',
        'upsample_bilinear2d',
        'upsample_linear1d',
        'upsample_nearest1d',
        'upsample_nearest2d',
        'upsample_nearest3d',
        'upsample_trilinear3d',
    ]
)
COMPOSITE = 'CompositeImplicitAutograd'
_has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key

# Arguments that are on the CPU also when the operator runs on a CUDA device.
_INDEX = {
    'aten::index': (1,),
    'aten::_unsafe_index': (1,),
    'aten::index_put': (1,),
    'aten::index_put_': (1,),
    'aten::_unsafe_index_put': (1,),
    'aten::_index_put_impl_': (1,),
    'aten::_index_put_impl': (1,),
}
_STAYS_ON_HOST = {
    ('aten::lstm', 'data'): (1,),
    ('aten::gru', 'data'): (1,),
    ('aten::rnn_tanh', 'data'): (1,),
    ('aten::rnn_relu', 'data'): (1,),
    ('aten::_pack_padded_sequence', ''): (1,),
    ('aten::tensor_split', 'tensor_indices_or_sections'): (1,),
}
_NO_SCALARS = frozenset({'aten::cat', 'aten::stack', 'aten::concat', 'aten::concatenate'})
_ANY_DEVICE = frozenset({'aten::copy_', 'aten::_to_copy', 'aten::set_', 'aten::_copy_from'})


def name_of(func: torch._ops.OpOverload) -> str:
    """E.g. ``'aten::add.Tensor'``."""
    schema = func._schema
    overload = schema.overload_name
    return f'{schema.name}.{overload}' if overload else str(schema.name)


@cache
def must_decompose(func: torch._ops.OpOverload) -> bool:
    """Whether ``func`` is a composite that has to be taken apart before it reaches the device.

    Inside inference mode composites arrive whole. Outside it torch has taken apart all but
    ``WHOLE``, so the same is done here: then ``x.to(device) is x`` and views hold, and the
    sequence of operators is the same in every grad mode.
    """
    if not _has_kernel(name_of(func), COMPOSITE):
        return False
    return not (func.namespace == 'aten' and func._schema.name.partition('::')[2] in WHOLE)


def is_read(func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the call needs values on the CPU: ``x.cpu()``, ``cpu.copy_(x)``, ``x.item()``,
    ``torch.equal``."""
    if func is aten._to_copy.default:
        device = kwargs.get('device')
        return device is not None and device.type == 'cpu' and isinstance(args[0], RemoteTensor)
    if func is aten.copy_.default:
        return not isinstance(args[0], RemoteTensor)
    return func in _VALUE_READS


def read_source(
    func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> RemoteTensor | None:
    """The tensor whose values a read fetches; None when the operator itself has to run on the
    server, which then gives its result as a bool tensor of no dimension (``equal``)."""
    if func is aten.copy_.default:
        source: RemoteTensor = args[1] if len(args) > 1 else kwargs['src']
        return source
    if func is aten.equal.default or func is aten.is_nonzero.default:
        return None
    source = args[0] if args else kwargs['self']
    return source


def finish_read(
    func: torch._ops.OpOverload,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    fetched: torch.Tensor,
) -> Any:
    """What a read returns, made of ``fetched``: the values of :func:`read_source` as ``read`` of
    the device gives them. May give ``fetched`` itself away."""
    if func is aten._to_copy.default:
        return _converted(args[0], kwargs, fetched)
    if func is aten.copy_.default:
        args[0].copy_(fetched)
        return args[0]
    return fetched.item()


def _converted(source: torch.Tensor, kwargs: dict[str, Any], fetched: torch.Tensor) -> torch.Tensor:
    wanted: Any = kwargs.get('memory_format') or torch.preserve_format
    dtype = kwargs.get('dtype')
    if wanted is torch.preserve_format and not _is_dense(source):
        # Values of a tensor with gaps come contiguous; torch keeps channels last, as it sees it.
        wanted = _suggested_format(source)
    if wanted is not torch.preserve_format and not fetched.is_contiguous(memory_format=wanted):
        return aten._to_copy.default(fetched, dtype=dtype, memory_format=wanted)  # type: ignore[no-any-return]
    if dtype is not None and dtype != fetched.dtype:
        return aten._to_copy.default(fetched, dtype=dtype)  # type: ignore[no-any-return]
    return fetched


def _is_dense(tensor: torch.Tensor) -> bool:
    expected = 1
    for stride, extent in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if extent == 0:
            return True
        if extent != 1:
            if stride != expected:
                return False
            expected *= extent
    return True


def _suggested_format(tensor: torch.Tensor) -> Any:
    """Channels last where the strides are ordered so, as torch's ``suggest_memory_format``."""
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    if tensor.dim() not in formats:
        return torch.contiguous_format
    order = [1, *range(tensor.dim() - 1, 1, -1), 0]  # strides ascend along C, ..., H, N
    if tensor.stride(1) == 0:
        return torch.contiguous_format
    smallest = 0
    for axis in order:
        if tensor.shape[axis] == 0 or tensor.stride(axis) < smallest:
            return torch.contiguous_format
        if axis == 0 and smallest == tensor.stride(1):
            return torch.contiguous_format  # N111 is contiguous
        smallest = tensor.stride(axis) * max(tensor.shape[axis], 1)
    return formats[tensor.dim()]


def stays_on_host(func: torch._ops.OpOverload) -> tuple[int, ...]:
    """Positions of tensor arguments that the server keeps on its CPU (batch sizes of RNNs)."""
    return _STAYS_ON_HOST.get((func._schema.name, func._schema.overload_name), ())


def check_devices(
    func: torch._ops.OpOverload, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Torch's own ``RuntimeError`` where a call mixes tensors of the CPU and of the device.

    Allowed on the CPU: tensors of no dimension, index arguments, both sides of ``copy_``.
    """
    name = func._schema.name
    generator = kwargs.get('generator')
    if generator is not None and generator_number(generator) is None:
        raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
    if name in _ANY_DEVICE:
        return
    on_host = _INDEX.get(name, ()) + stays_on_host(func)
    if name in _INDEX and not isinstance(args[0], RemoteTensor):
        raise RuntimeError(
            'indices should be either on cpu or on the same device as the indexed tensor (cpu)'
        )
    for position, argument in enumerate((*args, *kwargs.values())):
        if position in on_host and position < len(args):
            continue
        for tensor in tensors_in(argument):
            if isinstance(tensor, RemoteTensor):
                continue
            if (
                tensor.dim() > 0
                or name in _NO_SCALARS
                or _is_written(func, position, len(args), kwargs)
            ):
                raise RuntimeError(
                    'Expected all tensors to be on the same device, but found at least two '
                    f'devices, {DEVICE} and {tensor.device}!'
                )


def _is_written(
    func: torch._ops.OpOverload, position: int, positional: int, kwargs: dict[str, Any]
) -> bool:
    arguments = func._schema.arguments
    if position < positional:
        argument = arguments[position]
    else:
        name = list(kwargs)[position - positional]
        argument = next(each for each in arguments if each.name == name)
    return argument.alias_info is not None and argument.alias_info.is_write


# Torch wraps a generator anew on its way through the dispatcher: only its address stays.
generator_numbers: dict[int, int] = {}


def generator_number(generator: torch.Generator) -> int | None:
    """The number by which the server knows a generator of ``cuda``; None for one of the CPU."""
    return generator_numbers.get(generator._cdata)  # type: ignore[attr-defined]


def tensors_in(argument: Any) -> Iterator[torch.Tensor]:
    """The tensors of an argument: itself, or those of a list."""
    if isinstance(argument, torch.Tensor):
        yield argument
    elif isinstance(argument, (list, tuple)):
        for each in argument:
            if isinstance(each, torch.Tensor):
                yield each


def server_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """``kwargs`` as they are recorded: a CUDA device has its index, nothing is pinned.

    ``RuntimeError`` for a second device and for layouts that are not strided.
    """
    if not kwargs:
        return kwargs
    changed = {name: each for name, each in kwargs.items() if name != 'pin_memory'}
    device = changed.get('device')
    if device is not None:
        changed['device'] = checked_device(device)
    if changed.get('layout') not in (None, torch.strided):
        raise RuntimeError(
            f'the offloaded device has no {changed["layout"]} tensors: keep them on the CPU'
        )
    return changed


def checked_device(device: torch.device) -> torch.device:
    """``device`` with an index where it is of CUDA; torch's ``RuntimeError`` beyond the one."""
    if device.type != 'cuda':
        return device
    if device.index not in (None, 0):
        raise RuntimeError(
            'CUDA error: invalid device ordinal (the offloaded device is cuda:0, '
            f'there is no {device})'
        )
    return DEVICE


_VALUE_READS = frozenset(
    {aten._local_scalar_dense.default, aten.equal.default, aten.is_nonzero.default}
)
