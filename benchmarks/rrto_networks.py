"""The networks of ``benchmarks/rrto.py``: ResNet-50, a YOLOv5s-like detector, ViT small, Swin tiny.

Random weights: what is measured does not depend on them. Each takes an image as the camera gives
it, (H, W, 3) uint8, and scales it itself, so that a byte a value travels whoever sends it. Also the
factories that models.yaml of the benchmark names.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

BOXES = 300
STRIDES = (8, 16, 32)
ANCHORS = (  # (width, height) in pixels of the input, three for each stride
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (59, 119)),
    ((116, 90), (156, 198), (373, 326)),
)


class FromImage(nn.Module):
    """(H, W, 3) uint8 to what ``network`` gives for (1, 3, H, W) float32 in [0, 1]."""

    weights_trained = False

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """One tensor: of a transformers model its logits."""
        pixels = image.permute(2, 0, 1).contiguous().unsqueeze(0).float() / 255.0
        result = self.network(pixels)
        return result if isinstance(result, torch.Tensor) else result.logits


class ConvNormAct(nn.Module):
    """Convolution, batch norm, SiLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> None:
        super().__init__()
        padding = (kernel - 1) // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        self.act = nn.SiLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) to (B, outputs, H / stride, W / stride)."""
        return self.act(self.norm(self.conv(x)))


class Bottleneck(nn.Module):
    """1x1 and 3x3 convolutions, with a residual connection in the backbone."""

    def __init__(self, channels: int, residual: bool) -> None:
        super().__init__()
        self.reduce = ConvNormAct(channels, channels)
        self.conv = ConvNormAct(channels, channels, 3)
        self.residual = residual

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        y = self.conv(self.reduce(x))
        return x + y if self.residual else y


class CspStage(nn.Module):
    """Cross-stage partial block: one half of the channels passes ``depth`` bottlenecks."""

    def __init__(self, inputs: int, outputs: int, depth: int, residual: bool = True) -> None:
        super().__init__()
        half = outputs // 2
        self.deep = ConvNormAct(inputs, half)
        self.shallow = ConvNormAct(inputs, half)
        self.blocks = nn.Sequential(*(Bottleneck(half, residual) for _ in range(depth)))
        self.merge = ConvNormAct(outputs, outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, inputs, H, W) to (B, outputs, H, W)."""
        return self.merge(torch.cat((self.blocks(self.deep(x)), self.shallow(x)), 1))


class PoolPyramid(nn.Module):
    """The input and three 5x5 max pools, each of the one before, side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = ConvNormAct(channels, channels // 2)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.merge = ConvNormAct(2 * channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Same shape."""
        found = [self.reduce(x)]
        for _ in range(3):
            found.append(self.pool(found[-1]))
        return self.merge(torch.cat(found, 1))


class DetectHead(nn.Module):
    """Raw maps to boxes in pixels, the surest ones, without suppression of overlaps. Its grids are
    made anew when the input's size changes, as in YOLOv5: the first inference of a size is not like
    the others."""

    def __init__(self, channels: Sequence[int], classes: int) -> None:
        super().__init__()
        self.values = 5 + classes
        self.convs = nn.ModuleList(nn.Conv2d(count, 3 * self.values, 1) for count in channels)
        self.register_buffer('anchors', torch.tensor(ANCHORS, dtype=torch.float32))
        self.grids: list[torch.Tensor | None] = [None] * len(channels)

    def forward(self, maps: Sequence[torch.Tensor]) -> torch.Tensor:
        """To (B, BOXES, 5 + classes): centre x, y, width, height, confidences."""
        found = []
        for level, (conv, stride) in enumerate(zip(self.convs, STRIDES, strict=True)):
            raw = conv(maps[level])
            batch, _, height, width = raw.shape
            raw = raw.view(batch, 3, self.values, height, width).permute(0, 1, 3, 4, 2).contiguous()
            grid = self.grids[level]
            if grid is None or grid.shape[2:4] != raw.shape[2:4] or grid.device != raw.device:
                grid = self.grids[level] = self._grid(height, width, raw.device)
            centres, sizes, scores = raw.sigmoid().split((2, 2, self.values - 4), 4)
            centres = (centres * 2 + grid) * stride
            sizes = (sizes * 2) ** 2 * self.anchors[level].view(1, 3, 1, 1, 2)
            boxes = torch.cat((centres, sizes, scores), 4)
            found.append(boxes.view(batch, 3 * height * width, self.values))
        boxes = torch.cat(found, 1)
        surest = boxes[..., 4].topk(BOXES, 1).indices
        return boxes.gather(1, surest.unsqueeze(2).expand(-1, -1, self.values))

    @staticmethod
    def _grid(height: int, width: int, device: torch.device) -> torch.Tensor:
        y, x = torch.arange(height, device=device), torch.arange(width, device=device)
        rows, columns = torch.meshgrid(y, x, indexing='ij')
        return (torch.stack((columns, rows), 2) - 0.5).view(1, 1, height, width, 2)


class YoloV5s(nn.Module):
    """CSP backbone, path aggregation neck, anchor head; depth 0.33 and width 0.5 of YOLOv5."""

    def __init__(self, classes: int = 80) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvNormAct(3, 32, 6, 2), ConvNormAct(32, 64, 3, 2))
        self.stem[0].conv.padding = (2, 2)
        self.stage3 = nn.Sequential(
            CspStage(64, 64, 1), ConvNormAct(64, 128, 3, 2), CspStage(128, 128, 2)
        )
        self.stage4 = nn.Sequential(ConvNormAct(128, 256, 3, 2), CspStage(256, 256, 3))
        self.stage5 = nn.Sequential(
            ConvNormAct(256, 512, 3, 2), CspStage(512, 512, 1), PoolPyramid(512)
        )
        self.up = nn.Upsample(scale_factor=2)
        self.lateral5 = ConvNormAct(512, 256)
        self.top4 = CspStage(512, 256, 1, residual=False)
        self.lateral4 = ConvNormAct(256, 128)
        self.out3 = CspStage(256, 128, 1, residual=False)
        self.down3 = ConvNormAct(128, 128, 3, 2)
        self.out4 = CspStage(256, 256, 1, residual=False)
        self.down4 = ConvNormAct(256, 256, 3, 2)
        self.out5 = CspStage(512, 512, 1, residual=False)
        self.head = DetectHead((128, 256, 512), classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) with H and W multiples of 32, to (B, BOXES, 5 + classes)."""
        stage3 = self.stage3(self.stem(x))
        stage4 = self.stage4(stage3)
        lateral5 = self.lateral5(self.stage5(stage4))
        lateral4 = self.lateral4(self.top4(torch.cat((self.up(lateral5), stage4), 1)))
        out3 = self.out3(torch.cat((self.up(lateral4), stage3), 1))
        out4 = self.out4(torch.cat((self.down3(out3), lateral4), 1))
        out5 = self.out5(torch.cat((self.down4(out4), lateral5), 1))
        return self.head((out3, out4, out5))


def resnet50() -> nn.Module:
    """ResNet-50 of transformers, 25.6 M parameters."""
    from transformers import ResNetConfig, ResNetForImageClassification

    return FromImage(ResNetForImageClassification(ResNetConfig(num_labels=1000)))


def yolov5s() -> nn.Module:
    """7.2 M parameters."""
    return FromImage(YoloV5s())


def vit_small() -> nn.Module:
    """ViT-S/16 of transformers, 22 M parameters; 224 x 224 only."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=1000
    )
    return FromImage(ViTForImageClassification(config))


def swin_tiny() -> nn.Module:
    """Swin-T of transformers, 28 M parameters: many small operators."""
    from transformers import SwinConfig, SwinForImageClassification

    return FromImage(SwinForImageClassification(SwinConfig(num_labels=1000)))
