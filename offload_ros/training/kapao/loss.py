"""The loss of KAPAO (section 3.2 of the paper): boxes, objectness, classes and keypoints.

As in YOLOv5 an object is asked of every anchor whose sides are within a factor of four of its own,
in the cell of its centre and in the two nearest neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import math

import torch
from torch import Tensor
from torch.nn import functional

from offload_ros.models.kapao_network import (
    ANCHORS,
    BOX,
    CLASSES,
    KEYPOINTS,
    STRIDES,
    VALUES,
    KapaoNetwork,
)
from offload_ros.training.kapao.batches import Objects

RATIO = 4.0  # of an object's side to an anchor's, and the other way
BALANCE = (4.0, 1.0, 0.25, 0.06)  # of the levels' objectness, fine to coarse
_NEIGHBOURS = torch.tensor([[0, 0], [1, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float32) * 0.5


@dataclass(frozen=True)
class Gains:
    """Weights of the parts of the loss; the published ones."""

    box: float = 0.05
    objectness: float = 0.7
    kind: float = 0.3
    keypoints: float = 0.025


@dataclass(frozen=True)
class Asked:
    """What one level is asked for. Of each of K requests: ``at`` (4 of (K,): image, anchor, row,
    column), ``anchor`` (K, 2) in cells, ``box`` (K, 4: centre from the cell's corner, size) in
    cells, ``kind`` (K,), ``keypoints`` (K, 17, 3) from the cell's corner in cells."""

    at: tuple[Tensor, Tensor, Tensor, Tensor]
    anchor: Tensor
    box: Tensor
    kind: Tensor
    keypoints: Tensor


def asked(objects: Objects, anchors: Tensor, stride: int, height: int, width: int) -> Asked:
    """What a level of (height, width) cells and anchors (3, 2), in cells, is asked for."""
    boxes = objects.boxes / stride
    ratio = boxes[None, :, 2:] / anchors[:, None]  # (3, T, 2)
    fits = torch.maximum(ratio, 1 / ratio).amax(2) < RATIO
    anchor, index = fits.nonzero(as_tuple=True)
    centre = boxes[index, :2]
    extent = centre.new_tensor([width, height])
    # The nearer half of the cell says which neighbours take part.
    low = (centre % 1 < 0.5) & (centre > 1)
    high = ((extent - centre) % 1 < 0.5) & (extent - centre > 1)
    here = torch.ones_like(low[:, 0])
    part, row = torch.stack([here, low[:, 0], low[:, 1], high[:, 0], high[:, 1]]).nonzero(
        as_tuple=True
    )
    offset = _NEIGHBOURS.to(centre.device)[part]
    anchor, index, centre = anchor[row], index[row], centre[row]
    cell = (centre - offset).floor()
    cell = torch.minimum(cell.clamp(min=0), extent - 1)
    keypoints = objects.keypoints[index].clone()
    keypoints[..., :2] = keypoints[..., :2] / stride - cell[:, None]
    column, line = cell.long().unbind(1)
    return Asked(
        (objects.image[index], anchor, line, column),
        anchors[anchor],
        torch.cat((centre - cell, boxes[index, 2:]), 1),
        objects.kind[index],
        keypoints,
    )


def complete_iou(one: Tensor, other: Tensor) -> Tensor:
    """CIoU (K,) of boxes (K, 4: centre, size) (Zheng et al., "Enhancing Geometric Factors")."""
    low1, high1 = one[:, :2] - one[:, 2:] / 2, one[:, :2] + one[:, 2:] / 2
    low2, high2 = other[:, :2] - other[:, 2:] / 2, other[:, :2] + other[:, 2:] / 2
    common = (torch.minimum(high1, high2) - torch.maximum(low1, low2)).clamp(min=0).prod(1)
    union = one[:, 2:].prod(1) + other[:, 2:].prod(1) - common + 1e-9
    iou = common / union
    span = torch.maximum(high1, high2) - torch.minimum(low1, low2)
    apart = (one[:, :2] - other[:, :2]).square().sum(1) / (span.square().sum(1) + 1e-9)
    angles = [torch.atan(each[:, 2] / (each[:, 3] + 1e-9)) for each in (one, other)]
    shape = 4 / math.pi**2 * (angles[1] - angles[0]).square()
    with torch.no_grad():
        weight = shape / (1 - iou + shape + 1e-9)
    return iou - apart - weight * shape


def _free(objects: Objects, count: int, stride: int, height: int, width: int) -> Tensor:
    """Weights (B, 1, h, w) of the objectness: 0 where somebody is who does not count."""
    weights = objects.boxes.new_ones((count, 1, height, width))
    for image, x1, y1, x2, y2 in objects.ignored.tolist():
        left, top = max(0, int(x1 // stride)), max(0, int(y1 // stride))
        right, bottom = math.ceil(x2 / stride), math.ceil(y2 / stride)
        weights[int(image), :, top:bottom, left:right] = 0.0
    return weights


def kapao_loss(
    network: KapaoNetwork, maps: Sequence[Tensor], objects: Objects, gains: Gains | None = None
) -> tuple[Tensor, dict[str, float]]:
    """(loss, its parts) of the raw maps of four levels, each (B, 171, h, w)."""
    gains = gains or Gains()
    anchors = network.detect.anchor_grid.reshape(len(STRIDES), ANCHORS, 2)
    zero = maps[0].new_zeros((), dtype=torch.float32)
    box = kind = keypoint = objectness = zero
    for level, (raw, stride) in enumerate(zip(maps, STRIDES, strict=True)):
        count, _, height, width = raw.shape
        values = raw.float().reshape(count, ANCHORS, VALUES, height, width)
        goal = torch.zeros_like(values[:, :, BOX])
        wanted = asked(objects, anchors[level] / stride, stride, height, width)
        weights = _free(objects, count, stride, height, width)
        if len(wanted.kind):
            image, anchor, row, column = wanted.at
            chosen = values[image, anchor, :, row, column]
            s = chosen.sigmoid()
            centre = 2 * s[:, :2] - 0.5
            size = (2 * s[:, 2:4]).square() * wanted.anchor
            overlap = complete_iou(torch.cat((centre, size), 1), wanted.box)
            box = box + (1 - overlap).mean()
            goal[image, anchor, row, column] = overlap.detach().clamp(min=0)
            weights[image, 0, row, column] = 1.0
            classes = functional.one_hot(wanted.kind, CLASSES).float()
            kind = kind + functional.binary_cross_entropy_with_logits(
                chosen[:, BOX + 1 : BOX + 1 + CLASSES], classes
            )
            places = s[:, BOX + 1 + CLASSES :].reshape(-1, KEYPOINTS, 2)
            places = (4 * places - 2) * wanted.anchor[:, None]
            labelled = wanted.keypoints[..., 2] > 0
            if bool(labelled.any()):
                error = (places - wanted.keypoints[..., :2])[labelled]
                keypoint = keypoint + (error.square().sum(1) + 1e-9).sqrt().mean()
        each = functional.binary_cross_entropy_with_logits(
            values[:, :, BOX], goal, reduction='none'
        )
        objectness = objectness + BALANCE[level] * (each * weights).mean()
    loss = (
        gains.box * box
        + gains.objectness * objectness
        + gains.kind * kind
        + gains.keypoints * keypoint
    )
    parts = {'box': box, 'objectness': objectness, 'kind': kind, 'keypoints': keypoint}
    return loss, {name: each.item() for name, each in parts.items()}
