"""Sensor messages to the tensors that models take, in the sensor's own dtype, without a copy where
possible."""

from __future__ import annotations

from array import array
from collections.abc import Callable
import importlib
from typing import Any

from cv_bridge import CvBridge, CvBridgeError
import numpy as np
import torch

from offload_ros.models.config import InputSpec
from offload_ros.models.errors import InputError

Converted = tuple[torch.Tensor, 'array[int] | None']
_bridge = CvBridge()
_POINT_DTYPES = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 8: 'f8'}


def message_type(spec: InputSpec) -> type:
    """The message class of an input's topic."""
    package, _, name = spec.type.split('/')
    kind: type = getattr(importlib.import_module(f'{package}.msg'), name)
    return kind


def to_tensor(message: Any, spec: InputSpec) -> Converted:
    """A message to its tensor, and the buffer that holds exactly its data if there is one.

    Image: (H, W, C) or (H, W) in ``spec.encoding``; CompressedImage: (N,) uint8, the coded bytes;
    PointCloud2: (N, 3) float32 x, y, z in metres, unordered invalid points dropped; LaserScan:
    (N,) float32 ranges in metres.
    ``InputError`` says what is wrong with the message.
    """
    return _CONVERTERS[spec.type.rpartition('/')[2]](message, spec)


def _image(message: Any, spec: InputSpec) -> Converted:
    try:
        image = _bridge.imgmsg_to_cv2(message, desired_encoding=spec.encoding)
    except (CvBridgeError, TypeError, ValueError, AttributeError, KeyError) as error:
        raise InputError(
            f"image on {spec.topic} in encoding '{message.encoding}' "
            f'({message.width}x{message.height}, '
            f"{len(message.data)} bytes) cannot become '{spec.encoding}' for input "
            f"'{spec.name}': {error}"
        ) from None
    # A conversion made a new image; otherwise its bytes are the message's, unless rows are padded.
    same = isinstance(message.data, array) and image.nbytes == len(message.data)
    shared = same and np.shares_memory(image, np.frombuffer(message.data, dtype=np.uint8))
    return _tensor(image), message.data if shared else None


def _compressed(message: Any, spec: InputSpec) -> Converted:
    if len(message.data) == 0:
        raise InputError(f'compressed image on {spec.topic} is empty')
    data = message.data if isinstance(message.data, array) else array('B', bytes(message.data))
    return torch.frombuffer(data, dtype=torch.uint8), data


def _points(message: Any, spec: InputSpec) -> Converted:
    fields = {field.name: field for field in message.fields}
    if not {'x', 'y', 'z'} <= set(fields):
        raise InputError(
            f'point cloud on {spec.topic} has fields {sorted(fields)}, x, y and z are needed'
        )
    count = message.width * message.height
    if (
        len(message.data) < message.row_step * message.height
        or message.row_step < message.width * message.point_step
        or any(
            fields[axis].datatype not in _POINT_DTYPES
            or fields[axis].offset + np.dtype(_POINT_DTYPES[fields[axis].datatype]).itemsize
            > message.point_step
            for axis in 'xyz'
        )
    ):
        raise InputError(
            f'point cloud on {spec.topic}: {message.width}x{message.height} points of '
            f'{message.point_step} bytes '
            f'do not fit its {len(message.data)} bytes and fields'
        )
    order = '>' if message.is_bigendian else '<'
    layout = np.dtype(
        {
            'names': ['x', 'y', 'z'],
            'formats': [order + _POINT_DTYPES[fields[axis].datatype] for axis in 'xyz'],
            'offsets': [fields[axis].offset for axis in 'xyz'],
            'itemsize': max(message.point_step, 1),
        }
    )
    if count == 0:
        return torch.empty((0, 3)), None
    rows = np.ndarray(
        (message.height, message.width),
        layout,
        bytes(message.data),
        0,
        (message.row_step, message.point_step),
    )
    points = np.stack([rows[axis].reshape(-1).astype(np.float32) for axis in 'xyz'], axis=1)
    return torch.from_numpy(points[np.isfinite(points).all(axis=1)]), None


def _scan(message: Any, spec: InputSpec) -> Converted:
    if len(message.ranges) == 0:
        raise InputError(f'scan on {spec.topic} is empty')
    return torch.from_numpy(np.array(message.ranges, dtype=np.float32)), None


def _tensor(image: np.ndarray) -> torch.Tensor:
    if not image.dtype.isnative:
        image = image.astype(image.dtype.newbyteorder('='))
    if not image.flags.c_contiguous or not image.flags.writeable:
        image = np.array(image, order='C')
    return torch.from_numpy(image)


_CONVERTERS: dict[str, Callable[[Any, InputSpec], Converted]] = {
    'Image': _image,
    'CompressedImage': _compressed,
    'PointCloud2': _points,
    'LaserScan': _scan,
}
