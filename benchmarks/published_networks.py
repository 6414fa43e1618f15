"""The networks of Intra-DP's Table 1, operator by operator as torchvision builds them.

Random weights: counts and times do not depend on them. All take (1, 3, 224, 224) float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def conv_norm(
    inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, relu: bool = True
) -> nn.Sequential:
    """Convolution without bias, batch norm, and a ReLU unless told."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([nn.ReLU(True)] if relu else []))


class Vgg19BatchNorm(nn.Module):
    """Simonyan and Zisserman 2015, configuration E, with batch norm."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for outputs, depth in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
            for _ in range(depth):
                conv = nn.Conv2d(inputs, outputs, 3, padding=1)
                layers += [conv, nn.BatchNorm2d(outputs), nn.ReLU(True)]
                inputs = outputs
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(7)
        hidden = [nn.Linear(512 * 49, 4096), nn.ReLU(True), nn.Dropout()]
        hidden += [nn.Linear(4096, 4096), nn.ReLU(True), nn.Dropout()]
        self.classifier = nn.Sequential(*hidden, nn.Linear(4096, 1000))

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.classifier(torch.flatten(self.pool(self.features(image)), 1))
        return result


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 and the sum with the input, which a 1x1 convolution fits where it has to."""

    def __init__(self, inputs: int, inner: int, outputs: int, stride: int, groups: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            conv_norm(inputs, inner, 1),
            conv_norm(inner, inner, 3, stride, groups),
            conv_norm(inner, outputs, 1, relu=False),
        )
        fits = stride == 1 and inputs == outputs
        self.skip = None if fits else conv_norm(inputs, outputs, 1, stride, relu=False)
        self.relu = nn.ReLU(True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y += x if self.skip is None else self.skip(x)
        result: Tensor = self.relu(y)
        return result


class Residual(nn.Module):
    """ResNet, ResNeXt and RegNetX: stages of bottlenecks (inner width, outputs, depth)."""

    def __init__(
        self,
        stem: nn.Module,
        inputs: int,
        stages: Sequence[tuple[int, int, int]],
        first_stride: int = 1,
        groups: int = 1,
        group_width: int | None = None,
    ) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        for place, (inner, outputs, depth) in enumerate(stages):
            count = groups if group_width is None else inner // group_width
            for block in range(depth):
                stride = (2 if place else first_stride) if block == 0 else 1
                blocks.append(Bottleneck(inputs, inner, outputs, stride, count))
                inputs = outputs
        self.features = nn.Sequential(stem, *blocks)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, 1000)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.classifier(torch.flatten(self.pool(self.features(image)), 1))
        return result


def resnet101() -> nn.Module:
    """He et al. 2016."""
    stem = nn.Sequential(conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1))
    stages = [(64, 256, 3), (128, 512, 4), (256, 1024, 23), (512, 2048, 3)]
    return Residual(stem, 64, stages)


def resnext101_32x8d() -> nn.Module:
    """Xie et al. 2017: 32 groups."""
    stem = nn.Sequential(conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1))
    stages = [(256, 256, 3), (512, 512, 4), (1024, 1024, 23), (2048, 2048, 3)]
    return Residual(stem, 64, stages, groups=32)


def regnet_x_16gf() -> nn.Module:
    """Radosavovic et al. 2020: 22 blocks, groups of 128 channels."""
    stages = [(width, width, depth) for width, depth in ((256, 2), (512, 6), (896, 13), (2048, 1))]
    return Residual(conv_norm(3, 32, 3, 2), 32, stages, first_stride=2, group_width=128)


class DenseLayer(nn.Module):
    """Norm, ReLU, 1x1, norm, ReLU, 3x3 on all that the block has made so far."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inputs), nn.BatchNorm2d(4 * growth)
        self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)
        self.relu = nn.ReLU(True)

    def forward(self, features: list[Tensor]) -> Tensor:
        x = self.conv1(self.relu(self.norm1(torch.cat(features, 1))))
        result: Tensor = self.conv2(self.relu(self.norm2(x)))
        return result


class DenseBlock(nn.Module):
    """Each layer reads the outputs of all before it."""

    def __init__(self, inputs: int, growth: int, depth: int) -> None:
        super().__init__()
        layers = [DenseLayer(inputs + place * growth, growth) for place in range(depth)]
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class DenseNet121(nn.Module):
    """Huang et al. 2017: growth 32, blocks of 6, 12, 24 and 16 layers."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv_norm(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
        channels = 64
        for place, depth in enumerate((6, 12, 24, 16)):
            layers.append(DenseBlock(channels, 32, depth))
            channels += 32 * depth
            layers.append(nn.BatchNorm2d(channels))
            layers.append(nn.ReLU(True))
            if place < 3:
                layers.append(nn.Conv2d(channels, channels // 2, 1, bias=False))
                layers.append(nn.AvgPool2d(2))
                channels //= 2
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(channels, 1000)

    def forward(self, image: Tensor) -> Tensor:
        result: Tensor = self.classifier(torch.flatten(self.pool(self.features(image)), 1))
        return result


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of (N, C, H, W)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNextBlock(nn.Module):
    """Depthwise 7x7; over the channels a norm and a perceptron; scaled, and added."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gelu = nn.GELU()
        self.scale = nn.Parameter(torch.full((width, 1, 1), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        y = self.narrow(self.gelu(self.wide(y))).permute(0, 3, 1, 2)
        return x + self.scale * y


class ConvNextLarge(nn.Module):
    """Liu et al. 2022: widths 192 to 1536, 3, 3, 27 and 3 blocks."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 192, 4, 4), ChannelNorm(192, eps=1e-6)]
        width = 192
        for place, depth in enumerate((3, 3, 27, 3)):
            if place:
                layers += [ChannelNorm(width, eps=1e-6), nn.Conv2d(width, 2 * width, 2, 2)]
                width *= 2
            layers += [ConvNextBlock(width) for _ in range(depth)]
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.norm = ChannelNorm(width, eps=1e-6)
        self.classifier = nn.Linear(width, 1000)

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(self.pool(self.features(image)))
        result: Tensor = self.classifier(torch.flatten(x, 1))
        return result
