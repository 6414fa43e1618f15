"""Operators that ATen lacks and robots' models need, as ``torch.ops.offload_ros.decode_image``,
``nms`` and ``detect_poses``. A captured model keeps each as one node."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import torch

from offload_ros.models.kapao_network import KEYPOINTS
from offload_ros.models.kapao_poses import detect_poses

NAMESPACE = 'offload_ros'
NAMES = frozenset({'decode_image', 'nms', 'detect_poses'})
# Along the first axis of what these give there are as many as the data say.
DYNAMIC = frozenset({'offload_ros.nms.default', 'offload_ros.detect_poses.default'})
MAX_EXTENT = 16384  # pixels of an image's side

_library: Any = torch.library.Library(NAMESPACE, 'DEF')  # type: ignore[no-untyped-call]
_library.define('decode_image(Tensor data, int height, int width, bool rgb=True) -> Tensor')
_library.define('nms(Tensor boxes, Tensor scores, float iou_threshold) -> Tensor')
_library.define(
    'detect_poses(Tensor candidates, float person_score, float person_iou, float keypoint_score, '
    'float keypoint_iou, float gate, float tolerance_px, float scale_x=1.0, float scale_y=1.0, '
    'float left=0.0, float top=0.0) -> (Tensor poses, Tensor boxes)'
)


def decode_image(data: torch.Tensor, height: int, width: int, rgb: bool = True) -> torch.Tensor:
    """A JPEG or PNG file, (n) uint8, to (height, width, 3) uint8, in RGB or BGR order.

    ``ValueError`` for another format, for bytes that do not decode, and when the image has another
    size; the size is read from the file's head before memory is taken.
    """
    import cv2

    encoded = data.detach().to('cpu').contiguous().numpy()
    if encoded.dtype != np.uint8 or encoded.ndim != 1:
        raise ValueError('decode_image takes the bytes of a file: uint8 with one axis')
    size = image_size(encoded.tobytes()[: 1 << 20])
    if size != (height, width):
        raise ValueError(f'decode_image: the image has size {size}, the model {(height, width)}')
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None or image.shape != (height, width, 3):
        raise ValueError('decode_image: the bytes do not decode to an image')
    if rgb:
        image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return torch.from_numpy(image).to(data.device)


def image_size(encoded: bytes) -> tuple[int, int]:
    """(height, width) that the head of a JPEG or PNG file tells; ``ValueError`` for others."""
    try:
        if encoded.startswith(b'\x89PNG\r\n\x1a\n') and encoded[12:16] == b'IHDR':
            width, height = struct.unpack('>II', encoded[16:24])
            return height, width
        if encoded.startswith(b'\xff\xd8'):
            return _jpeg_size(encoded)
    except (IndexError, struct.error):
        pass
    raise ValueError('decode_image: neither a JPEG nor a PNG file, or it ends in its head')


def _jpeg_size(encoded: bytes) -> tuple[int, int]:
    """Walk the segments to the frame header (ITU T.81, B.2.2)."""
    place = 2
    while True:
        if encoded[place] != 0xFF:
            raise ValueError('decode_image: a JPEG file with a broken segment')
        marker = encoded[place + 1]
        if marker == 0xFF:  # padding
            place += 1
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack('>HH', encoded[place + 5 : place + 9])
            return height, width
        else:
            (length,) = struct.unpack('>H', encoded[place + 2 : place + 4])
            place += 2 + length


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Indices (int64) of the boxes, (N, 4: x1, y1, x2, y2), that remain, strongest first: greedy,
    each takes away those that it covers by more than ``iou_threshold``; ties by index."""
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise ValueError('nms takes boxes (N, 4) and scores (N)')
    order = scores.argsort(descending=True, stable=True)
    corners = boxes.detach()[order].to('cpu', torch.float32)
    low, high = corners[:, :2], corners[:, 2:]
    area = (high - low).prod(1)
    alive = torch.ones(len(order), dtype=torch.bool)
    kept = []
    for index in range(len(order)):
        if not alive[index]:
            continue
        kept.append(index)
        rest = slice(index + 1, None)
        shared = torch.minimum(high[index], high[rest]) - torch.maximum(low[index], low[rest])
        shared = shared.clamp(min=0).prod(1)
        alive[rest] &= shared <= iou_threshold * (area[index] + area[rest] - shared)
    return order[torch.tensor(kept, dtype=torch.int64, device=order.device)]


def _decode_image_fake(
    data: torch.Tensor, height: int, width: int, rgb: bool = True
) -> torch.Tensor:
    if not (0 < height <= MAX_EXTENT and 0 < width <= MAX_EXTENT):
        raise ValueError(f'decode_image: height and width are 1 to {MAX_EXTENT}')
    return data.new_empty((height, width, 3), dtype=torch.uint8)


def _nms_fake(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    context = torch.library.get_ctx()
    return boxes.new_empty((context.new_dynamic_size(),), dtype=torch.int64)


def _detect_poses_fake(
    candidates: torch.Tensor, *numbers: float, **named: float
) -> tuple[torch.Tensor, torch.Tensor]:
    count = torch.library.get_ctx().new_dynamic_size()
    poses = candidates.new_empty((count, KEYPOINTS, 3), dtype=torch.float32)
    return poses, candidates.new_empty((count, 5), dtype=torch.float32)


_library.impl('decode_image', decode_image, 'CompositeExplicitAutograd')
_library.impl('nms', nms, 'CompositeExplicitAutograd')
_library.impl('detect_poses', detect_poses, 'CompositeExplicitAutograd')
_fake = getattr(torch.library, 'register_fake', None) or torch.library.impl_abstract  # type: ignore[attr-defined]
_fake(f'{NAMESPACE}::decode_image', _decode_image_fake)
_fake(f'{NAMESPACE}::nms', _nms_fake)
_fake(f'{NAMESPACE}::detect_poses', _detect_poses_fake)
