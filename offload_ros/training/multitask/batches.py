"""Batches for training multi-task networks: seeded order; mirrored, brighter or darker, tinted."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from offload_ros.training.multitask.images import NOTHING, WIDTH_PX
from offload_ros.training.worlds import Arrays

PER_OBJECT = ('boxes', 'kind', 'counted')


@dataclass(frozen=True)
class Truth:
    """What B images show: ``classes`` (B, 24, 32) int64 and ``depth`` (B, 24, 32) float32 as in
    ``images.labels_of``; of T objects ``image`` (T,) which image, ``kind`` (T,) int64 as in
    CLASSES, ``boxes`` (T, 4), ``counted`` (T,)."""

    classes: Tensor
    depth: Tensor
    image: Tensor
    kind: Tensor
    boxes: Tensor
    counted: Tensor

    def to(self, device: str) -> Truth:
        """The same on a device."""
        return Truth(**{name: each.to(device) for name, each in vars(self).items()})


def truth_of(labels: Arrays) -> Truth:
    """Of labels (B, ...) as ``images.labels_of`` gives them."""
    image, slot = np.nonzero(labels['kind'] != NOTHING)
    found = {name: torch.from_numpy(labels[name][image, slot]) for name in PER_OBJECT}
    return Truth(
        torch.from_numpy(labels['classes'].astype(np.int64)),
        torch.from_numpy(labels['depth'].astype(np.float32)),
        torch.from_numpy(image),
        found['kind'].long(),
        found['boxes'],
        found['counted'],
    )


def images_of(pictures: npt.NDArray[np.uint8]) -> Tensor:
    """(B, H, W, 3) uint8 to (B, 3, H, W) float32 in [0, 1], as the model's preprocessing gives."""
    planes = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    return planes.to(torch.float32, memory_format=torch.channels_last) * (1.0 / 255.0)


def mirrored(arrays: Arrays, chosen: npt.NDArray[np.bool_]) -> Arrays:
    """Arrays (B, ...) with left and right exchanged in the ``chosen`` images (B,)."""
    found = {name: each.copy() for name, each in arrays.items()}
    for name in ('images', 'classes', 'depth'):
        found[name][chosen] = arrays[name][chosen][:, :, ::-1]
    there = chosen[:, None] & (arrays['kind'] != NOTHING)
    found['boxes'][there, 0] = WIDTH_PX - arrays['boxes'][there, 2]
    found['boxes'][there, 2] = WIDTH_PX - arrays['boxes'][there, 0]
    return found


class Batches:
    """Batch of any step of a training: the same for the same seed, wherever it was resumed."""

    def __init__(self, arrays: Arrays, size: int, seed: int = 0) -> None:
        count = len(arrays['images'])
        if count < size:
            raise ValueError(f'{count} images are less than one batch of {size}')
        self.arrays, self.size, self.seed = arrays, size, seed
        self.per_epoch = count // size
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, np.int64)

    def at(self, step: int) -> tuple[Tensor, Truth]:
        """Images (B, 3, H, W) float32 in [0, 1], and what they show."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, epoch])
            self._order, self._epoch = rng.permutation(len(self.arrays['images'])), epoch
        chosen = self._order[index * self.size : (index + 1) * self.size]
        rng = np.random.default_rng([self.seed, epoch, index])
        arrays = {name: each[chosen] for name, each in self.arrays.items()}
        arrays = mirrored(arrays, rng.random(self.size) < 0.5)
        gain = torch.from_numpy(rng.uniform(0.8, 1.25, (self.size, 3, 1, 1)).astype(np.float32))
        return (images_of(arrays['images']) * gain).clamp_(0.0, 1.0), truth_of(arrays)
