"""KAPAO's convolutional network: an image to candidates of persons and of single keypoints.

McNally et al., "Rethinking Keypoint Representations: Modeling Keypoints and Poses as Objects for
Multi-Person Human Pose Estimation" (ECCV 2022), on the layout of YOLOv5 with four levels. Modules
carry the numbers of the published networks, so that their weights load by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 18  # a person, then the 17 keypoints of COCO
KEYPOINTS = 17
COORDINATES = 2 * KEYPOINTS
BOX = 4
VALUES = BOX + 1 + CLASSES + COORDINATES  # of one candidate
ANCHORS = 3  # of each level
STRIDES = (8, 16, 32, 64)  # pixels of a cell, by level
# Width and height of the anchors of each level, pixels of images with 1280 on their longer side.
PUBLISHED_ANCHORS = (
    ((19, 27), (44, 40), (38, 94)),
    ((96, 68), (86, 152), (180, 137)),
    ((140, 301), (303, 264), (238, 542)),
    ((436, 615), (739, 380), (925, 792)),
)


@dataclass(frozen=True)
class Size:
    """One network of the family.

    ``depth`` and ``width`` multiply the repeats and channels of L. ``anchor_scale``: of the anchors
    against the published ones. ``input_px``: (height, width) that it was made for.
    """

    name: str
    depth: float
    width: float
    anchor_scale: float = 1.0
    input_px: tuple[int, int] = (960, 1280)

    def channels(self, full: int) -> int:
        """Of a layer that has ``full`` in L: a multiple of 8."""
        return math.ceil(full * self.width / 8) * 8

    def repeats(self, full: int) -> int:
        """Of a block that stands ``full`` times in L."""
        return max(1, round(full * self.depth))

    def anchors_px(self) -> Tensor:
        """(4, 3, 2) float32: width and height of each level's anchors."""
        return torch.tensor(PUBLISHED_ANCHORS, dtype=torch.float32) * self.anchor_scale


SIZES = {
    each.name: each
    for each in (
        # Made for a robot's small images: a quarter of the side, anchors and all.
        Size('t', 0.33, 0.15, 0.25, (256, 320)),
        Size('s', 0.33, 0.50),
        Size('m', 0.67, 0.75),
        Size('l', 1.0, 1.0),
    )
}


class Convolution(nn.Module):
    """Convolution without bias, batch norm, SiLU; fused: a convolution with bias and SiLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, fused: bool = False
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=fused)
        # The published networks were trained with these two constants.
        self.bn = None if fused else nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return functional.silu(x if self.bn is None else self.bn(x))

    def fuse(self) -> None:
        """Fold the batch norm, as it computes in evaluation, into the convolution."""
        norm = self.bn
        if norm is None:
            return
        # In float64, of correctly rounded operations alone: the same bits on every machine.
        mean, variance, weight, bias = (
            each.detach().double()
            for each in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
            if each is not None
        )
        factor = weight / (variance + norm.eps).sqrt()
        folded = self.conv.weight.detach().double() * factor.reshape(-1, 1, 1, 1)
        dtype = self.conv.weight.dtype
        self.conv.weight = nn.Parameter(folded.to(dtype), requires_grad=False)
        self.conv.bias = nn.Parameter((bias - mean * factor).to(dtype), requires_grad=False)
        self.bn = None


class Focus(nn.Module):
    """Each 2 x 2 pixels become channels of one, then a convolution."""

    def __init__(self, inputs: int, outputs: int, fused: bool) -> None:
        super().__init__()
        self.conv = Convolution(4 * inputs, outputs, 3, fused=fused)

    def forward(self, x: Tensor) -> Tensor:
        even, odd = x[..., ::2, :], x[..., 1::2, :]
        return self.conv(  # type: ignore[no-any-return]
            torch.cat((even[..., ::2], odd[..., ::2], even[..., 1::2], odd[..., 1::2]), 1)
        )


class Bottleneck(nn.Module):
    """1 x 1, then 3 x 3; ``residual``: the input is added."""

    def __init__(self, channels: int, residual: bool, fused: bool) -> None:
        super().__init__()
        self.cv1 = Convolution(channels, channels, fused=fused)
        self.cv2 = Convolution(channels, channels, 3, fused=fused)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cv2(self.cv1(x))
        return x + y if self.residual else y


class C3(nn.Module):
    """Two ways of half the width, one through bottlenecks, joined by a 1 x 1 convolution."""

    def __init__(
        self, inputs: int, outputs: int, repeats: int, residual: bool, fused: bool
    ) -> None:
        super().__init__()
        half = outputs // 2
        self.cv1 = Convolution(inputs, half, fused=fused)
        self.cv2 = Convolution(inputs, half, fused=fused)
        self.cv3 = Convolution(2 * half, outputs, fused=fused)
        self.m = nn.Sequential(*(Bottleneck(half, residual, fused) for _ in range(repeats)))

    def forward(self, x: Tensor) -> Tensor:
        return self.cv3(torch.cat((self.m(self.cv1(x)), self.cv2(x)), 1))  # type: ignore[no-any-return]


class SpatialPyramid(nn.Module):
    """Maxima over 3, 5 and 7 pixels beside the map itself."""

    def __init__(self, channels: int, fused: bool) -> None:
        super().__init__()
        half = channels // 2
        self.cv1 = Convolution(channels, half, fused=fused)
        self.cv2 = Convolution(4 * half, channels, fused=fused)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        pooled = [functional.max_pool2d(x, side, 1, side // 2) for side in (3, 5, 7)]
        return self.cv2(torch.cat((x, *pooled), 1))  # type: ignore[no-any-return]


class Detect(nn.Module):
    """A 1 x 1 convolution for each level, and what its values mean.

    ``anchors`` (4, 3, 2) are in cells, ``anchor_grid`` (4, 1, 3, 1, 1, 2) in pixels, as published;
    the latter decide.
    """

    anchors: Tensor
    anchor_grid: Tensor
    square: Tensor
    linear: Tensor
    offset: Tensor
    along: Tensor

    def __init__(self, channels: Sequence[int], anchors_px: Tensor) -> None:
        super().__init__()
        strides = torch.tensor(STRIDES, dtype=torch.float32).reshape(-1, 1, 1)
        self.register_buffer('anchors', anchors_px / strides)
        self.register_buffer('anchor_grid', anchors_px.reshape(-1, 1, ANCHORS, 1, 1, 2))
        self.m = nn.ModuleList(nn.Conv2d(each, ANCHORS * VALUES, 1) for each in channels)
        for name in ('square', 'linear', 'offset'):
            shape = (len(STRIDES), ANCHORS, VALUES, 1, 1)
            self.register_buffer(name, torch.zeros(shape), persistent=False)
        along = torch.zeros(2, VALUES, 1, 1)
        for axis in range(2):
            along[axis, axis] = along[axis, BOX + 1 + CLASSES + axis :: 2] = 1.0
        self.register_buffer('along', along, persistent=False)
        self.measure()
        self.register_load_state_dict_post_hook(  # type: ignore[no-untyped-call]
            lambda module, _: module.measure()
        )

    def measure(self) -> None:
        """Take the anchors as they are into the constants of ``decoded``."""
        with torch.no_grad():
            self.square.zero_()
            self.linear.fill_(1.0)
            self.offset.zero_()
            first = BOX + 1 + CLASSES
            for level, stride in enumerate(STRIDES):
                anchors = self.anchor_grid[level].reshape(ANCHORS, 2, 1, 1)
                self.linear[level, :, :2] = 2.0 * stride
                self.offset[level, :, :2] = -0.5 * stride
                self.linear[level, :, 2:4] = 0.0
                self.square[level, :, 2:4] = 4.0 * anchors
                self.linear[level, :, first:] = (4.0 * anchors).repeat(1, KEYPOINTS, 1, 1)
                self.offset[level, :, first:] = (-2.0 * anchors).repeat(1, KEYPOINTS, 1, 1)

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Of each level (B, C, h, w), to (B, 171, h, w): 57 values of three anchors."""
        return [layer(each) for layer, each in zip(self.m, features, strict=True)]

    def decoded(self, level: int, values: Tensor, floor: float | None) -> Tensor:
        """One level of ``KapaoNetwork.candidates``.

        With s the sigmoid: centre (2s - 0.5 + cell) stride, size (2s)² anchor, keypoint
        (4s - 2) anchor + cell stride, each written as (square s + linear) s + offset.
        """
        count, _, height, width = values.shape
        s = values.reshape(count, ANCHORS, VALUES, height, width).sigmoid()
        if floor is not None:
            s = s.masked_fill(s[:, :, BOX : BOX + 1] <= floor, 0.0)
        stride, device = STRIDES[level], self.along.device
        x, y = (
            torch.arange(0, extent * stride, stride, dtype=torch.float32, device=device)
            for extent in (width, height)
        )
        cells = self.along[0] * x + self.along[1] * y[:, None]
        s = (self.square[level] * s + self.linear[level]) * s + self.offset[level] + cells
        return s.permute(0, 1, 3, 4, 2).reshape(count, -1, VALUES)


class KapaoNetwork(nn.Module):
    """(B, 3, H, W) float32 RGB in [0, 1], H and W multiples of 64, to the raw maps of four levels.

    ``fused``: made without batch norms, for weights that are stored so; ``fuse`` folds them into
    the convolutions, for inference.
    """

    def __init__(self, size: Size, fused: bool = False) -> None:
        super().__init__()
        self.size = size
        c, n = size.channels, size.repeats

        def conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1) -> Convolution:
            return Convolution(c(inputs), c(outputs), kernel, stride, fused)

        def c3(inputs: int, outputs: int, repeats: int = 3, residual: bool = False) -> C3:
            # What is concatenated in front of it is rounded by parts.
            return C3(inputs, c(outputs), n(repeats), residual, fused)

        layers: dict[int, nn.Module] = {
            0: Focus(3, c(64), fused),
            1: conv(64, 128, 3, 2),
            2: c3(c(128), 128, 3, True),
            3: conv(128, 256, 3, 2),
            4: c3(c(256), 256, 9, True),
            5: conv(256, 512, 3, 2),
            6: c3(c(512), 512, 9, True),
            7: conv(512, 768, 3, 2),
            8: c3(c(768), 768, 3, True),
            9: conv(768, 1024, 3, 2),
            10: SpatialPyramid(c(1024), fused),
            11: c3(c(1024), 1024),
            12: conv(1024, 768),
            15: c3(2 * c(768), 768),
            16: conv(768, 512),
            19: c3(2 * c(512), 512),
            20: conv(512, 256),
            23: c3(2 * c(256), 256),
            24: conv(256, 256, 3, 2),
            26: c3(2 * c(256), 512),
            27: conv(512, 512, 3, 2),
            29: c3(2 * c(512), 768),
            30: conv(768, 768, 3, 2),
            32: c3(2 * c(768), 1024),
            33: Detect([c(each) for each in (256, 512, 768, 1024)], size.anchors_px()),
        }
        self.model = nn.ModuleDict({str(number): layer for number, layer in layers.items()})
        self.begin()

    @property
    def detect(self) -> Detect:
        """The last layer."""
        last = self.model['33']
        assert isinstance(last, Detect)
        return last

    def begin(self) -> None:
        """Before training most cells hold nothing: the sigmoid of the objectness is 0.01, and no
        class is likelier than another (Lin et al., "Focal Loss", section 3.3)."""
        with torch.no_grad():
            for layer in self.detect.m:
                assert isinstance(layer, nn.Conv2d) and layer.bias is not None
                bias = layer.bias.reshape(ANCHORS, VALUES)
                bias[:, BOX] = math.log(0.01 / 0.99)
                bias[:, BOX + 1 : BOX + 1 + CLASSES] = -math.log(CLASSES - 1)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Of each level (B, 171, H / stride, W / stride): 57 raw values of three anchors."""
        layers = self.model
        x = layers['2'](layers['1'](layers['0'](images)))
        p3 = layers['4'](layers['3'](x))
        p4 = layers['6'](layers['5'](p3))
        p5 = layers['8'](layers['7'](p4))
        p6 = layers['11'](layers['10'](layers['9'](p5)))
        side5 = layers['12'](p6)
        side4 = layers['16'](layers['15'](_joined(side5, p5)))
        side3 = layers['20'](layers['19'](_joined(side4, p4)))
        out3 = layers['23'](_joined(side3, p3))
        out4 = layers['26'](torch.cat((layers['24'](out3), side3), 1))
        out5 = layers['29'](torch.cat((layers['27'](out4), side4), 1))
        out6 = layers['32'](torch.cat((layers['30'](out5), side5), 1))
        return self.detect([out3, out4, out5, out6])  # type: ignore[no-any-return]

    def candidates(self, maps: Sequence[Tensor], floor: float | None = None) -> Tensor:
        """What the raw maps mean: (B, N, 57), N over levels, anchors, rows, columns.

        Of each: centre and size of its box (pixels of the network's input), objectness, scores of
        18 classes, 17 keypoints (x, y) in pixels. ``floor``: candidates whose objectness is not
        above it keep nothing but their place, so that a codec finds little in what travels.
        """
        return torch.cat(
            [self.detect.decoded(level, each, floor) for level, each in enumerate(maps)], 1
        )

    def fuse(self) -> KapaoNetwork:
        """Fold all batch norms into the convolutions; returns itself, which is not for training
        any more."""
        for module in self.modules():
            if isinstance(module, Convolution):
                module.fuse()
        return self.eval().requires_grad_(False)


def _joined(small: Tensor, lateral: Tensor) -> Tensor:
    """The coarser map at twice its size, in front of the finer one."""
    return torch.cat((functional.interpolate(small, scale_factor=2.0, mode='nearest'), lateral), 1)
