"""From the sensor's own data to the network's input, inside the model: what travels stays one byte
a value."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from offload_ros.models.config import Preprocess
from offload_ros.models.errors import InputError


class ImagePreprocess(nn.Module):
    """(H, W, C) or (H, W) image, or (N,) bytes of a JPEG or PNG, to (1, C, h, w) float32.

    A compressed image is decoded to RGB here, so that its few bytes travel.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, spec: Preprocess) -> None:
        super().__init__()
        self.spec = spec
        self.register_buffer('mean', torch.tensor(spec.mean).reshape(1, -1, 1, 1), persistent=False)
        self.register_buffer('std', torch.tensor(spec.std).reshape(1, -1, 1, 1), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.ndim == 1:
            image = decode_image(image)
        if image.ndim == 2:
            image = image.unsqueeze(-1)
        if image.ndim != 3 or 0 in image.shape:
            raise InputError(
                f'an image (height, width, channels) is wanted, not {tuple(image.shape)}'
            )
        channels = len(self.spec.mean)
        if channels > 1 and image.shape[2] != channels:
            raise InputError(
                f'the image has {image.shape[2]} channels, preprocess.mean has {channels}'
            )
        planes = image.permute(2, 0, 1).unsqueeze(0).to(torch.float32)
        if self.spec.resize is not None:
            planes = self._resized(planes, self.spec.resize)
        return (planes * self.spec.scale - self.mean) / self.std

    def _resized(self, planes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        height, width = planes.shape[2:]
        target = size
        if self.spec.letterbox:
            ratio = min(size[0] / height, size[1] / width)
            target = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        if target != (height, width):
            planes = functional.interpolate(
                planes, size=target, mode='bilinear', align_corners=False, antialias=True
            )
        if target != size:
            top, left = (size[0] - target[0]) // 2, (size[1] - target[1]) // 2
            border = (left, size[1] - target[1] - left, top, size[0] - target[0] - top)
            planes = functional.pad(planes, border, value=self.spec.fill)
        return planes


def decode_image(data: torch.Tensor) -> torch.Tensor:
    """(N,) uint8 bytes of a JPEG or PNG to (H, W, 3) uint8 RGB on the same device; ``InputError``
    if broken."""
    if data.dtype != torch.uint8:
        raise InputError(f'compressed images are bytes, not {data.dtype}')
    try:
        decoded = cv2.imdecode(data.cpu().numpy(), cv2.IMREAD_COLOR) if data.numel() else None
    except cv2.error:  # e.g. it announces more pixels than OpenCV takes
        decoded = None
    if decoded is None:
        raise InputError(f'the compressed image ({data.numel()} bytes) cannot be decoded')
    return torch.from_numpy(np.ascontiguousarray(decoded[:, :, ::-1])).to(data.device)
