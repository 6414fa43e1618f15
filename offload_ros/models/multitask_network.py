"""One network for several tasks: a shared encoder, and a head each for detection, segmentation and
depth.

The encoder is a residual one (He et al., "Deep Residual Learning", CVPR 2016) with a feature
pyramid (Lin et al., CVPR 2017) down to cells of four pixels, the detection head one without anchors
whose peaks are objects (Zhou et al., "Objects as Points", 2019), each with the distances from its
cell to the sides of its box (Tian et al., "FCOS", ICCV 2019). All outputs have fixed shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from offload_ros.models.kapao_network import Convolution

TASKS = ('detection', 'segmentation', 'depth')
OUTPUT_OF = {'detection': 'boxes', 'segmentation': 'classes', 'depth': 'depth'}
# The room first: it is segmented, not detected.
ROOM = ('floor', 'wall', 'ceiling')
OBJECTS = ('person', 'chair', 'sofa', 'table', 'cabinet', 'plant', 'container', 'frame', 'small')
CLASSES = (*ROOM, *OBJECTS)
STRIDE = 4  # pixels of a cell of the outputs
COARSEST = 16  # of the encoder's last map
CANDIDATES, BOXES = 64, 24  # peaks that are looked at, and boxes that are given
SAME_IOU = 0.5  # of two boxes of one class, from which on only the stronger one stays
SMALLEST_EXP, LARGEST_EXP = -3.0, 5.0  # of the logarithm of a distance in cells
NEAREST_M, FARTHEST_M = 0.1, 20.0


@dataclass(frozen=True)
class Size:
    """``channels``: of the maps with cells of 2, 4, 8 and 16 pixels; ``blocks``: residual ones on
    the last three; ``neck``: channels of the pyramid and of the heads."""

    name: str
    channels: tuple[int, int, int, int]
    blocks: tuple[int, int, int]
    neck: int


SIZES = {
    each.name: each
    for each in (
        Size('small', (16, 24, 48, 80), (1, 1, 1), 32),
        Size('large', (32, 56, 72, 96), (2, 2, 2), 56),
    )
}


class Residual(nn.Module):
    """Two 3 x 3 convolutions; the input is added."""

    def __init__(self, channels: int, fused: bool) -> None:
        super().__init__()
        self.first = Convolution(channels, channels, 3, fused=fused)
        self.second = Convolution(channels, channels, 3, fused=fused)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))  # type: ignore[no-any-return]


class Encoder(nn.Module):
    """(B, 3, H, W) to (B, neck, H / 4, W / 4)."""

    def __init__(self, size: Size, fused: bool) -> None:
        super().__init__()
        first, *others = size.channels
        self.stem = Convolution(3, first, 3, 2, fused)
        self.stages = nn.ModuleList(
            nn.Sequential(
                Convolution(before, channels, 3, 2, fused),
                *(Residual(channels, fused) for _ in range(blocks)),
            )
            for before, channels, blocks in zip(
                size.channels[:-1], others, size.blocks, strict=True
            )
        )
        self.lateral = nn.ModuleList(Convolution(each, size.neck, fused=fused) for each in others)
        self.smooth = nn.ModuleList(
            Convolution(size.neck, size.neck, 3, fused=fused) for _ in others[:-1]
        )

    def forward(self, images: Tensor) -> Tensor:
        x = self.stem(images)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        pyramid: Tensor = self.lateral[-1](maps[-1])
        for level in range(len(maps) - 2, -1, -1):
            finer = functional.interpolate(pyramid, scale_factor=2.0, mode='nearest')
            pyramid = self.smooth[level](finer + self.lateral[level](maps[level]))
        return pyramid


class MultitaskNetwork(nn.Module):
    """(B, 3, H, W) float32 RGB in [0, 1], H and W multiples of 16, to one raw map for each task.

    ``tasks``: of ``TASKS``; their heads alone are there. ``fused``: made without batch norms, for
    weights that are stored so; ``fuse`` folds them into the convolutions, for inference.
    ``ValueError`` for tasks that there are not.
    """

    earlier: Tensor

    def __init__(self, size: Size, tasks: Sequence[str] = TASKS, fused: bool = False) -> None:
        super().__init__()
        unknown = [each for each in tasks if each not in TASKS]
        if unknown or not tasks or len(set(tasks)) != len(tasks):
            raise ValueError(f'tasks are some of {", ".join(TASKS)}, each once, not {tasks!r}')
        self.size = size
        self.tasks = tuple(each for each in TASKS if each in tasks)
        self.encoder = Encoder(size, fused)
        outputs = {'detection': len(OBJECTS) + 4, 'segmentation': len(CLASSES), 'depth': 1}
        self.heads = nn.ModuleDict(
            {
                task: nn.Sequential(
                    Convolution(size.neck, size.neck, 3, fused=fused),
                    nn.Conv2d(size.neck, outputs[task], 1),
                )
                for task in self.tasks
            }
        )
        # Of two candidates, whether the one of the row comes before that of the column.
        before = torch.ones(CANDIDATES, CANDIDATES).triu(1)
        self.register_buffer('earlier', before, persistent=False)
        self.begin()

    def begin(self) -> None:
        """Before training most cells hold no object: the sigmoid of each class is 0.01 (Lin et al.,
        "Focal Loss", section 3.3); sides are some cells away and everything is some metres away."""
        with torch.no_grad():
            for name, parameter in self.heads.named_parameters():
                if name == 'detection.1.bias':
                    parameter[: len(OBJECTS)] = math.log(0.01 / 0.99)
                    parameter[len(OBJECTS) :] = 1.0
                elif name == 'depth.1.bias':
                    parameter.fill_(1.0)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Raw maps (B, C, H / 4, W / 4) by task: nine classes' logits and the logarithms of the
        distances to four sides in cells; twelve classes' logits; the logarithm of metres."""
        features = self.encoder(images)
        return {task: head(features) for task, head in self.heads.items()}

    def answers(self, images: Tensor) -> dict[str, Tensor]:
        """What the raw maps mean, by the names in ``OUTPUT_OF``.

        ``boxes`` (B, 24, 6: x1, y1, x2, y2 in pixels of the network's input, score, class as in
        ``CLASSES``), strongest first, then rows of zeros; ``classes`` (B, H / 4, W / 4) uint8;
        ``depth`` (B, H / 4, W / 4), metres.
        """
        raw = self(images)
        found = {}
        if 'detection' in raw:
            found['boxes'] = self._boxes(raw['detection'])
        if 'segmentation' in raw:
            found['classes'] = raw['segmentation'].argmax(1).to(torch.uint8)
        if 'depth' in raw:
            found['depth'] = raw['depth'][:, 0].exp().clamp(NEAREST_M, FARTHEST_M)
        return found

    def _boxes(self, raw: Tensor) -> Tensor:
        """Peaks of each class, without those that a stronger one of the class covers (Fast NMS of
        Bolya et al., "YOLACT", ICCV 2019)."""
        height, width = raw.shape[2:]
        scores = raw[:, : len(OBJECTS)].sigmoid()
        peaks = scores * (functional.max_pool2d(scores, 3, 1, 1) == scores)
        best, where = peaks.flatten(1).topk(CANDIDATES, 1)
        cell, kind = where % (height * width), where // (height * width)
        corners = self.corners(raw).flatten(2)  # (B, 4, cells)
        boxes = corners.gather(2, cell[:, None].expand(-1, 4, -1)).transpose(1, 2)
        covered = overlaps(boxes, boxes) * (kind[:, :, None] == kind[:, None])
        stays = (covered * self.earlier).amax(1) <= SAME_IOU
        score, order = (best * stays).topk(BOXES, 1)
        boxes = boxes.gather(1, order[..., None].expand(-1, -1, 4))
        kind = kind.gather(1, order) + len(ROOM)
        rows = torch.cat((boxes, score[..., None], kind[..., None].to(score.dtype)), 2)
        return rows * (score[..., None] > 0)

    def corners(self, raw: Tensor) -> Tensor:
        """(B, 13, h, w) to the box of each cell, (B, 4: x1, y1, x2, y2, h, w) in pixels of the
        network's input, inside it."""
        height, width = raw.shape[2:]
        sides = raw[:, len(OBJECTS) :].clamp(SMALLEST_EXP, LARGEST_EXP).exp() * STRIDE
        x = (torch.arange(width, device=raw.device) + 0.5) * STRIDE
        y = (torch.arange(height, device=raw.device) + 0.5)[:, None] * STRIDE
        left, top, right, bottom = sides.unbind(1)
        wide, high = width * STRIDE, height * STRIDE
        return torch.stack(
            (
                (x - left).clamp(0, wide),
                (y - top).clamp(0, high),
                (x + right).clamp(0, wide),
                (y + bottom).clamp(0, high),
            ),
            1,
        )

    def fuse(self) -> MultitaskNetwork:
        """Fold all batch norms into the convolutions; returns itself, which is not for training
        any more."""
        for module in self.modules():
            if isinstance(module, Convolution):
                module.fuse()
        return self.eval().requires_grad_(False)


def overlaps(one: Tensor, other: Tensor) -> Tensor:
    """IoU (..., N, M) of boxes (..., N, 4) and (..., M, 4: x1, y1, x2, y2)."""
    one, other = one[..., :, None, :], other[..., None, :, :]
    low = torch.maximum(one[..., :2], other[..., :2])
    high = torch.minimum(one[..., 2:], other[..., 2:])
    common = (high - low).clamp(min=0).prod(-1)
    areas = [(each[..., 2:] - each[..., :2]).prod(-1) for each in (one, other)]
    return common / (areas[0] + areas[1] - common).clamp(min=1e-9)
