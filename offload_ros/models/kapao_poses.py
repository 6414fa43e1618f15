"""KAPAO's post-processing (section 3.3 of the paper): candidates to persons with keypoints."""

from __future__ import annotations

import torch
from torch import Tensor

from offload_ros.models.kapao_network import BOX, CLASSES, COORDINATES, KEYPOINTS, VALUES

MOST = 300  # objects that one suppression keeps
_BLOCK = 256  # objects that are compared with each other at a time


def detect_poses(
    candidates: Tensor,
    person_score: float,
    person_iou: float,
    keypoint_score: float,
    keypoint_iou: float,
    gate: float,
    tolerance_px: float,
    scale_x: float = 1.0,
    scale_y: float = 1.0,
    left: float = 0.0,
    top: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Persons, strongest first: poses (N, 17, 3: x, y, confidence) and boxes (N, 5: x1, y1, x2, y2,
    confidence), float32, N at most 300, on the device of ``candidates``.

    ``candidates``: (M, 57), see ``KapaoNetwork.candidates``. An object's class is its best one
    (the first of equals), its score that class's times the objectness. Persons above
    ``person_score`` and keypoints above ``keypoint_score`` are suppressed each among their own
    class, at ``person_iou`` and ``keypoint_iou``; 300 of each remain. Where both IoUs are equal and
    ``keypoint_score`` is not below ``person_score`` it is one suppression of all above
    ``person_score``, of which 300 remain, and keypoints of exactly ``keypoint_score`` count.

    A person's keypoints have confidence 0 at first. Then each keypoint object, strongest first,
    takes the place of the nearest one of its kind among the persons above ``gate``, if that is
    nearer than ``tolerance_px`` and of less confidence.

    ``left + x scale_x`` is where x of the camera's image lies in the network's input, so for y with
    ``top``; results and ``tolerance_px`` are in pixels of the camera's image. ``ValueError`` for
    candidates of another form.
    """
    if candidates.ndim != 2 or candidates.shape[1] != VALUES:
        raise ValueError(
            f'detect_poses takes candidates (M, {VALUES}), not {tuple(candidates.shape)}'
        )
    joint = person_iou == keypoint_iou and keypoint_score >= person_score
    rows = candidates.detach().to(torch.float32)
    best, classes = rows[:, BOX + 1 : BOX + 1 + CLASSES].max(1)
    scores = best * rows[:, BOX]
    if joint:
        chosen = scores > person_score
    else:
        chosen = torch.where(classes == 0, scores > person_score, scores > keypoint_score)
    # The few that remain are compared on the CPU: one copy instead of a kernel for each step.
    rows, scores, classes = (each[chosen].cpu() for each in (rows, scores, classes))
    order = scores.argsort(descending=True, stable=True)
    rows, scores, classes = rows[order], scores[order], classes[order]
    half = rows[:, 2:4] / 2
    boxes = torch.cat((rows[:, :2] - half, rows[:, :2] + half), 1)
    if joint:
        kept = suppressed(boxes, classes, person_iou)
        persons = kept[classes[kept] == 0]
        points = kept[(classes[kept] > 0) & (scores[kept] >= keypoint_score)]
    else:
        (all_persons,) = torch.where(classes == 0)
        (all_points,) = torch.where(classes > 0)
        persons = all_persons[suppressed(boxes[all_persons], classes[all_persons], person_iou)]
        points = all_points[suppressed(boxes[all_points], classes[all_points], keypoint_iou)]
    origin, scale = torch.tensor([left, top]), torch.tensor([scale_x, scale_y])
    corners = ((boxes[persons].reshape(-1, 2, 2) - origin) / scale).reshape(-1, 4)
    places = rows[persons, VALUES - COORDINATES :].reshape(-1, KEYPOINTS, 2)
    places = (places - origin) / scale
    poses = torch.cat((places, torch.zeros(len(persons), KEYPOINTS, 1)), 2)
    # Persons are in the order of their scores: those above the gate come first.
    gated = poses[: int((scores[persons] > gate).sum())]
    centres = (rows[points, :2] - origin) / scale
    fuse_keypoints(gated, centres, scores[points], classes[points] - 1, tolerance_px)
    found = torch.cat((corners, scores[persons, None]), 1)
    return poses.to(candidates.device), found.to(candidates.device)


def suppressed(boxes: Tensor, classes: Tensor, iou: float) -> Tensor:
    """Indices of the boxes (M, 4: x1, y1, x2, y2) that remain, at most 300.

    Strongest first is their order. Greedy: each that remains takes away the later ones of its
    class that it overlaps by more than ``iou``. Compared are blocks, so that memory and time stay
    in bounds, whatever comes.
    """
    kept = torch.zeros(0, dtype=torch.int64)
    for start in range(0, len(boxes), _BLOCK):
        block = torch.arange(start, min(start + _BLOCK, len(boxes)))
        block = block[~_takes(boxes, classes, kept, block, iou).any(0)]
        takes = _takes(boxes, classes, block, block, iou).triu(1)
        # Whether the first k remain is right after k rounds, in practice after very few: what
        # remains is what nothing that remains takes away.
        remains = torch.ones(len(block), dtype=torch.bool)
        while True:
            again = ~(takes & remains[:, None]).any(0)
            if torch.equal(again, remains):
                break
            remains = again
        kept = torch.cat((kept, block[remains]))
        if len(kept) >= MOST:
            break
    return kept[:MOST]


def _takes(boxes: Tensor, classes: Tensor, one: Tensor, other: Tensor, iou: float) -> Tensor:
    """(len(one), len(other)) bool: same class, and the overlap is more than ``iou``."""
    first, second = boxes[one][:, None], boxes[other][None]
    low = torch.maximum(first[..., :2], second[..., :2])
    high = torch.minimum(first[..., 2:], second[..., 2:])
    common = (high - low).clamp(min=0).prod(2)
    areas = [(each[..., 2:] - each[..., :2]).prod(2) for each in (first, second)]
    union = areas[0] + areas[1] - common
    return (common > iou * union) & (classes[one][:, None] == classes[other][None])


def fuse_keypoints(
    poses: Tensor, centres: Tensor, scores: Tensor, kinds: Tensor, tolerance_px: float
) -> None:
    """Put keypoint objects into ``poses`` (P, 17, 3), see ``detect_poses``.

    ``centres`` (K, 2) in pixels, ``scores`` (K), ``kinds`` (K) 0 to 16; strongest first. The kinds
    do not touch each other: the first of each are placed at once, then the second of each.
    """
    if not len(poses) or not len(centres):
        return
    of_kind = torch.nn.functional.one_hot(kinds, KEYPOINTS)
    turn = (of_kind.cumsum(0) * of_kind).sum(1) - 1
    for each in range(int(turn.max()) + 1):
        (now,) = torch.where(turn == each)
        kind = kinds[now]
        apart = (poses[:, kind, :2] - centres[now]).square().sum(2)
        distance, nearest = apart.min(0)
        better = (distance.sqrt() < tolerance_px) & (scores[now] > poses[nearest, kind, 2])
        placed = torch.cat((centres[now], scores[now, None]), 1)
        poses[nearest[better], kind[better]] = placed[better]
