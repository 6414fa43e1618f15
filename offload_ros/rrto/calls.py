"""Operator calls as bytes: the template of a call, without its tensors, and back.

A template is msgpack of ``[args, kwargs]`` in which each tensor is a hole that carries what is
known of it. Two calls with equal templates of one operator do the same but for the tensors' values,
so the bytes are also the key by which both sides know a call again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
import struct
from typing import Any

import msgpack
import torch

from offload_ros.rrto.metadata import TensorMeta, interned
from offload_ros.rrto.shim.classify import generator_numbers
from offload_ros.wire.errors import WireError
from offload_ros.wire.tensors import CODE_OF_DTYPE, DTYPE_OF_CODE

# msgpack extension types
TENSOR, PAYLOAD, CONSTANT, DTYPE, DEVICE, LAYOUT, FORMAT, COMPLEX, GENERATOR = range(1, 10)
CONSTANT_BYTES = 64  # a CPU tensor of at most so many is part of the template, by value
MAX_TEMPLATE_BYTES = 1 << 20
MAX_AXES = 64
_DTYPES: dict[int, torch.dtype] = {**DTYPE_OF_CODE, 64: torch.complex64, 65: torch.complex128}
_CODES = {**CODE_OF_DTYPE, torch.complex64: 64, torch.complex128: 65}
_LAYOUTS = {0: torch.strided}
_FORMATS = {
    0: torch.contiguous_format,
    1: torch.channels_last,
    2: torch.channels_last_3d,
    3: torch.preserve_format,
}
_FORMAT_CODES = {value: code for code, value in _FORMATS.items()}
_DTYPE_EXT = {dtype: msgpack.ExtType(DTYPE, bytes([code])) for code, dtype in _DTYPES.items()}
_COMPLEX = struct.Struct('<dd')


class UnsupportedArgument(TypeError):
    """An argument that cannot travel; the text names its type."""


@dataclass(frozen=True, slots=True)
class TensorHole:
    """Where a tensor of the server belongs; ``index`` counts these holes of a call."""

    index: int
    meta: TensorMeta


@dataclass(frozen=True, slots=True)
class PayloadHole:
    """Where a tensor that travels with the call belongs: contiguous, of ``meta``'s shape."""

    index: int
    meta: TensorMeta


@dataclass(frozen=True, slots=True)
class Constant:
    """A small CPU tensor that is part of the template."""

    tensor: torch.Tensor

    def data(self) -> bytes:
        """Its values."""
        return data_of(self.tensor)


@dataclass(frozen=True, slots=True)
class CudaDevice:
    """The program's ``cuda`` device: the server's own, whichever that is."""


@dataclass(frozen=True, slots=True)
class CudaGenerator:
    """A random generator of that device; 0 is the default one."""

    number: int


def data_of(tensor: torch.Tensor) -> bytes:
    """The values of a CPU tensor, contiguous."""
    return bytes(view_of(tensor))


def view_of(tensor: torch.Tensor) -> memoryview:
    """The bytes of a CPU tensor; not copied if it is contiguous."""
    flat = tensor.detach().resolve_conj().resolve_neg().reshape(-1)
    if not flat.numel():
        return memoryview(b'')
    if flat.stride(0) != 1:
        flat = flat.clone(memory_format=torch.contiguous_format)
    values: Any = flat.view(torch.uint8).numpy()
    return memoryview(values).cast('B')


def pack_meta(meta: TensorMeta) -> list[Any]:
    """For msgpack."""
    return [list(meta.shape), list(meta.stride), meta.offset, code_of(meta.dtype)]


def unpack_meta(fields: Any) -> TensorMeta:
    """``WireError`` when it is none."""
    try:
        shape, stride, offset, code = fields
        dtype = _DTYPES[code]
    except (TypeError, ValueError, KeyError):
        raise WireError(f'{str(fields)[:80]} describes no tensor') from None
    numbers = [*shape, *stride, offset]
    if len(shape) != len(stride) or len(shape) > MAX_AXES:
        raise WireError(f'a tensor of shape {shape} has strides {stride}')
    if any(type(each) is not int or not 0 <= each < 1 << 62 for each in numbers):
        raise WireError('shape, strides and offset of a tensor are numbers from 0')
    return interned(TensorMeta(tuple(shape), tuple(stride), offset, dtype))


def code_of(dtype: torch.dtype) -> int:
    """``UnsupportedArgument`` for one that does not travel."""
    try:
        return _CODES[dtype]
    except KeyError:
        raise UnsupportedArgument(f'tensors of {dtype} cannot be sent to the server') from None


def dtype_of(code: int) -> torch.dtype:
    """``WireError`` for an unknown code."""
    try:
        return _DTYPES[code]
    except (KeyError, TypeError):
        raise WireError(f'{code!r} is no dtype') from None


class CallPacker:
    """``remote_type``: of the program's device tensors. Not safe between threads."""

    def __init__(self, remote_type: type[torch.Tensor]) -> None:
        self._remote = remote_type
        self._packer = msgpack.Packer(default=self._special, autoreset=True)
        self._ext: dict[TensorMeta, msgpack.ExtType] = {}
        self._tensors: list[Any] = []
        self._payloads: list[torch.Tensor] = []
        self._constants = True

    def pack(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], constants: bool = True
    ) -> tuple[bytes, list[Any], list[torch.Tensor]]:
        """The template, and the tensors and payloads that fill its holes.

        ``constants``: small CPU tensors become part of it.
        """
        tensors: list[Any] = []
        payloads: list[torch.Tensor] = []
        self._tensors, self._payloads, self._constants = tensors, payloads, constants
        try:
            return self._packer.pack((args, kwargs)), tensors, payloads
        finally:  # it must not keep a tensor alive
            self._tensors, self._payloads = [], []

    def _special(self, value: Any) -> Any:
        if isinstance(value, self._remote):
            self._tensors.append(value)
            meta = value._meta  # type: ignore[attr-defined]
            ext = self._ext.get(meta)
            if ext is None:
                ext = self._ext[meta] = msgpack.ExtType(TENSOR, msgpack.packb(pack_meta(meta)))
            return ext
        if isinstance(value, torch.Tensor):
            return self._cpu_tensor(value)
        if isinstance(value, torch.dtype):
            if value not in _DTYPE_EXT:
                code_of(value)
            return _DTYPE_EXT[value]
        if isinstance(value, torch.device):
            return msgpack.ExtType(DEVICE, value.type.encode())
        if isinstance(value, torch.layout):
            if value is not torch.strided:
                raise UnsupportedArgument(f'tensors of layout {value} stay on the CPU')
            return msgpack.ExtType(LAYOUT, b'\0')
        if isinstance(value, torch.memory_format):
            return msgpack.ExtType(FORMAT, bytes([_FORMAT_CODES[value]]))
        if isinstance(value, complex):
            return msgpack.ExtType(COMPLEX, _COMPLEX.pack(value.real, value.imag))
        if isinstance(value, torch._C.Generator):
            number = generator_numbers.get(value._cdata)  # type: ignore[attr-defined]
            if number is None:
                raise UnsupportedArgument('a generator of the CPU cannot be used on the server')
            return msgpack.ExtType(GENERATOR, msgpack.packb(number))
        if hasattr(value, '__index__'):
            return int(value.__index__())
        raise UnsupportedArgument(f'an argument of type {type(value).__name__} cannot be sent')

    def _cpu_tensor(self, value: torch.Tensor) -> Any:
        if value.device.type != 'cpu' or value.layout is not torch.strided:
            raise UnsupportedArgument(f'a tensor on {value.device} ({value.layout}) cannot be sent')
        shape = list(value.shape)
        # An empty one is sent by nobody: as a payload it would cost a replay a message.
        if (self._constants or not value.nbytes) and value.nbytes <= CONSTANT_BYTES:
            fields = [shape, code_of(value.dtype), data_of(value)]
            return msgpack.ExtType(CONSTANT, msgpack.packb(fields))
        self._payloads.append(value)
        fields = [shape, code_of(value.dtype)]
        return msgpack.ExtType(PAYLOAD, msgpack.packb(fields))


@dataclass(frozen=True)
class Template:
    """A call without its tensors, as received. ``tensors``, ``payloads``: what its holes want."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    tensors: tuple[TensorMeta, ...]
    payloads: tuple[TensorMeta, ...]


def payloads_in(node: Any, given: Any) -> Iterator[torch.Tensor]:
    """What is given in the place of the payloads of a template's ``node``, in their order."""
    if isinstance(node, PayloadHole):
        yield given
    elif isinstance(node, (list, tuple)):
        for each, value in zip(node, given, strict=True):
            yield from payloads_in(each, value)
    elif isinstance(node, Mapping):
        for name, each in node.items():
            yield from payloads_in(each, given[name])


def unpack_template(data: bytes) -> Template:
    """``WireError`` when the bytes are no template."""
    tensors: list[TensorMeta] = []
    payloads: list[TensorMeta] = []

    def special(code: int, content: bytes) -> Any:
        if code == TENSOR:
            tensors.append(unpack_meta(unpack(content)))
            return TensorHole(len(tensors) - 1, tensors[-1])
        if code == PAYLOAD:
            shape, dtype = _fields(content, 2)
            payloads.append(_contiguous_meta(shape, dtype_of(dtype)))
            return PayloadHole(len(payloads) - 1, payloads[-1])
        return _special_value(code, content)

    if len(data) > MAX_TEMPLATE_BYTES:
        raise WireError(f'a call of {len(data)} bytes, {MAX_TEMPLATE_BYTES} are allowed')
    decoded = unpack(data, special)
    if not isinstance(decoded, list) or len(decoded) != 2:
        raise WireError('a call is [args, kwargs]')
    args, kwargs = decoded
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise WireError('a call is [args, kwargs]')
    if not all(isinstance(name, str) for name in kwargs):
        raise WireError('a keyword of a call is a text')
    return Template(tuple(args), kwargs, tuple(tensors), tuple(payloads))


def unpack(data: bytes | memoryview, special: Callable[[int, bytes], Any] | None = None) -> Any:
    """msgpack within limits; ``WireError`` when it is none."""
    try:
        return msgpack.unpackb(
            data,
            ext_hook=special or _no_extension,
            strict_map_key=True,
            max_str_len=MAX_TEMPLATE_BYTES,
            max_bin_len=MAX_TEMPLATE_BYTES,
            max_ext_len=MAX_TEMPLATE_BYTES,
        )
    except WireError:
        raise
    except (ValueError, TypeError, RecursionError, msgpack.UnpackException) as error:
        raise WireError(f'cannot be decoded: {type(error).__name__}: {str(error)[:80]}') from None


def tensor_from(shape: Sequence[int], dtype: torch.dtype, data: bytes | memoryview) -> torch.Tensor:
    """A contiguous tensor on ``data``, which it shares if that is writable.

    ``WireError`` when the length does not fit.
    """
    count = 1
    for extent in shape:
        if type(extent) is not int or extent < 0:
            raise WireError(f'a shape of {str(shape)[:80]}')
        count *= extent
    if count * dtype.itemsize != len(data):
        raise WireError(f'{len(data)} bytes for {list(shape)} of {dtype}')
    if not count:
        return torch.empty(list(shape), dtype=dtype)
    source = data if isinstance(data, memoryview) and not data.readonly else bytearray(data)
    return torch.frombuffer(source, dtype=torch.uint8).view(dtype).reshape(list(shape))


def _contiguous_meta(shape: Any, dtype: torch.dtype) -> TensorMeta:
    if not isinstance(shape, list):
        raise WireError('a shape is a list of numbers')
    strides, step = [], 1
    for extent in reversed(shape):
        strides.append(step)
        step *= max(extent, 1) if isinstance(extent, int) else 1
    return unpack_meta([shape, strides[::-1], 0, code_of(dtype)])


def _fields(content: bytes, count: int) -> list[Any]:
    fields = unpack(content)
    if not isinstance(fields, list) or len(fields) != count:
        raise WireError(f'{count} fields are wanted')
    return fields


def _special_value(code: int, content: bytes) -> Any:
    if code == CONSTANT:
        shape, dtype, data = _fields(content, 3)
        if not isinstance(data, bytes) or len(data) > CONSTANT_BYTES or not isinstance(shape, list):
            raise WireError('a constant is [shape, dtype, at most 64 bytes]')
        return Constant(tensor_from(shape, dtype_of(dtype), data))
    if code == DEVICE:
        if content not in (b'cuda', b'cpu', b'meta'):
            raise WireError(f'device {content[:20]!r}')
        return CudaDevice() if content == b'cuda' else torch.device(content.decode())
    if code == COMPLEX:
        if len(content) != _COMPLEX.size:
            raise WireError('a complex number has 16 bytes')
        return complex(*_COMPLEX.unpack(content))
    if code == GENERATOR:
        number = unpack(content)
        if type(number) is not int:
            raise WireError('a generator has a number')
        return CudaGenerator(number)
    tables: dict[int, Mapping[int, Any]] = {DTYPE: _DTYPES, LAYOUT: _LAYOUTS, FORMAT: _FORMATS}
    if code in tables and len(content) == 1 and content[0] in tables[code]:
        return tables[code][content[0]]
    raise WireError(f'an argument of unknown kind {code}')


def _no_extension(code: int, content: bytes) -> Any:
    raise WireError(f'an argument of kind {code} where none is allowed')


def same_values(given: Any, constant: torch.Tensor, data: bytes) -> bool:
    """Whether ``given`` is a CPU tensor equal to a template's constant, bit for bit."""
    return (
        isinstance(given, torch.Tensor)
        and given.device.type == 'cpu'
        and given.dtype is constant.dtype
        and given.shape == constant.shape
        and data_of(given) == data
    )


def fits_payload(given: Any, meta: TensorMeta) -> bool:
    """Whether ``given`` is a CPU tensor that can fill a payload's hole."""
    return (
        isinstance(given, torch.Tensor)
        and given.device.type == 'cpu'
        and given.dtype is meta.dtype
        and tuple(given.shape) == meta.shape
    )
