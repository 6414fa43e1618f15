"""Tensors to ``Tensor`` messages and back; what does not add up is refused before memory is taken.

Works on any object with the fields of ``msg/Tensor.msg``, so nothing here needs ROS.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from dataclasses import dataclass
import math
from typing import Any, Protocol, TypeVar

import torch

from offload_ros.wire.codecs import CODECS, RAW
from offload_ros.wire.codecs import decode as decoded
from offload_ros.wire.errors import WireError as WireError  # of this module's interface

DTYPE_OF_CODE: dict[int, torch.dtype] = {
    1: torch.float32,
    2: torch.float64,
    3: torch.float16,
    4: torch.bfloat16,
    5: torch.uint8,
    6: torch.int8,
    7: torch.int16,
    8: torch.int32,
    9: torch.int64,
    10: torch.bool,
    11: torch.uint16,
    12: torch.uint32,
}
CODE_OF_DTYPE = {dtype: code for code, dtype in DTYPE_OF_CODE.items()}
MAX_AXES = 8
MAX_EMPTY = 2**48  # product of the other extents of an empty tensor: its strides must fit 64 bits


class TensorMessage(Protocol):
    """The fields of ``msg/Tensor.msg``."""

    name: str
    dtype: int
    shape: Any
    codec: int
    data: Any


Message = TypeVar('Message', bound=TensorMessage)


@dataclass
class TensorData:
    """A tensor on its way, where no ROS message carries it; ``data`` is a writable view."""

    name: str
    dtype: int
    shape: Any
    codec: int
    data: Any


@dataclass(frozen=True)
class Limits:
    """What a receiver accepts in one message."""

    tensors: int = 16
    total_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        if self.tensors < 1 or self.total_bytes < 1:
            raise ValueError('limits: tensors and total_bytes must be at least 1')


def encode(
    message: Message, name: str, tensor: torch.Tensor, buffer: array[int] | None = None
) -> Message:
    """Fill ``message`` with ``tensor`` (any shape, a dtype of ``DTYPE_OF_CODE``) and return it.

    ``buffer``: bytes that already hold exactly the tensor's data, e.g. the camera message's; they
    are then referenced, not copied. ``ValueError`` for a dtype that the wire does not carry.
    """
    code = CODE_OF_DTYPE.get(tensor.dtype)
    if code is None:
        raise ValueError(f"tensor '{name}' has dtype {tensor.dtype}, which the wire does not carry")
    if tensor.ndim > MAX_AXES:
        raise ValueError(f"tensor '{name}': {tensor.ndim} axes, at most {MAX_AXES} are allowed")
    if buffer is None:
        buffer = array('B')
        # A list or a numpy array would be converted element by element (500 ms for 12 MB).
        buffer.frombytes(data_of(tensor))
    elif len(buffer) != tensor.nbytes:
        raise ValueError(
            f"tensor '{name}' needs {tensor.nbytes} bytes, its buffer has {len(buffer)}"
        )
    message.name = name
    message.dtype = code
    message.shape = list(tensor.shape)
    message.codec = RAW
    message.data = buffer
    return message


def data_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of ``tensor``, row-major, on the CPU; without a copy where they lie so already."""
    if tensor.numel() == 0:
        return memoryview(b'')
    flat = tensor.detach().to('cpu').contiguous().reshape(-1)
    # One element counts as contiguous whatever its stride is, but is only viewed with stride 1.
    flat = flat.as_strided((flat.numel(),), (1,))
    return flat.view(torch.uint8).numpy().data


def checked_size(message: TensorMessage) -> int:
    """Bytes of the tensor in ``message``, not coded; ``WireError`` when its fields contradict each
    other."""
    name = message.name
    dtype = checked_dtype(name, message.dtype)
    if message.codec not in CODECS:
        raise WireError(f"tensor '{name}': codec {message.codec} is unknown")
    if len(message.shape) > MAX_AXES:
        raise WireError(
            f"tensor '{name}': {len(message.shape)} axes, at most {MAX_AXES} are allowed"
        )
    shape = [int(extent) for extent in message.shape]
    if min(shape, default=0) < 0:
        raise WireError(f"tensor '{name}': shape {shape} has an extent below 0")
    size = math.prod(shape) * dtype.itemsize
    if message.codec == RAW and size != len(message.data):
        raise WireError(
            f"tensor '{name}': shape {shape} of {_dtype_name(message.dtype)} needs {size} bytes, "
            f'the message has {len(message.data)}'
        )
    if size == 0 and math.prod(max(extent, 1) for extent in shape) > MAX_EMPTY:
        raise WireError(f"tensor '{name}': shape {shape} is larger than a machine can count")
    return size


def checked_dtype(name: str, code: int) -> torch.dtype:
    """The dtype of a code of ``msg/Tensor.msg``; ``WireError`` for another one."""
    if code not in DTYPE_OF_CODE:
        raise WireError(f"tensor '{name}': dtype code {code} is unknown")
    return DTYPE_OF_CODE[code]


def decode(message: TensorMessage, limits: Limits | None = None) -> torch.Tensor:
    """The tensor in ``message``, sharing the message's memory unless that is coded. ``WireError``
    when fields contradict, or when it would become larger than ``limits``."""
    size = checked_size(message)
    if message.codec != RAW and size > (limits or Limits()).total_bytes:
        raise WireError(f"tensor '{message.name}': {size} bytes once decoded are not allowed")
    dtype = DTYPE_OF_CODE[message.dtype]
    shape = tuple(message.shape)
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    data = message.data
    if message.codec != RAW:
        data = decoded(data, message.codec, dtype.itemsize, size).data
    elif not isinstance(data, (array, memoryview)):
        data = array('B', bytes(data))
    if dtype == torch.bool:
        largest = int(torch.frombuffer(data, dtype=torch.uint8).max())
        if largest > 1:  # torch computes nonsense with such a bool
            raise WireError(
                f"tensor '{message.name}': bool has the byte {largest}, 0 or 1 is wanted"
            )
    return torch.frombuffer(data, dtype=dtype).reshape(shape)


def decode_all(
    messages: Iterable[TensorMessage], limits: Limits | None = None
) -> dict[str, torch.Tensor]:
    """All tensors of a request or reply by name; ``WireError`` for doubles and beyond
    ``limits``."""
    limits = limits or Limits()
    messages = list(messages)
    if len(messages) > limits.tensors:
        raise WireError(
            f'{len(messages)} tensors in one message, at most {limits.tensors} are allowed'
        )
    total = sum(checked_size(message) for message in messages)
    if total > limits.total_bytes:
        raise WireError(f'{total} bytes in one message, at most {limits.total_bytes} are allowed')
    tensors: dict[str, torch.Tensor] = {}
    for message in messages:
        if message.name in tensors:
            raise WireError(f"two tensors are named '{message.name}'")
        tensors[message.name] = decode(message, limits)
    return tensors


def _dtype_name(code: int) -> str:
    return str(DTYPE_OF_CODE[code]).removeprefix('torch.')
