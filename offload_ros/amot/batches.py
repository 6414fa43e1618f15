"""Batches for the trainings of A-MOT: seeded order, moved, scaled, mirrored and tinted images."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch

from offload_ros.amot.dataset import Split
from offload_ros.amot.patches import patches_of


@dataclass(frozen=True)
class Batch:
    """patches (B, N, P) float32, 0 to 255; labels (B,) int64; parts (B, N) int64, or None."""

    patches: torch.Tensor
    labels: torch.Tensor
    parts: torch.Tensor | None

    def to(self, device: str) -> Batch:
        """The same on a device."""
        parts = None if self.parts is None else self.parts.to(device)
        return Batch(self.patches.to(device), self.labels.to(device), parts)


class Batches:
    """Batch of any step of a training: the same for the same seed, wherever it was resumed."""

    def __init__(self, split: Split, size: int, patch_px: int, seed: int = 0) -> None:
        if len(split) < size:
            raise ValueError(f'{len(split)} images are less than one batch of {size}')
        self.split = split
        self.size = size
        self.patch_px = patch_px
        self.seed = seed
        self._epoch = -1
        self._order: npt.NDArray[np.int64] = np.empty(0, np.int64)

    @property
    def per_epoch(self) -> int:
        """Batches of an epoch; what does not fill a batch waits for another epoch's order."""
        return len(self.split) // self.size

    def at(self, step: int) -> Batch:
        """The batch of a step."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, epoch])
            self._order, self._epoch = rng.permutation(len(self.split)), epoch
        chosen = np.sort(self._order[index * self.size : (index + 1) * self.size])
        rng = np.random.default_rng([self.seed, epoch, index])
        return self.moved(chosen, rng)

    def moved(self, chosen: npt.NDArray[np.int64], rng: np.random.Generator) -> Batch:
        """The chosen images, each moved, scaled, mirrored, tinted at random."""
        images = self.split.images[chosen]
        edge = images.shape[1]
        side = edge // self.patch_px
        has_parts = self.split.parts.shape[1] == side * side
        parts = self.split.parts[chosen].reshape(len(chosen), side, side) if has_parts else None
        middle = (edge - 1) / 2
        centres = (np.arange(side) + 0.5) * self.patch_px - 0.5
        moved = np.empty_like(images)
        seen = np.zeros((len(chosen), side, side), np.int64)
        for i, image in enumerate(images):
            scale = np.exp(rng.uniform(-0.2, 0.25))
            mirror = -1.0 if rng.random() < 0.5 else 1.0
            shift = rng.uniform(-0.08, 0.08, 2) * edge
            # From the new picture's pixels to the old one's.
            matrix = np.array([[mirror / scale, 0.0, 0.0], [0.0, 1.0 / scale, 0.0]], np.float64)
            matrix[:, 2] = middle + shift - matrix[:, :2] @ (middle, middle)
            cv2.warpAffine(
                image, matrix, (edge, edge), dst=moved[i],
                flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101,
            )  # fmt: skip
            if parts is not None:
                columns = _inside((matrix[0, 0] * centres + matrix[0, 2]) / self.patch_px, side)
                rows = _inside((matrix[1, 1] * centres + matrix[1, 2]) / self.patch_px, side)
                seen[i] = parts[i][rows[:, None], columns[None, :]]
        patches = patches_of(torch.from_numpy(moved), self.patch_px).float()
        tint = rng.uniform(0.75, 1.3, (len(chosen), 1, 1)) * rng.uniform(
            0.94, 1.06, (len(chosen), 1, 3)
        )
        gains = torch.from_numpy(np.tile(tint, (1, 1, self.patch_px**2)).astype(np.float32))
        return Batch(
            patches.mul_(gains).clamp_(0.0, 255.0),
            torch.from_numpy(self.split.labels[chosen].astype(np.int64)),
            torch.from_numpy(seen.reshape(len(chosen), -1)) if parts is not None else None,
        )


def _inside(places: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.int64]:
    """Patches that mirrored coordinates (in patches) fall into."""
    places = np.abs(places)
    places = np.where(places >= side, 2 * side - places, places)
    return np.clip(places.astype(np.int64), 0, side - 1)


def random_positions(
    batch: int, count: int, total: int, generator: torch.Generator
) -> torch.Tensor:
    """(batch, count) positions, uniformly at random without repetition."""
    return torch.rand(batch, total, generator=generator).argsort(-1)[:, :count]
