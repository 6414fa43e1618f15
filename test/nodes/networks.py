"""Small networks for the tests, as a user's own module would have them; odd sizes on purpose."""

from __future__ import annotations

import os
from pathlib import Path
import time

import torch
from torch import nn


class Conv(nn.Module):
    """(H, W, 3) uint8 to ``map`` (1, 5, h, w) and ``mean`` (5,)."""

    weights_trained = True

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 7, 3, 2, 1), nn.SiLU(), nn.Conv2d(7, 5, 5))

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        feature_map = self.layers(image.permute(2, 0, 1).unsqueeze(0).float() / 255.0)
        return {'map': feature_map, 'mean': feature_map.mean((0, 2, 3))}


class ColourAndDepth(nn.Module):
    """(H, W, 3) uint8 and (H, W) float32 metres to the mean colour of what is near (3,)."""

    weights_trained = True

    def forward(self, image: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
        near = (depth < 2.0).unsqueeze(-1)
        return (image.float() * near).sum((0, 1)) / near.sum().clamp(min=1)


class Points(nn.Module):
    """(N, 3) float32 to extent (3,) and count (1,) int64."""

    weights_trained = True

    def forward(self, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return points.amax(0) - points.amin(0), torch.tensor([len(points)])


class Ranges(nn.Module):
    """(N,) float32 to the sorted three smallest (3,)."""

    weights_trained = True

    def forward(self, ranges: torch.Tensor) -> torch.Tensor:
        return ranges.sort().values[:3]


class Identity(nn.Module):
    """The mean of (H, W, 3) uint8 as (1,): tells frames apart. ``delay_s``: a heavy network."""

    weights_trained = True

    def __init__(self, delay_s: float = 0.0) -> None:
        super().__init__()
        self.delay_s = delay_s

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        time.sleep(self.delay_s)
        return image.double().mean().reshape(1)


class Paced(Identity):
    """``Identity`` plus ``offset``, whose delay each process reads anew for every inference.

    It stands in seconds in the file that the environment variable PACE names; without one it is
    none. So a test makes a server slow, and quick again, while it runs.
    """

    def __init__(self, offset: float = 0.0, load_s: float = 0.0) -> None:
        super().__init__()
        self.offset = offset
        time.sleep(load_s)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        file = os.environ.get('PACE')
        if file:
            time.sleep(float(Path(file).read_text()))
        return super().forward(image) + self.offset


class Hungry(Paced):
    """``Paced`` that takes memory as the file beside PACE, named ``.memory``, says anew for every
    inference: so many bytes, or the error of a device that has no more (``CPU`` or ``CUDA``)."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        file = Path(os.environ.get('PACE', 'none')).with_suffix('.memory')
        wanted = file.read_text() if file.exists() else '0'
        if wanted == 'CPU':
            raise MemoryError
        if wanted == 'CUDA':
            raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 20.00 GiB.')
        taken = torch.empty(int(wanted), dtype=torch.uint8)
        return super().forward(image) + taken[:0].sum()


def export_conv(path: str) -> None:
    """Write ``Conv`` for 33x45 images as a torch.export archive."""
    torch.manual_seed(3)
    example = (torch.zeros((33, 45, 3), dtype=torch.uint8),)
    torch.export.save(torch.export.export(Conv().eval(), example), path)
