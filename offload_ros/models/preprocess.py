"""From the sensor's own data to the network's input, inside the model: what travels stays one byte
a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import nn
from torch.nn import functional

from offload_ros.models.config import Preprocess
from offload_ros.models.errors import InputError


@dataclass(frozen=True)
class Placement:
    """Where the sensor's image lies in the network's input: what is at (x, y) of it, counted from
    its corner, is at (``left + x scale_x``, ``top + y scale_y``). All in pixels."""

    scale_x: float = 1.0
    scale_y: float = 1.0
    left: float = 0.0
    top: float = 0.0


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
        return self.placed(image)[0]

    def placed(self, image: torch.Tensor) -> tuple[torch.Tensor, Placement]:
        """What ``forward`` gives, and where the image lies in it."""
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
        placement = Placement()
        if self.spec.resize is not None:
            planes, placement = self._resized(planes, self.spec.resize)
        return (planes * self.spec.scale - self.mean) / self.std, placement

    def _resized(
        self, planes: torch.Tensor, size: tuple[int, int]
    ) -> tuple[torch.Tensor, Placement]:
        height, width = planes.shape[2:]
        target = size
        if self.spec.letterbox:
            ratio = min(size[0] / height, size[1] / width)
            target = (max(1, round(height * ratio)), max(1, round(width * ratio)))
        if target != (height, width):
            planes = functional.interpolate(
                planes, size=target, mode='bilinear', align_corners=False, antialias=True
            )
        top, left = (size[0] - target[0]) // 2, (size[1] - target[1]) // 2
        if target != size:
            border = (left, size[1] - target[1] - left, top, size[0] - target[0] - top)
            planes = functional.pad(planes, border, value=self.spec.fill)
        return planes, Placement(target[1] / width, target[0] / height, float(left), float(top))


def computed(
    network: nn.Module, preprocess: ImagePreprocess | None, inputs: Sequence[torch.Tensor]
) -> Any:
    """What ``network`` returns for ``inputs``, of which the first is preprocessed.

    A network whose results are places in the image has the attribute ``takes_placement``: it is
    told as the argument ``placement`` where the sensor's image lies, to give them in its pixels.
    """
    if preprocess is None:
        return network(*inputs)
    first, placement = preprocess.placed(inputs[0])
    if getattr(network, 'takes_placement', False):
        return network(first, *inputs[1:], placement=placement)
    return network(first, *inputs[1:])


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
