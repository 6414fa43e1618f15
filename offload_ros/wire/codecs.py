"""Lossless codecs for the bytes of a tensor; ``codec_choice`` picks one where it pays.

A codec is a filter that makes bytes alike, followed by a compressor:

  bits     8 binary values (bytes 0 or 1) in a byte, the first in the highest bit
  shuffle  first bytes of all values, then all second bytes, ...: exponents come to lie together
  delta    difference to the same channel of the pixel before; with three channels the outer two
           also relative to the middle one (green, in RGB as in BGR)

Every decoder takes at most the ``size`` bytes that shape and dtype demand. Damage on the way is the
transport's to find: a changed byte may decode to other values, but never to another size.

zstd: RFC 8878, one frame with its content size. LZ4: the block format, without a header.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
import threading
from typing import TypeAlias

import lz4.block  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import zstandard

from offload_ros.wire.errors import WireError

Buffer: TypeAlias = 'bytes | bytearray | memoryview | array[int] | npt.NDArray[np.uint8]'
Bytes: TypeAlias = npt.NDArray[np.uint8]

# Codes on the wire (``msg/Tensor.msg``): never given to another codec.
RAW = 0
BITS = 1
LZ4 = 2
ZSTD = 3
BITS_ZSTD = 4
SHUFFLE_ZSTD = 5
DELTA_ZSTD = 6


@dataclass(frozen=True)
class Codec:
    """Filter ('', 'bits', 'shuffle', 'delta') and compressor ('', 'lz4', 'zstd') of a code."""

    name: str
    filter: str = ''
    compressor: str = ''


CODECS = {
    RAW: Codec('raw'),
    BITS: Codec('bits', 'bits'),
    LZ4: Codec('lz4', '', 'lz4'),
    ZSTD: Codec('zstd', '', 'zstd'),
    BITS_ZSTD: Codec('bits+zstd', 'bits', 'zstd'),
    SHUFFLE_ZSTD: Codec('shuffle+zstd', 'shuffle', 'zstd'),
    DELTA_ZSTD: Codec('delta+zstd', 'delta', 'zstd'),
}
# Level 3 gives a few per cent on pictures and activations, for half the speed or less on noise.
ZSTD_LEVEL = 1


class _Zstd(threading.local):
    """One context per thread: making one costs more than coding a small tensor, and none may be
    shared."""

    def __init__(self) -> None:
        self.compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        self.decompressor = zstandard.ZstdDecompressor()


_zstd = _Zstd()


class NotBinaryError(ValueError):
    """``encode`` was asked for bits of data that has other bytes than 0 and 1."""


def channels_of(shape: Sequence[int]) -> int:
    """Return the channels of a pixel for an image (H, W, C) with C at most 4, else 1."""
    return int(shape[-1]) if len(shape) == 3 and 1 <= shape[-1] <= 4 else 1


def encode(data: Buffer, code: int, itemsize: int = 1, channels: int = 1) -> memoryview:
    """Code ``data``, whole values of ``itemsize`` bytes, with ``code`` of ``CODECS``.

    ``channels`` (see ``channels_of``) matters to delta only, which is for values of one byte.
    RAW gives ``data`` itself, not a copy. ``NotBinaryError`` where bits were asked for and a byte
    is above 1, ``ValueError`` for an unknown code or sizes that do not fit.
    """
    plain = np.frombuffer(data, np.uint8)
    if code not in CODECS:
        raise ValueError(f'codec {code} is unknown; known: {sorted(CODECS)}')
    if itemsize < 1 or plain.size % itemsize:
        raise ValueError(f'{plain.size} bytes are no whole values of {itemsize} bytes')
    if code == RAW or plain.size == 0:
        return plain.data
    codec = CODECS[code]
    head = b''
    if codec.filter == 'bits':
        if plain.max() > 1:
            raise NotBinaryError(f'{codec.name} needs bytes 0 and 1, the data has {plain.max()}')
        plain = np.packbits(plain)
    elif codec.filter == 'shuffle':
        plain = np.ascontiguousarray(plain.reshape(-1, itemsize).T).reshape(-1)
    elif codec.filter == 'delta':
        if not 1 <= channels <= 255 or plain.size % channels:
            raise ValueError(f'{plain.size} bytes are no whole pixels of {channels} channels')
        plain, head = _differences(plain, channels), bytes([channels])
    if codec.compressor == 'lz4':
        return memoryview(lz4.block.compress(plain, store_size=False))
    if codec.compressor == 'zstd':
        frame = _zstd.compressor.compress(plain.data)
        return memoryview(head + frame if head else frame)
    return plain.data


def decode(data: Buffer, code: int, itemsize: int, size: int) -> Bytes:
    """Return the (size,) uint8 bytes that were coded, in new writable memory (RAW: ``data``'s own).

    ``size`` follows from the tensor's shape and dtype and is already limited by the caller; no more
    than a few times ``size`` is ever allocated. ``WireError`` when ``data`` is anything but the
    coding of exactly ``size`` bytes.
    """
    coded = np.frombuffer(data, np.uint8)
    codec = CODECS.get(code)
    if codec is None:
        raise WireError(f'codec {code} is unknown; this side knows {sorted(CODECS)}')
    if size < 0 or itemsize < 1 or size % itemsize:
        raise WireError(f'{codec.name}: {size} bytes are no whole values of {itemsize} bytes')
    if code == RAW or size == 0:
        if coded.size != size:
            raise WireError(f'{codec.name}: {size} bytes are wanted, {coded.size} came')
        return coded
    channels = 1
    if codec.filter == 'delta':
        channels = int(coded[0]) if coded.size else 0
        if not channels or size % channels:
            raise WireError(f'{codec.name}: {size} bytes are no pixels of {channels} channels')
        coded = coded[1:]
    filtered = -(-size // 8) if codec.filter == 'bits' else size
    if codec.compressor:
        coded = _decompress(coded, codec, filtered)
    elif coded.size != filtered:
        raise WireError(f'{codec.name}: {filtered} bytes are wanted, {coded.size} came')
    if codec.filter == 'bits':
        if size % 8 and coded[-1] & (0xFF >> size % 8):
            raise WireError(f'{codec.name}: there are bits after the last of {size} values')
        return np.unpackbits(coded, count=size)
    if codec.filter == 'shuffle' and itemsize > 1:
        return _unshuffled(coded, itemsize)
    if codec.filter == 'delta':
        return _sums(coded, channels)
    # The library's bytes are read-only, and tensors are not.
    return coded if coded.flags.writeable else coded.copy()


def _decompress(coded: Bytes, codec: Codec, size: int) -> Bytes:
    try:
        if codec.compressor == 'lz4':
            plain = lz4.block.decompress(coded, uncompressed_size=size, return_bytearray=True)
        else:
            # Unknown reads as 2**64 - 1, which is refused like any other size.
            claimed = zstandard.get_frame_parameters(coded.data).content_size
            if claimed != size:
                raise WireError(f'{codec.name}: {size} bytes are wanted, the frame has {claimed}')
            plain = _zstd.decompressor.decompress(
                coded.data, max_output_size=size, allow_extra_data=False
            )
    except (lz4.block.LZ4BlockError, zstandard.ZstdError, OverflowError) as error:
        raise WireError(f'{codec.name}: no coding of {size} bytes: {error}') from None
    if len(plain) != size:
        raise WireError(f'{codec.name}: {size} bytes are wanted, {len(plain)} came out')
    return np.frombuffer(plain, np.uint8)


def _unshuffled(planes: Bytes, itemsize: int) -> Bytes:
    values = np.empty((planes.size // itemsize, itemsize), np.uint8)
    # Plane by plane: three times as fast as one transposed copy.
    for index, plane in enumerate(planes.reshape(itemsize, -1)):
        values[:, index] = plane
    return values.reshape(-1)


def _differences(plain: Bytes, channels: int) -> Bytes:
    """Return each byte less the one ``channels`` before it, modulo 256."""
    changes = np.empty_like(plain)
    changes[:channels] = plain[:channels]
    np.subtract(plain[channels:], plain[:-channels], out=changes[channels:])
    if channels == 3:
        pixels = changes.reshape(-1, 3)
        for outer in (0, 2):
            pixels[:, outer] -= pixels[:, 1]
    return changes


def _sums(changes: Bytes, channels: int) -> Bytes:
    """Undo ``_differences``; both steps are linear modulo 256, so their order is free."""
    pixels: Bytes = np.add.accumulate(changes.reshape(-1, channels), axis=0, dtype=np.uint8)
    if channels == 3:
        for outer in (0, 2):
            pixels[:, outer] += pixels[:, 1]
    return pixels.reshape(-1)
