"""How a tensor that crosses a cut is coded for the link; always without loss.

A coding is one of ``wire.codecs``, or one of these behind ``narrow``: integers of several bytes of
which only the lowest is used travel as that one byte (class labels leave an argmax as int64). What
a coding needs of the data (only 0 and 1, only 0 to 255) is looked for when it is encoded; data that
is not so, or does not get smaller, travels raw.
"""

from __future__ import annotations

from collections.abc import Iterable
import time

import numpy as np
import torch

from offload_ros.wire.codec_choice import NEVER, Measured, sample_of
from offload_ros.wire.codecs import (
    BITS,
    BITS_ZSTD,
    CODECS,
    DELTA_ZSTD,
    LZ4,
    RAW,
    SHUFFLE_ZSTD,
    ZSTD,
    Buffer,
    Bytes,
    NotBinaryError,
    channels_of,
    decode,
    encode,
)
from offload_ros.wire.errors import WireError

# Codes on the wire: those of ``wire.codecs`` (below 64), and the same behind ``narrow``.
NARROW = 64
_BEHIND_NARROW = (RAW, BITS, LZ4, ZSTD, BITS_ZSTD, DELTA_ZSTD)
VALUE_CODECS: dict[int, str] = {
    **{code: codec.name for code, codec in CODECS.items()},
    **{
        NARROW | code: 'narrow' if code == RAW else f'narrow+{CODECS[code].name}'
        for code in _BEHIND_NARROW
    },
}
_CODES = {name: code for code, name in VALUE_CODECS.items()}
# The unsigned numpy type as which the integers of a dtype are read: a negative one is large then.
_WIDE = {
    torch.int16: np.uint16,
    torch.uint16: np.uint16,
    torch.int32: np.uint32,
    torch.uint32: np.uint32,
    torch.int64: np.uint64,
}
# What is worth trying, by the kind of element.
_OF_BOOL = (BITS, BITS_ZSTD)
_OF_BYTES = (BITS, BITS_ZSTD, ZSTD, LZ4, DELTA_ZSTD)
_OF_INTEGERS = (*(NARROW | code for code in (RAW, BITS, BITS_ZSTD, ZSTD, LZ4)), SHUFFLE_ZSTD)
_OF_NUMBERS = (ZSTD, SHUFFLE_ZSTD, LZ4)
SAMPLE_BYTES, BLOCK_BYTES = 4 << 20, 256 << 10  # of a large tensor, on which codecs are measured


def code_named(name: str) -> int:
    """The code of a name of ``VALUE_CODECS``; ``ValueError`` for another one."""
    if name not in _CODES:
        raise ValueError(f"codec '{name:.40}' is unknown; known: {', '.join(_CODES)}")
    return _CODES[name]


def candidates(dtype: torch.dtype) -> tuple[int, ...]:
    """Codes that may make a tensor of ``dtype`` smaller."""
    if dtype == torch.bool:
        return _OF_BOOL
    if dtype.itemsize == 1:
        return _OF_BYTES
    return _OF_INTEGERS if dtype in _WIDE else _OF_NUMBERS


def pixel_channels(shape: Iterable[int]) -> int:
    """Channels of a pixel where ``shape``, in the order of memory, is that of an image, else 1."""
    extents = list(shape)
    while len(extents) > 3 and extents[0] == 1:  # a batch of one
        extents = extents[1:]
    return channels_of(extents)


def encode_value(
    data: Buffer, dtype: torch.dtype, code: int, channels: int = 1
) -> tuple[int, memoryview]:
    """(code, bytes) of elements as they lie in memory; code RAW, and ``data`` itself, where
    ``code`` does not apply to this data or does not make it smaller.

    ``channels``: see ``pixel_channels``. ``ValueError`` for an unknown code.
    """
    if code not in VALUE_CODECS:
        raise ValueError(f'codec {code} is unknown; known: {sorted(VALUE_CODECS)}')
    plain = np.frombuffer(data, np.uint8)
    coded = _coded(plain, dtype, code, channels) if code != RAW and plain.size else None
    if coded is None or len(coded) >= plain.size:
        return RAW, plain.data
    return code, coded


def _coded(plain: Bytes, dtype: torch.dtype, code: int, channels: int) -> memoryview | None:
    """None where the data is not such as ``code`` needs."""
    itemsize = dtype.itemsize
    if code & NARROW:
        if dtype not in _WIDE:
            return None
        integers = plain.view(_WIDE[dtype])
        if integers.max() > 0xFF:
            return None
        plain, code, itemsize = integers.astype(np.uint8), code & ~NARROW, 1
    if CODECS[code].filter == 'delta' and (itemsize != 1 or plain.size % channels):
        return None
    try:
        return encode(plain, code, itemsize, channels)
    except NotBinaryError:
        return None


def decode_value(data: Buffer, code: int, dtype: torch.dtype, size: int) -> Bytes:
    """(size,) uint8, the elements as they lay in memory; RAW: ``data``'s own memory, else new.

    ``size`` follows from the graph and is limited by the caller; no more than a few times that is
    ever allocated. ``WireError`` when ``data`` is not the coding of exactly so many bytes.
    """
    if code not in VALUE_CODECS:
        raise WireError(f'codec {code} is unknown; this side knows {sorted(VALUE_CODECS)}')
    if not code & NARROW:
        return decode(data, code, dtype.itemsize, size)
    if dtype not in _WIDE or size % dtype.itemsize:
        raise WireError(f'{VALUE_CODECS[code]}: {size} bytes of {dtype} are no wide integers')
    narrow = decode(data, code & ~NARROW, 1, size // dtype.itemsize)
    return narrow.astype(_WIDE[dtype]).view(np.uint8)


def measure_codecs(
    data: Buffer, dtype: torch.dtype, channels: int = 1, repeats: int = 2
) -> dict[int, Measured]:
    """What each of ``candidates`` makes of these elements on this machine; the best of ``repeats``
    times, on a sample where there are many. Those that do not apply are left out."""
    plain = np.frombuffer(data, np.uint8)
    sample = sample_of(plain, SAMPLE_BYTES, dtype.itemsize * channels, BLOCK_BYTES)
    if not sample.size:
        return {}
    measured = {
        code: measure_codec(sample, dtype, code, channels, repeats) for code in candidates(dtype)
    }
    return {code: each for code, each in measured.items() if each is not NEVER}


def measure_codec(
    sample: Bytes, dtype: torch.dtype, code: int, channels: int = 1, repeats: int = 2
) -> Measured:
    """One codec on all of ``sample``; ``NEVER`` where it does not make it smaller."""
    encode_s, decode_s, share = [], [], 1.0
    for _ in range(repeats):
        began_s = time.perf_counter()
        used, coded = encode_value(sample, dtype, code, channels)
        encoded_s = time.perf_counter()
        if used != code:
            return NEVER
        decode_value(coded, code, dtype, sample.size)
        encode_s.append(encoded_s - began_s)
        decode_s.append(time.perf_counter() - encoded_s)
        share = len(coded) / sample.size
    return Measured(share, min(encode_s) / sample.size, min(decode_s) / sample.size)
