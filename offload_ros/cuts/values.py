"""A tensor that crosses a cut, or a piece of one, as bytes: a head, then its elements as they lie
in memory, coded or not.

Dtype, rank and the order of the axes in memory are the graph's (``TensorSpec``), known to both. The
head says the rest: the extents, the codec (``value_codecs``) and the bytes that follow. So whoever
sends may code as pays, and the receiver need not know before.
"""

from __future__ import annotations

import math
import struct

import numpy as np
import torch
from torch import Tensor

from offload_ros.cuts.value_codecs import decode_value, encode_value, pixel_channels
from offload_ros.graph.graph import TensorSpec
from offload_ros.wire.codecs import BITS, RAW
from offload_ros.wire.errors import WireError
from offload_ros.wire.tensors import MAX_AXES, MAX_EMPTY, data_of

# Extents, codec, bytes that follow: 64 bytes, so that raw elements stay aligned.
_HEAD = struct.Struct(f'<{MAX_AXES}IB7xQ16x')
HEAD_BYTES = _HEAD.size
MAX_EXTENT = (1 << 32) - 1
# Of a coded tensor whose extents only the run tells: what a few bytes may claim to become.
MAX_UNKNOWN_BYTES = 64 << 20


def check_can_cross(spec: TensorSpec) -> None:
    """``WireError`` for a tensor of more axes than the wire knows, or longer ones."""
    if len(spec.shape) > MAX_AXES:
        raise WireError(f'a tensor of {len(spec.shape)} axes crosses, {MAX_AXES} are allowed')
    if max((extent or 0 for extent in spec.shape), default=0) > MAX_EXTENT:
        raise WireError(f'a tensor of shape {spec.shape} crosses, an axis has up to {MAX_EXTENT}')


def value_bytes(spec: TensorSpec) -> int | None:
    """Bytes of the whole transfer when it is not coded, the most that it takes; None where only the
    run tells the extents."""
    return HEAD_BYTES + spec.nbytes if spec.is_static else None


def size_refusal(spec: TensorSpec, total: int) -> str:
    """Why a transfer of ``total`` bytes cannot hold such a tensor; empty when it can. To be asked
    before its memory is taken."""
    most = value_bytes(spec)
    if total < HEAD_BYTES:
        return f'a value of {total} bytes is shorter than its head'
    if most is not None and total > most:
        return f'a value of {total} bytes, the graph says at most {most}'
    return ''


def value_to_buffers(
    spec: TensorSpec, tensor: Tensor, codec: int = RAW
) -> list[bytes | memoryview]:
    """Head and elements, coded by ``codec`` (``value_codecs.VALUE_CODECS``) where that makes them
    smaller. Raw ones are not copied where they lie without gaps: they must not change until sent.

    Coding takes as long as was measured (``graph.codings``) and lets other threads run."""
    check_can_cross(spec)
    shape = tuple(tensor.shape)
    ordered = tensor.permute(*spec.order) if spec.order is not None else tensor
    data = data_of(ordered)
    used = RAW
    if codec != RAW and (spec.is_static or len(data) <= MAX_UNKNOWN_BYTES):
        used, data = encode_value(data, spec.dtype, codec, pixel_channels(ordered.shape))
    extents = [*shape, *[0] * (MAX_AXES - len(shape))]
    return [_HEAD.pack(*extents, used, len(data)), data]


def value_from_bytes(spec: TensorSpec, data: np.ndarray) -> Tensor:
    """The tensor in (n,) uint8, sharing its memory unless it is coded; ``WireError`` when that is
    not one of ``spec``. Decoding takes as long as was measured: not for the thread that receives,
    where the tensor is large."""
    if len(data) < HEAD_BYTES:
        raise WireError(f'a value of {len(data)} bytes')
    *extents, codec, length = _HEAD.unpack_from(data.data)
    shape, rest = extents[: len(spec.shape)], extents[len(spec.shape) :]
    fits = all(want in (None, have) for want, have in zip(spec.shape, shape, strict=True))
    if not fits or any(rest):
        raise WireError(f'a value of shape {extents}, the graph says {spec.shape}')
    if length != len(data) - HEAD_BYTES:
        raise WireError(f'a value of {length} bytes in {len(data) - HEAD_BYTES}')
    size = math.prod(shape) * spec.dtype.itemsize
    if size == 0:
        if length or math.prod(max(extent, 1) for extent in shape) > MAX_EMPTY:
            raise WireError(f'a value of shape {shape} in {length} bytes')
        return torch.empty(shape, dtype=spec.dtype)
    if codec == RAW and size != length:
        raise WireError(f'a value of shape {shape} in {length} bytes')
    if codec != RAW and not spec.is_static and size > MAX_UNKNOWN_BYTES:
        raise WireError(f'a value of shape {shape} has more than {MAX_UNKNOWN_BYTES} bytes')
    plain = decode_value(data[HEAD_BYTES:], codec, spec.dtype, size)
    if spec.dtype == torch.bool and codec != BITS and int(plain.max()) > 1:
        raise WireError('a value of bool has a byte other than 0 and 1')
    flat = torch.frombuffer(plain.data, dtype=spec.dtype)
    if spec.order is None:
        return flat.reshape(shape)
    inverse = sorted(range(len(shape)), key=spec.order.__getitem__)
    return flat.reshape([shape[axis] for axis in spec.order]).permute(*inverse)
