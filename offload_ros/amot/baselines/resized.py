"""Fewer pixels instead of fewer patches: raw, super-resolution, low quality and then regions."""

from __future__ import annotations

from collections.abc import Sequence
import math
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch

from offload_ros.amot.baselines.common import Answers, Networks, classify, first_of
from offload_ros.amot.evaluate import HEADER_BYTES, Images, batches
from offload_ros.amot.patches import images_of, patches_of

UPSAMPLING = {
    'cubic': cv2.INTER_CUBIC,
    'lanczos': cv2.INTER_LANCZOS4,
    'linear': cv2.INTER_LINEAR,
}
Pictures = npt.NDArray[np.uint8]


class Raw:
    """The image as it is, in one message."""

    name, drawn = 'raw', False

    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    def choices(self, limit: int) -> Sequence[str]:
        return ('whole',)

    def __call__(self, images: Images, limit: int, choice: Any, run: int) -> Answers:
        """``limit`` is not kept: there is one size."""
        sent = images.wire.raw_bytes + HEADER_BYTES
        labels = classify(self._networks.bundle, images.split.images)
        return Answers(labels, np.full(len(images), sent, np.int64))


def edge_within(limit: int, edge: int) -> int:
    """Edge of the largest square image of raw pixels in ``limit`` bytes, at most ``edge``."""
    return min(edge, math.isqrt(max(0, limit - HEADER_BYTES) // 3))


def shrunk(pictures: Pictures, edge: int, upsampling: str) -> Pictures:
    """Pictures (M, H, H, 3) after they travelled with ``edge`` pixels."""
    size = pictures.shape[1]
    if edge >= size:
        return pictures
    how = UPSAMPLING[upsampling]
    seen = np.empty_like(pictures)
    for index, picture in enumerate(pictures):
        small = cv2.resize(picture, (edge, edge), interpolation=cv2.INTER_AREA)
        seen[index] = cv2.resize(small, (size, size), interpolation=how)
    return seen


class Upsampled:
    """ISR: fewer pixels, and the server makes as many as the network wants.

    In place of a network for super-resolution the best of cubic, Lanczos and linear interpolation.
    """

    name, drawn = 'isr', False

    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    def choices(self, limit: int) -> Sequence[str]:
        return tuple(UPSAMPLING) if edge_within(limit, 1) else ()

    def __call__(self, images: Images, limit: int, choice: Any, run: int) -> Answers:
        pictures = np.asarray(images.split.images)
        edge = edge_within(limit, pictures.shape[1])
        labels = classify(self._networks.bundle, shrunk(pictures, edge, choice))
        return Answers(labels, np.full(len(images), HEADER_BYTES + 3 * edge**2, np.int64))


class LowThenRegions:
    """SDT, as in DDS: the image in low quality, then regions that matter in full quality.

    Low quality is fewer raw pixels; regions are patches that the classifier attends to in the
    enlarged image, raw, all that the bytes reach for. ``CodedRegions`` is the same with WebP.
    """

    name, drawn = 'sdt', False

    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    def choices(self, limit: int) -> Sequence[float]:
        """The share of bytes that the first image has."""
        return (0.3, 0.5, 0.75) if edge_within(int(0.3 * limit), 1) else ()

    def __call__(self, images: Images, limit: int, choice: Any, run: int) -> Answers:
        bundle, wire = self._networks.bundle, images.wire
        pictures = np.asarray(images.split.images)
        edge = edge_within(int(choice * limit), pictures.shape[1])
        low = HEADER_BYTES + 3 * edge**2
        count = wire.most(limit - low, wire.second_bytes)
        labels, seen = [], shrunk(pictures, edge, 'cubic')
        for part in batches(len(images)):
            labels.append(self._answered(bundle, seen[part], images.patches[part], count))
        sent = np.full(len(images), low + wire.second_bytes(count), np.int64)
        return Answers(np.concatenate(labels), sent)

    @staticmethod
    def _answered(
        bundle: Any, seen: Pictures, patches: torch.Tensor, count: int
    ) -> npt.NDArray[np.int64]:
        first = first_of(bundle, seen)
        if not count:
            return np.asarray(first.probabilities.argmax(-1).numpy(), np.int64)
        wanted = first.attention.topk(count, dim=1).indices
        rows = torch.arange(len(patches))[:, None]
        mended = patches_of(torch.from_numpy(seen), bundle.patch_px)
        mended[rows, wanted] = patches[rows, wanted]
        return classify(bundle, images_of(mended, bundle.patch_px).numpy())
