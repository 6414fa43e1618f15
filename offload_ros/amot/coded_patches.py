"""Images and patches as JPEG or WebP within a number of bytes.

A-MOT's papers send raw pixels. Patches that belong to one message can instead be put together as
one image, a mosaic, which is coded as any other: more patches for the same bytes, not exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import cv2
import numpy as np
import numpy.typing as npt

from offload_ros.amot.patches import Bytes

QUALITIES = (*range(1, 10, 2), *range(10, 40, 5), *range(40, 80, 10), *range(80, 101, 5))
SCALES = (1.0, 0.75, 0.5, 0.375, 0.25)
FULL_COLOUR = 90  # from this quality on JPEG keeps all samples of colour
GOOD_ENOUGH = 40  # a quality at which fewer pixels would not look better
CODECS = {'jpeg': '.jpg', 'webp': '.webp'}


class CodedError(ValueError):
    """Bytes that came are not the image that was announced."""


@dataclass(frozen=True)
class Coded:
    """A coded image and how: quality 1 to 100, share of the image's edge that was kept."""

    data: bytes
    quality: int
    scale: float


def encode(image: Bytes, codec: str, quality: int) -> bytes:
    """An image (H, W, 3) uint8 RGB as a file of ``codec``, quality 1 to 100."""
    if codec not in CODECS:
        raise ValueError(f'a codec is one of {", ".join(CODECS)}, not {codec!r}')
    if codec == 'jpeg':
        options = [cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, 1]
        sampling = getattr(cv2, 'IMWRITE_JPEG_SAMPLING_FACTOR', None)  # from OpenCV 4.7 on
        if sampling is not None and quality >= FULL_COLOUR:
            options += [sampling, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    else:
        options = [cv2.IMWRITE_WEBP_QUALITY, quality]
    done, data = cv2.imencode(CODECS[codec], np.ascontiguousarray(image[..., ::-1]), options)
    if not done:
        raise ValueError(f'OpenCV cannot write {codec} here')
    return data.tobytes()


def decode(data: bytes, height: int, width: int) -> Bytes:
    """The image (height, width, 3) uint8 RGB; ``CodedError`` where the data is none of that size.

    The size is read from the data first, so that a wrong one takes no memory.
    """
    found = dimensions(data)
    if found != (height, width):
        raise CodedError(f'{height}x{width} pixels were announced, the data says {found}')
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if image is None or image.shape != (height, width, 3):
        raise CodedError('the data is damaged')
    return np.ascontiguousarray(image[..., ::-1], np.uint8)


def dimensions(data: bytes) -> tuple[int, int] | None:
    """(height, width) that a JPEG or a simple WebP file says it has; None: it is neither."""
    if data[:2] == b'\xff\xd8':
        return _jpeg_dimensions(data)
    if data[:4] == b'RIFF' and data[8:16] == b'WEBPVP8 ' and data[23:26] == b'\x9d\x01\x2a':
        width, height = (int.from_bytes(data[at : at + 2], 'little') & 0x3FFF for at in (26, 28))
        return (height, width) if len(data) >= 30 else None
    return None


def _jpeg_dimensions(data: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(data) and data[at] == 0xFF:
        kind, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4], 'big')
        if kind in (0xC0, 0xC1, 0xC2):
            height, width = (int.from_bytes(data[at + n : at + n + 2], 'big') for n in (5, 7))
            return height, width
        at += 2 + max(2, length)
    return None


def code_within(
    image: Bytes, limit: int, codec: str, scales: Sequence[float] = SCALES
) -> Coded | None:
    """The best that ``limit`` bytes can hold of an image (H, W, 3); None: nothing fits.

    The greatest quality that fits, and where that is low, fewer pixels too: what is nearest to the
    image after it was scaled up again. Raises nothing for a small ``limit``.
    """
    return Ladder(image, codec, scales).within(limit)


class Ladder:
    """An image in all qualities that were needed so far: for asking with several limits."""

    def __init__(self, image: Bytes, codec: str, scales: Sequence[float] = SCALES) -> None:
        self._image, self._codec, self._scales = image, codec, scales
        self._known: dict[tuple[float, int], bytes] = {}

    def at(self, scale: float, quality: int) -> bytes:
        """Coded, whatever it takes."""
        if (scale, quality) not in self._known:
            height, width = scaled(self._image.shape, scale)
            small = self._image
            if scale < 1.0:
                small = np.asarray(
                    cv2.resize(self._image, (width, height), interpolation=cv2.INTER_AREA), np.uint8
                )
            self._known[scale, quality] = encode(small, self._codec, quality)
        return self._known[scale, quality]

    def within(self, limit: int) -> Coded | None:
        """See ``code_within``."""
        best, least = None, math.inf
        for scale in self._scales:
            quality = self._quality_within(scale, limit)
            if quality is None:
                continue
            coded = Coded(self.at(scale, quality), quality, scale)
            if best is None and quality >= GOOD_ENOUGH:
                return coded
            error = self._error(coded)
            if error < least:
                best, least = coded, error
            if quality >= GOOD_ENOUGH:
                break
        return best

    def _quality_within(self, scale: float, limit: int) -> int | None:
        low, high = 0, len(QUALITIES)  # those below `low` fit, those from `high` on do not
        while low < high:
            middle = (low + high) // 2
            if len(self.at(scale, QUALITIES[middle])) <= limit:
                low = middle + 1
            else:
                high = middle
        return QUALITIES[low - 1] if low else None

    def _error(self, coded: Coded) -> float:
        height, width = self._image.shape[:2]
        seen = restored(coded, height, width)
        return float(np.square(seen.astype(np.float32) - self._image).mean())


def scaled(shape: Sequence[int], scale: float) -> tuple[int, int]:
    """(height, width) at a scale."""
    return max(1, round(shape[0] * scale)), max(1, round(shape[1] * scale))


def restored(coded: Coded, height: int, width: int) -> Bytes:
    """The image (height, width, 3) as it is after coding."""
    small = decode(coded.data, *scaled((height, width), coded.scale))
    if small.shape[:2] == (height, width):
        return small
    return np.asarray(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


# ---- patches


def mosaic_size(count: int) -> tuple[int, int]:
    """(rows, columns) of patches that ``count`` of them are put together in."""
    columns = math.ceil(math.sqrt(count))
    return math.ceil(count / columns), columns


def mosaic(patches: Bytes, patch_px: int) -> Bytes:
    """Patches (K, patch_px * patch_px * 3) as one image; the last one fills up."""
    rows, columns = mosaic_size(len(patches))
    filled = np.concatenate([patches, np.repeat(patches[-1:], rows * columns - len(patches), 0)])
    tiles = filled.reshape(rows, columns, patch_px, patch_px, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(tiles.reshape(rows * patch_px, columns * patch_px, 3))


def patches_in(image: Bytes, count: int, patch_px: int) -> Bytes:
    """The first ``count`` patches of a mosaic."""
    rows, columns = mosaic_size(count)
    tiles = image.reshape(rows, patch_px, columns, patch_px, 3).transpose(0, 2, 1, 3, 4)
    return np.ascontiguousarray(tiles.reshape(rows * columns, -1)[:count])


def code_patches(patches: Bytes, patch_px: int, limit: int, codec: str) -> bytes | None:
    """Patches (K, P) as one file of at most ``limit`` bytes, as good as fits; None: none fits."""
    coded = code_within(mosaic(patches, patch_px), limit, codec, scales=(1.0,))
    return None if coded is None else coded.data


def decode_patches(data: bytes, count: int, patch_px: int) -> npt.NDArray[np.uint8]:
    """(count, P) of what ``code_patches`` made; ``CodedError`` where it is not that."""
    rows, columns = mosaic_size(count)
    return patches_in(decode(data, rows * patch_px, columns * patch_px), count, patch_px)
