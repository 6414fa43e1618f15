"""Batches for training KAPAO: seeded order; mirrored, moved, scaled, tinted and letterboxed."""

from __future__ import annotations

from dataclasses import dataclass
import math

import cv2
import numpy as np
import numpy.typing as npt
import torch

from offload_ros.models.kapao_network import KEYPOINTS, STRIDES
from offload_ros.training.kapao.people import IGNORED, MOST, NOBODY, PERSON, Arrays, People

GREY = 114  # of letterboxes, as published
# Left and right change places in a mirror.
MIRRORED = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
KEYPOINT_SIDE = 0.05  # of a keypoint object, as a share of the longer side of the image
LEFT_SHARE, LEFT_KEYPOINTS = 0.25, 3  # of somebody who is moved out of the image in part


@dataclass(frozen=True)
class Objects:
    """What an image shows, for a batch. ``image``, ``kind`` (T,) int64: which image, and the class
    (0 a person, then keypoints). ``boxes`` (T, 4: centre, size), ``keypoints`` (T, 17, 3: x, y, 1
    if labelled), float32, pixels from the corner. ``ignored`` (I, 5: image, x1, y1, x2, y2): where
    nobody is asked for and nobody is blamed."""

    image: torch.Tensor
    kind: torch.Tensor
    boxes: torch.Tensor
    keypoints: torch.Tensor
    ignored: torch.Tensor

    def to(self, device: str) -> Objects:
        """The same on a device."""
        return Objects(**{name: each.to(device) for name, each in vars(self).items()})


def letterboxed_px(height: int, width: int) -> tuple[int, int]:
    """(height, width) of the network's input for an image that is not scaled."""
    coarsest = STRIDES[-1]
    return math.ceil(height / coarsest) * coarsest, math.ceil(width / coarsest) * coarsest


def letterboxed(images: npt.NDArray[np.uint8]) -> torch.Tensor:
    """(B, H, W, 3) uint8 to (B, 3, h, w) uint8 with the image in the middle of grey."""
    count, height, width, _ = images.shape
    rows, columns = letterboxed_px(height, width)
    top, left = (rows - height) // 2, (columns - width) // 2
    full = np.full((count, rows, columns, 3), GREY, np.uint8)
    full[:, top : top + height, left : left + width] = images
    return torch.from_numpy(full).permute(0, 3, 1, 2)


def objects_of(labels: Arrays, height: int, width: int) -> Objects:
    """Of labels (B, ...) as in ``People``: persons, and an object for each labelled keypoint."""
    rows, columns = letterboxed_px(height, width)
    move = np.array([(columns - width) // 2, (rows - height) // 2], np.float32) + 0.5
    image, kind, boxes, keypoints, ignored = [], [], [], [], []
    side = KEYPOINT_SIDE * max(height, width)
    nothing = np.zeros((KEYPOINTS, 3), np.float32)
    for index, slot in zip(*np.nonzero(labels['state'] != NOBODY), strict=True):
        low, high = labels['boxes'][index, slot].reshape(2, 2) + move
        if labels['state'][index, slot] == IGNORED:
            ignored.append((index, *low, *high))
            continue
        points = labels['keypoints'][index, slot].copy()
        points[:, :2] += move
        image.append(index)
        kind.append(0)
        boxes.append((*((low + high) / 2), *(high - low)))
        keypoints.append(points)
        for number in np.flatnonzero(points[:, 2]):
            image.append(index)
            kind.append(int(number) + 1)
            boxes.append((*points[number, :2], side, side))
            keypoints.append(nothing)
    return Objects(
        torch.tensor(image, dtype=torch.int64),
        torch.tensor(kind, dtype=torch.int64),
        torch.tensor(np.array(boxes, np.float32).reshape(-1, 4)),
        torch.tensor(np.array(keypoints, np.float32).reshape(-1, KEYPOINTS, 3)),
        torch.tensor(np.array(ignored, np.float32).reshape(-1, 5)),
    )


class Batches:
    """Batch of any step of a training: the same for the same seed, wherever it was resumed."""

    def __init__(self, people: People, size: int, seed: int = 0) -> None:
        if len(people) < size:
            raise ValueError(f'{len(people)} images are less than one batch of {size}')
        self.people, self.size, self.seed = people, size, seed
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, np.int64)

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch; what does not fill a batch waits for another epoch's order."""
        return len(self.people) // self.size

    def at(self, step: int) -> tuple[torch.Tensor, Objects]:
        """Images (B, 3, h, w) float32, 0 to 1, and what they show."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, epoch])
            self._order, self._epoch = rng.permutation(len(self.people)), epoch
        chosen = np.sort(self._order[index * self.size : (index + 1) * self.size])
        rng = np.random.default_rng([self.seed, epoch, index])
        found = self.people.arrays()
        arrays = {name: np.array(each[chosen]) for name, each in found.items()}
        for each in range(self.size):
            _move(arrays, each, rng)
        height, width = arrays['images'].shape[1:3]
        images = letterboxed(arrays['images']).float() / 255.0
        gain = torch.from_numpy(rng.uniform(0.8, 1.2, (self.size, 3, 1, 1)).astype(np.float32))
        shift = torch.from_numpy(rng.uniform(-0.06, 0.06, (self.size, 1, 1, 1)).astype(np.float32))
        return (images * gain + shift).clamp_(0.0, 1.0), objects_of(arrays, height, width)


def _move(arrays: Arrays, index: int, rng: np.random.Generator) -> None:
    """Mirror half of the images, move and scale half of them; labels follow."""
    image = arrays['images'][index]
    height, width = image.shape[:2]
    mirror = bool(rng.random() < 0.5)
    scale, shift = 1.0, np.zeros(2)
    if rng.random() < 0.5:
        scale = math.exp(rng.uniform(math.log(0.65), math.log(1.3)))
        shift = rng.uniform(-0.12, 0.12, 2) * (width, height)
    elif not mirror:
        return
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    turn = np.diag([-scale if mirror else scale, scale])
    matrix = np.concatenate([turn, (middle + shift - turn @ middle)[:, None]], 1)
    arrays['images'][index] = cv2.warpAffine(
        image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=(GREY,) * 3
    )
    for slot in range(MOST):
        if arrays['state'][index, slot] == NOBODY:
            continue
        corners = arrays['boxes'][index, slot].reshape(2, 2) @ turn.T + matrix[:, 2]
        low, high = corners.min(0), corners.max(0)
        whole = float(np.prod(high - low))
        low = np.clip(low, -0.5, (width - 0.5, height - 0.5))
        high = np.clip(high, -0.5, (width - 0.5, height - 0.5))
        points = arrays['keypoints'][index, slot]
        points[:, :2] = points[:, :2] @ turn.T + matrix[:, 2]
        inside = (points[:, :2] > -0.5) & (points[:, :2] < (width - 0.5, height - 0.5))
        points[:, 2] *= inside.all(1)
        if mirror:
            points[:] = points[list(MIRRORED)]
        arrays['boxes'][index, slot] = (*low, *high)
        left = float(np.prod(high - low)) / max(whole, 1e-6)
        if arrays['state'][index, slot] == PERSON and (
            left < LEFT_SHARE or points[:, 2].sum() < LEFT_KEYPOINTS
        ):
            arrays['state'][index, slot] = IGNORED if left > 0 else NOBODY
