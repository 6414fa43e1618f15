"""SCONet: completes and labels a grid of voxels that a lidar has seen in part.

The network of AGRNav (Wang et al., "AGRNav: Efficient and Energy-Saving Autonomous Navigation for
Air-Ground Robots in Occlusion-Prone Environments", ICRA 2024), a 2-D encoder and decoder over the
floor with the height as channels, and a small 3-D head. Names are those of the published networks,
so that their weights load by name. Facts only; the code is our own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CLASSES = 20  # 0: empty
HEAD = 8  # channels of the 3-D head
DILATIONS = (1, 2, 3)


@dataclass(frozen=True)
class Grid:
    """Cells along width, height and depth; axes of the input in this order. Width and depth are
    multiples of 8, height of 8 too."""

    width: int = 256
    height: int = 32
    depth: int = 256

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if value < 8 or value % 8:
                raise ValueError(f'{name} of a grid must be a multiple of 8, not {value}')


class Separable(nn.Module):
    """A 3 x 3 convolution of each channel, then one over channels, both without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.depthwise_conv = nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False)
        self.pointwise_conv = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pointwise_conv(self.depthwise_conv(x))  # type: ignore[no-any-return]


class CrissCross(nn.Module):
    """Each cell looks at all cells of its row and column (Huang et al., "CCNet")."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.query_conv(x), self.key_conv(x), self.value_conv(x)
        rows = x.shape[2]
        # (B, row, column, which row or column is looked at)
        down = torch.einsum('bchw,bcgw->bhwg', query, key)
        across = torch.einsum('bchw,bchv->bhwv', query, key)
        # Its own cell is in both: it counts once.
        own = torch.eye(rows, dtype=torch.bool, device=x.device)[None, :, None, :]
        down = down.masked_fill(own, float('-inf'))
        weights = torch.cat((down, across), 3).softmax(3)
        seen = torch.einsum('bhwg,bcgw->bchw', weights[..., :rows], value)
        seen = seen + torch.einsum('bhwv,bchv->bchw', weights[..., rows:], value)
        return self.gamma * seen + x


class MapAttention(nn.Module):
    """Attention of a MobileViTv2 kind over whole maps (Mehta and Rastegari, "Separable
    self-attention for mobile vision transformers"): each channel's map is a token."""

    def __init__(self, channels: int, cells: int) -> None:
        super().__init__()
        self.fc_i = nn.Linear(cells, 1)
        self.fc_k = nn.Linear(cells, channels)
        self.fc_v = nn.Linear(cells, channels)
        self.fc_o = nn.Linear(channels, cells)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2)
        weights = self.fc_i(tokens).softmax(1)
        context = (weights * self.fc_k(tokens)).sum(1, keepdim=True)
        return self.fc_o(self.fc_v(tokens) * context).reshape(x.shape)  # type: ignore[no-any-return]


class HeightLast(nn.Conv3d):
    """A convolution over (w, d, h) whose kernel loads and is saved as the published one, (h, w, d).

    PyTorch takes its slow kernel on CPUs for a single sample where channels times the first two
    axes are few, as with a height of 16 among them: that took twenty times as long.
    """

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        name = prefix + 'weight'
        published = state_dict.get(name)
        if published is not None and published.dim() == 5:
            # Contiguous: what a convolution adds up in which order depends on the strides.
            state_dict[name] = published.permute(0, 1, 3, 4, 2).contiguous()
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
        if published is not None:
            state_dict[name] = published

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        name = prefix + 'weight'
        destination[name] = destination[name].permute(0, 1, 4, 2, 3).contiguous()


class SegmentationHead(nn.Module):
    """(B, 1, w, d, h) to logits (B, classes, w, d, h): three dilations side by side."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.conv0 = HeightLast(1, HEAD, 3, padding=1)

        def branches() -> nn.ModuleList:
            return nn.ModuleList(
                HeightLast(HEAD, HEAD, 3, padding=each, dilation=each, bias=False)
                for each in DILATIONS
            )

        self.conv1, self.conv2 = branches(), branches()
        self.bn1 = nn.ModuleList(nn.BatchNorm3d(HEAD) for _ in DILATIONS)
        self.bn2 = nn.ModuleList(nn.BatchNorm3d(HEAD) for _ in DILATIONS)
        self.conv_classes = HeightLast(HEAD, classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv0(x[:, None]))
        y = x
        for conv1, bn1, conv2, bn2 in zip(self.conv1, self.bn1, self.conv2, self.bn2, strict=True):
            y = y + bn2(conv2(functional.relu(bn1(conv1(x)))))
        return self.conv_classes(functional.relu(y))  # type: ignore[no-any-return]


class ScoNetwork(nn.Module):
    """Occupied cells (B, W, H, D), 0 or 1, float32, to logits (B, classes, W, H, D).

    ``attention``: as AGRNav runs it, with separable convolutions in the encoder and all three
    attentions; otherwise as Intra-DP runs it: plain convolutions, attentions built but not used.
    """

    def __init__(
        self, grid: Grid | None = None, attention: bool = True, classes: int = CLASSES
    ) -> None:
        super().__init__()
        self.grid = grid = grid or Grid()
        self.attention, self.classes = attention, classes
        f = grid.height
        widths = (f, f + f // 2, 2 * f, 2 * f + f // 2)
        self.Encoder_block1 = self._stage(f, widths[0], False)
        self.Encoder_block2 = self._stage(widths[0], widths[1], True)
        self.Encoder_block3 = self._stage(widths[1], widths[2], True)
        self.Encoder_block4 = self._stage(widths[2], widths[3], True)
        a, b, c = f // 8, f // 4, f // 2
        self.criss_cross_attention = CrissCross(widths[3])
        cells = grid.width * grid.depth
        self.Attention_block_1_8 = MapAttention(a, cells // 16)
        self.Attention_block_1_4 = MapAttention(b, cells // 4)
        self.conv_out_scale_1_8 = nn.Conv2d(widths[3], a, 3, padding=1)
        self.deconv_1_8__1_2 = nn.ConvTranspose2d(a, a, 4, stride=4)
        self.deconv_1_8__1_1 = nn.ConvTranspose2d(a, a, 8, stride=8)
        self.deconv1_8 = nn.ConvTranspose2d(a, a, 6, stride=2, padding=2)
        self.conv1_4 = nn.Conv2d(a + widths[2], widths[2], 3, padding=1)
        self.conv_out_scale_1_4 = nn.Conv2d(widths[2], b, 3, padding=1)
        self.deconv_1_4__1_1 = nn.ConvTranspose2d(b, b, 4, stride=4)
        self.deconv1_4 = nn.ConvTranspose2d(b, b, 6, stride=2, padding=2)
        self.conv1_2 = nn.Conv2d(widths[1] + b + a, widths[1], 3, padding=1)
        self.conv_out_scale_1_2 = nn.Conv2d(widths[1], c, 3, padding=1)
        self.deconv1_2 = nn.ConvTranspose2d(c, c, 6, stride=2, padding=2)
        self.conv1_1 = nn.Conv2d(a + b + c + f, f, 3, padding=1)
        self.seg_head_1_1 = SegmentationHead(classes)

    def _stage(self, inputs: int, outputs: int, pooled: bool) -> nn.Sequential:
        """Half the resolution unless it is the first, then two convolutions."""

        def conv(one: int, other: int) -> nn.Module:
            return Separable(one, other) if self.attention else nn.Conv2d(one, other, 3, padding=1)

        pool: Sequence[nn.Module] = (nn.MaxPool2d(2),) if pooled else ()
        return nn.Sequential(
            *pool, conv(inputs, outputs), nn.ReLU(), conv(outputs, outputs), nn.ReLU()
        )

    def forward(self, occupied: Tensor) -> Tensor:
        x = occupied.permute(0, 2, 1, 3)
        full = self.Encoder_block1(x)
        half = self.Encoder_block2(full)
        quarter = self.Encoder_block3(half)
        eighth = self.Encoder_block4(quarter)
        if self.attention:
            eighth = self.criss_cross_attention(eighth)
        a = self.conv_out_scale_1_8(eighth)
        up = self.deconv1_8(a)
        if self.attention:
            up = self.Attention_block_1_8(up)
        b = functional.relu(self.conv1_4(torch.cat((up, quarter), 1)))
        b = self.conv_out_scale_1_4(b)
        up = self.deconv1_4(b)
        if self.attention:
            up = self.Attention_block_1_4(up)
        c = functional.relu(self.conv1_2(torch.cat((up, half, self.deconv_1_8__1_2(a)), 1)))
        c = self.conv_out_scale_1_2(c)
        parts = (self.deconv1_2(c), full, self.deconv_1_4__1_1(b), self.deconv_1_8__1_1(a))
        merged = functional.relu(self.conv1_1(torch.cat(parts, 1)))
        logits: Tensor = self.seg_head_1_1(merged.permute(0, 2, 3, 1))  # (B, classes, W, D, H)
        return logits.permute(0, 1, 2, 4, 3)
