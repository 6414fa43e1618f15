"""The networks of ``benchmarks/intra_dp.py``: inputs as a sensor gives them, random weights.

Sized for one core of a common machine as the server: 20 to 120 ms each. Their ratio of computing to
bytes is such that offloading begins to pay between 5 and 160 Mbit/s, as it did for the published
networks on a real robot's accelerator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
import sys

import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1]))
from benchmarks.published_networks import ChannelNorm, ConvNextBlock

TOLERANCE_RTOL, TOLERANCE_ATOL = 1e-4, 1e-5  # the second of the output's maximum


class FromCamera(nn.Module):
    """(H, W, 3) uint8 to class scores."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        planes = image.permute(2, 0, 1).unsqueeze(0).to(torch.float32) / 255.0
        result: Tensor = self.network(planes)
        return result


def vgg19(divisor: int = 4) -> nn.Module:
    """Simonyan and Zisserman 2015, configuration E with batch norm, all widths by ``divisor``."""
    layers: list[nn.Module] = []
    inputs = 3
    for width, depth in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
        for _ in range(depth):
            outputs = width // divisor
            conv = nn.Conv2d(inputs, outputs, 3, padding=1)
            layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU(True)]
            inputs = outputs
        layers.append(nn.MaxPool2d(2))
    hidden = 4096 // divisor
    layers += [nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(inputs * 49, hidden)]
    layers += [nn.ReLU(True), nn.Linear(hidden, hidden), nn.ReLU(True), nn.Linear(hidden, 1000)]
    return nn.Sequential(*layers)


def convnext() -> nn.Module:
    """Liu et al. 2022 with widths 48 to 384 and 2, 2, 6 and 2 blocks."""
    layers: list[nn.Module] = [nn.Conv2d(3, 48, 4, 4), ChannelNorm(48, eps=1e-6)]
    width = 48
    for place, depth in enumerate((2, 2, 6, 2)):
        if place:
            layers += [ChannelNorm(width, eps=1e-6), nn.Conv2d(width, 2 * width, 2, 2)]
            width *= 2
        layers += [ConvNextBlock(width) for _ in range(depth)]
    layers += [nn.AdaptiveAvgPool2d(1), ChannelNorm(width, eps=1e-6), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(width, 1000))


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """3x3 in the plane, and a ReLU."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.ReLU(True))


def conv3d(channels: int, dilation: int) -> nn.Sequential:
    """3x3x3 and its batch norm."""
    conv = nn.Conv3d(channels, channels, 3, 1, dilation, dilation, bias=False)
    return nn.Sequential(conv, nn.BatchNorm3d(channels))


class SceneCompletion(nn.Module):
    """Occupied voxels (W, H, D) of 0 and 1 uint8 to labels of the same grid, uint8.

    Built as SCONet is: height as image channels, an encoder and decoder over the plane, and a head
    over the volume with parallel dilated convolutions. Here the head works on half the grid, whose
    labels are repeated.
    """

    def __init__(self, height: int = 32, channels: int = 12, classes: int = 8) -> None:
        super().__init__()
        self.half_height, self.channels = height // 2, channels
        self.stem = conv(height, 32, 2)
        self.down1 = nn.Sequential(conv(32, 48, 2), conv(48, 48))
        self.down2 = nn.Sequential(conv(48, 64, 2), conv(64, 64))
        self.up1 = nn.ConvTranspose2d(64, 48, 2, 2)
        self.merge1 = conv(96, 48)
        self.up2 = nn.ConvTranspose2d(48, 32, 2, 2)
        self.merge2 = nn.Conv2d(64, channels * self.half_height, 1)
        self.branches = nn.ModuleList(conv3d(channels, rate) for rate in (1, 2))
        self.head = nn.Conv3d(channels, classes, 1)

    def scores(self, voxels: Tensor) -> Tensor:
        """(1, classes, W / 2, H / 2, D / 2) float32."""
        x = self.stem(voxels.permute(1, 0, 2).unsqueeze(0).to(torch.float32))
        y = self.down1(x)
        z = self.merge1(torch.cat((self.up1(self.down2(y)), y), 1))
        z = self.merge2(torch.cat((self.up2(z), x), 1))
        z = z.unflatten(1, (self.channels, self.half_height)).permute(0, 1, 3, 2, 4).contiguous()
        total = z
        for branch in self.branches:
            total = total + branch(z)
        result: Tensor = self.head(torch.relu(total))
        return result

    def forward(self, voxels: Tensor) -> Tensor:
        labels = self.scores(voxels).argmax(1, keepdim=True).to(torch.uint8)
        whole: Tensor = nn.functional.interpolate(labels, scale_factor=2, mode='nearest')[0, 0]
        return whole


def camera(height: int, width: int) -> dict[str, Tensor]:
    """Noise: no codec shrinks it."""
    return {'image': torch.randint(0, 256, (height, width, 3), dtype=torch.uint8)}


def scene(width: int, height: int, depth: int) -> dict[str, Tensor]:
    """What a lidar sees of ground and boxes: the cells of their surfaces, some missing."""
    voxels = torch.zeros(width, height, depth, dtype=torch.uint8)
    voxels[:, 1] = 1
    for _ in range(40):
        w, h, d = (int(torch.randint(3, 3 + extent // 6, ())) for extent in (width, height, depth))
        x, y = (
            int(torch.randint(0, extent - size, ())) for extent, size in ((width, w), (depth, d))
        )
        voxels[x : x + w, 1 : 2 + h, y : y + d] = 1
        voxels[x + 1 : x + w - 1, 1 : 1 + h, y + 1 : y + d - 1] = 0
    return {'voxels': voxels * (torch.rand(voxels.shape) < 0.7)}


@dataclass(frozen=True)
class Subject:
    """A network, its input, and the bandwidths (Mbit/s) around its crossover."""

    network: nn.Module
    inputs: Mapping[str, Tensor]

    def reference(self) -> dict[str, Tensor]:
        """What the model itself gives, not its graph."""
        with torch.inference_mode():
            return {'output': self.network(**self.inputs)}

    def agreement(self, outputs: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> str:
        """``bits``, ``close`` (rtol 1e-4, atol 1e-5 of the maximum; labels may differ where two
        classes are so close), or what is wrong."""
        (found,) = outputs.values()
        (want,) = wanted.values()
        if found.shape != want.shape or found.dtype != want.dtype:
            return f'{found.dtype} {tuple(found.shape)}, not {want.dtype} {tuple(want.shape)}'
        if torch.equal(found, want):
            return 'bits'
        if want.is_floating_point():
            atol = TOLERANCE_ATOL * float(want.abs().max())
            close = torch.isclose(found, want, TOLERANCE_RTOL, atol)
        else:
            close = (found == want) | self._near_ties()
        return 'close' if bool(close.all()) else f'{int((~close).sum())} values differ'

    def _near_ties(self) -> Tensor:
        """Where the two best classes are within the tolerance."""
        assert isinstance(self.network, SceneCompletion)
        with torch.inference_mode():
            scores = self.network.scores(**self.inputs)
        best = scores.topk(2, 1).values
        near = best[:, 0] - best[:, 1] <= 2 * TOLERANCE_ATOL * scores.abs().max()
        whole = nn.functional.interpolate(
            near[:, None].to(torch.uint8), scale_factor=2, mode='nearest'
        )
        return whole[0, 0].to(torch.bool)


NETWORKS: dict[str, Callable[[], Subject]] = {
    'VGG19': lambda: Subject(FromCamera(vgg19()), camera(240, 320)),
    'ConvNeXt': lambda: Subject(FromCamera(convnext()), camera(360, 480)),
    'SCONet': lambda: Subject(SceneCompletion(), scene(256, 32, 256)),
}


def build(name: str) -> Subject:
    """With the same weights and input in every process."""
    torch.manual_seed(0)
    made = NETWORKS[name]()
    made.network.eval()
    return made
