"""An image as patches, and which of them a robot sends (A-MOT, first step).

A patch is a row of ``patch_px * patch_px * 3`` bytes in the order row, column, channel; patches are
numbered row by row. Robot and server draw the same sample from a seed, so that no list of numbers
travels.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

Positions = npt.NDArray[np.int64]
Bytes = npt.NDArray[np.uint8]


def count_of(ratio: float, total: int) -> int:
    """Patches that a share of all stands for: at most that share, at least one."""
    if not 0.0 < ratio <= 1.0:
        raise ValueError(f'a share of the patches is above 0 and at most 1, not {ratio!r}')
    return max(1, math.floor(ratio * total + 1e-9))


def sample(seed: int, count: int, total: int) -> Positions:
    """``count`` of ``total`` patches, uniformly at random, ascending: the same for equal seeds.

    ``seed``: 32 bits. A splitmix64 sequence decides, not a library's generator: robot and server
    may have different versions of that.
    """
    if not 0 < count <= total:
        raise ValueError(f'a sample has 1 to {total} patches, not {count}')
    with np.errstate(over='ignore'):
        state = np.uint64(seed) + np.arange(1, total + 1, dtype=np.uint64) * np.uint64(
            0x9E3779B97F4A7C15
        )
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    chosen = np.argsort(state, kind='stable')[:count]
    return np.sort(chosen).astype(np.int64)


def cut(image: Bytes, patch_px: int, positions: Positions) -> Bytes:
    """The patches at ``positions`` (K,) of an image (H, W, 3) uint8: (K, patch bytes) uint8.

    This is all that the robot computes.
    """
    height, width, channels = image.shape
    columns = width // patch_px
    tiles = image.reshape(height // patch_px, patch_px, columns, patch_px, channels)
    taken: Bytes = tiles[positions // columns, :, positions % columns]
    return taken.reshape(len(positions), patch_px * patch_px * channels)


def patches_of(images: torch.Tensor, patch_px: int) -> torch.Tensor:
    """(B, H, W, 3) to (B, N, patch_px * patch_px * 3)."""
    batch, height, width, channels = images.shape
    tiles = images.reshape(
        batch, height // patch_px, patch_px, width // patch_px, patch_px, channels
    )
    return tiles.permute(0, 1, 3, 2, 4, 5).reshape(batch, -1, patch_px * patch_px * channels)


def images_of(patches: torch.Tensor, patch_px: int) -> torch.Tensor:
    """(B, N, patch_px * patch_px * 3) of square images to (B, H, W, 3)."""
    batch, count, size = patches.shape
    side = math.isqrt(count)
    tiles = patches.reshape(batch, side, side, patch_px, patch_px, size // patch_px**2)
    return tiles.permute(0, 1, 3, 2, 4, 5).reshape(batch, side * patch_px, side * patch_px, -1)
