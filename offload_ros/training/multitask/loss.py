"""The loss of multi-task networks: a sum over tasks, each of one common size.

Detection as in "Objects as Points" (Zhou et al., 2019): a focal loss on each class's map, whose
goals are Gaussians in the middle of objects, and GIoU (Rezatofighi et al., CVPR 2019) of the boxes
in the cells around the middle (Liu et al., "Training-Time-Friendly Network", AAAI 2020).
Segmentation: cross entropy, rare classes worth more. Depth: the error of its logarithm.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from offload_ros.models.multitask_network import (
    CLASSES,
    NEAREST_M,
    OBJECTS,
    ROOM,
    STRIDE,
    MultitaskNetwork,
)
from offload_ros.training.multitask.batches import Truth
from offload_ros.training.multitask.images import NOTHING
from offload_ros.training.worlds import Arrays

SPREAD = 0.09  # standard deviation of a goal, as a share of the object's side
AROUND = 0.6  # of a goal, from which on a cell is asked for the box
LEAST_CELLS = 0.4  # standard deviation of the goals of small objects


@dataclass(frozen=True)
class Gains:
    """Weights of the parts of the loss."""

    score: float = 1.0
    box: float = 1.5
    segmentation: float = 1.0
    depth: float = 3.0


@dataclass(frozen=True)
class Goals:
    """What the detection head is asked for. ``scores`` (B, 9, h, w), 1 in the middle of an object;
    ``free`` (B, 9, h, w), false where an object is that does not count. Of each of K cells that
    are asked for a box ``at`` (2 of (K,): image, cell), ``boxes`` (K, 4), ``share`` (K,), which
    adds up to 1 for an object; ``objects``: how many."""

    scores: Tensor
    free: Tensor
    at: tuple[Tensor, Tensor]
    boxes: Tensor
    share: Tensor
    objects: int


def class_weights(arrays: Arrays) -> Tensor:
    """(12,) float32 for the cross entropy: 1 / sqrt(share of the class), 1 on average over cells,
    at most ten times the least."""
    counts = torch.from_numpy(arrays['classes']).reshape(-1).bincount(minlength=NOTHING + 1)
    share = counts[: len(CLASSES)].double() / counts[: len(CLASSES)].sum()
    weights = share.clamp(min=1e-6).rsqrt()
    weights = weights.clamp(max=10 * float(weights.min()))
    return (weights / (weights * share).sum()).float()


def goals_of(truth: Truth, height: int, width: int) -> Goals:
    """What (height, width) cells are asked for; where objects overlap, the smaller one is."""
    count, kinds, cells = len(truth.classes), len(OBJECTS), height * width
    order = (truth.boxes[:, 2:] - truth.boxes[:, :2]).prod(1).argsort()  # smallest first
    image, boxes, counted = truth.image[order], truth.boxes[order] / STRIDE, truth.counted[order]
    plane = image * kinds + truth.kind[order] - len(ROOM)
    middle, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    x = torch.arange(width, device=boxes.device) + 0.5
    y = torch.arange(height, device=boxes.device) + 0.5
    inside = (
        ((x >= boxes[:, :1]) & (x <= boxes[:, 2:3]))[:, None]
        & ((y >= boxes[:, 1:2]) & (y <= boxes[:, 3:]))[:, :, None]
    ).flatten(1)
    extent = middle.new_tensor([width, height])
    # Goals have their peak in the middle of a cell.
    column, row = torch.minimum(middle.floor().clamp(min=0), extent - 1).unbind(1)
    deviation = (SPREAD * sides).clamp(min=LEAST_CELLS)
    along = ((x - column[:, None] - 0.5) / deviation[:, :1]).square()
    down = ((y - row[:, None] - 0.5) / deviation[:, 1:]).square()
    goal = (-0.5 * (along[:, None] + down[:, :, None])).exp().flatten(1)

    scores = goal.new_zeros(count * kinds, cells)
    wanted = goal[counted]
    scores.scatter_reduce_(0, plane[counted][:, None].expand(-1, cells), wanted, 'amax')
    taken = goal.new_zeros(count * kinds, cells)
    others = inside[~counted].to(goal.dtype)
    taken.scatter_reduce_(0, plane[~counted][:, None].expand(-1, cells), others, 'amax')

    number = torch.arange(len(wanted), device=boxes.device)[:, None]
    asked = torch.where(wanted >= AROUND, number, len(wanted))
    owner = torch.full((count, cells), len(wanted), device=boxes.device)
    owner.scatter_reduce_(0, image[counted][:, None].expand(-1, cells), asked, 'amin')
    at, cell = (owner < len(wanted)).nonzero(as_tuple=True)
    which = owner[at, cell]
    weight = wanted[which, cell]
    total = weight.new_zeros(len(wanted)).index_add_(0, which, weight)
    shape = (count, kinds, height, width)
    return Goals(
        scores.reshape(shape),
        ((taken == 0) | (scores == 1)).reshape(shape),
        (at, cell),
        boxes[counted][which] * STRIDE,
        weight / total[which],
        int((total > 0).sum()),
    )


def focal_loss(logits: Tensor, goals: Goals) -> Tensor:
    """Formula 1 of "Objects as Points", for each object."""
    there = goals.scores == 1
    sure, unsure = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    found = sure * unsure.exp().square()
    wrong = unsure * sure.exp().square() * (1 - goals.scores).pow(4)
    each = torch.where(there, found, wrong) * goals.free
    return -each.sum() / max(goals.objects, 1)


def generalised_iou(one: Tensor, other: Tensor) -> Tensor:
    """GIoU (K,) of boxes (K, 4: x1, y1, x2, y2)."""
    low, high = torch.maximum(one[:, :2], other[:, :2]), torch.minimum(one[:, 2:], other[:, 2:])
    common = (high - low).clamp(min=0).prod(1)
    areas = [(each[:, 2:] - each[:, :2]).clamp(min=0).prod(1) for each in (one, other)]
    union = areas[0] + areas[1] - common + 1e-6
    low, high = torch.minimum(one[:, :2], other[:, :2]), torch.maximum(one[:, 2:], other[:, 2:])
    hull = (high - low).prod(1) + 1e-6
    return common / union - (hull - union) / hull


def depth_loss(raw: Tensor, depth: Tensor) -> Tensor:
    """Mean of the absolute error of the logarithm, (B, 1, h, w) and (B, h, w) metres, where the
    depth is known."""
    known = depth > NEAREST_M
    error = (raw[:, 0] - depth.clamp(min=NEAREST_M).log()).abs()
    return (error * known).sum() / known.sum().clamp(min=1)


def multitask_loss(
    network: MultitaskNetwork,
    raw: Mapping[str, Tensor],
    truth: Truth,
    weights: Tensor,
    gains: Gains | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """(loss, its parts) of the raw maps of the tasks that the network has; ``weights``: of the
    classes in segmentation."""
    gains = gains or Gains()
    parts: dict[str, Tensor] = {}
    if 'detection' in raw:
        maps = raw['detection'].float()
        goals = goals_of(truth, *maps.shape[2:])
        parts['score'] = focal_loss(maps[:, : len(OBJECTS)], goals)
        image, cell = goals.at
        boxes = network.corners(maps).flatten(2).transpose(1, 2)[image, cell]
        overlap = generalised_iou(boxes, goals.boxes)
        parts['box'] = ((1 - overlap) * goals.share).sum() / max(goals.objects, 1)
    if 'segmentation' in raw:
        parts['segmentation'] = functional.cross_entropy(
            raw['segmentation'].float(), truth.classes, weights, ignore_index=NOTHING
        )
    if 'depth' in raw:
        parts['depth'] = depth_loss(raw['depth'].float(), truth.depth)
    loss = torch.stack([getattr(gains, name) * each for name, each in parts.items()]).sum()
    return loss, {name: each.item() for name, each in parts.items()}
