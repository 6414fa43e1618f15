"""All that the robot does for A-MOT: resize where the camera's size differs, cut, keep account."""

from __future__ import annotations

from collections.abc import Callable
import hashlib
import math
import secrets
import threading

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from offload_ros.amot import patches
from offload_ros.amot.fit import Geometry
from offload_ros.amot.messages import MAX_LIMIT, MORE_HEAD_BYTES, SAMPLE_HEAD_BYTES, Sample
from offload_ros.amot.options import AmotOptions
from offload_ros.wire.codecs import RAW

# What may be saved up for images that need more: as much as so many raw images.
SAVED_IMAGES = 4.0
# (bytes of patches) to (codec, what travels).
Code = Callable[[npt.NDArray[np.uint8]], tuple[int, memoryview]]


def raw(data: npt.NDArray[np.uint8]) -> tuple[int, memoryview]:
    """A ``Code`` that leaves patches as they are."""
    return RAW, data.data.cast('B')


def as_seen(image: torch.Tensor, image_px: int) -> npt.NDArray[np.uint8]:
    """The (image_px, image_px, 3) uint8 that patches are cut from, of a camera's (H, W, 3) uint8.

    An image of that size is taken as it is, without a copy. Another one is resized just as
    ``models.preprocess`` does it for the whole image, rounded to whole levels.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != torch.uint8 or not image.numel():
        raise ValueError(
            f'an image (height, width, 3) uint8 is wanted, not {tuple(image.shape)} {image.dtype}'
        )
    if image.shape[:2] != (image_px, image_px):
        planes = functional.interpolate(
            image.permute(2, 0, 1).unsqueeze(0),
            size=(image_px, image_px),
            mode='bilinear',
            align_corners=False,
            antialias=True,
        )
        image = planes[0].permute(1, 2, 0).contiguous()
    found: npt.NDArray[np.uint8] = image.numpy()
    return found


class Seeds:
    """A seed of 32 bits for each frame, which differs from one life of a robot to the next."""

    def __init__(self, salt: bytes | None = None) -> None:
        self._salt = secrets.token_bytes(16) if salt is None else salt

    def of(self, seq: int) -> int:
        """The seed of frame ``seq``."""
        digest = hashlib.blake2b(seq.to_bytes(8, 'little'), digest_size=4, key=self._salt).digest()
        return int.from_bytes(digest, 'little')


class Traffic:
    """Bytes that a model's images may still take; all that is sent counts, heads too.

    Each image brings its share of a raw one. What is not used is saved, up to ``SAVED_IMAGES`` raw
    images; what is not there is not sent, so that all images together never take more than their
    share. Safe between threads.
    """

    def __init__(self, geometry: Geometry) -> None:
        self._geometry = geometry
        self._lock = threading.Lock()
        self._level = 0.0
        self._saved_by_coding = 0.0  # of second rounds that the server took for raw

    @property
    def level_bytes(self) -> float:
        """What may be sent now."""
        return self._level

    def bring(self, share: float) -> None:
        """Another image, with ``share`` of its raw bytes."""
        size = self._geometry.image_bytes
        with self._lock:
            self._level = min(self._level + share * size, max(SAVED_IMAGES, share) * size)

    def patches(self, head_bytes: int) -> int:
        """How many raw patches, with a head, may be sent now."""
        with self._lock:
            return max(0, math.floor((self._level - head_bytes) / self._geometry.patch_bytes))

    def spend(self, sent_bytes: int) -> None:
        """So much is sent; ``ValueError`` where it may not be."""
        with self._lock:
            if sent_bytes > self._level:
                raise ValueError(f'{sent_bytes} bytes, {self._level:.0f} may be sent')
            self._level -= sent_bytes

    def coded(self, raw_bytes: int, sent_bytes: int) -> None:
        """A second round took less than the server takes it for."""
        with self._lock:
            self._saved_by_coding += raw_bytes - sent_bytes

    def granted(self, share: float, sent_bytes: int) -> float:
        """Patches that an image, whose first round took so many bytes, brings for second rounds;
        below 0 where that was more than its share."""
        with self._lock:
            saved, self._saved_by_coding = self._saved_by_coding, 0.0
        left = share * self._geometry.image_bytes + saved - sent_bytes - MORE_HEAD_BYTES
        return left / self._geometry.patch_bytes


class BudgetSpent(Exception):
    """Not even one patch may be sent for this image."""


class Sampler:
    """The first round of each image of one model."""

    def __init__(self, geometry: Geometry, model_hash: str, seeds: Seeds | None = None) -> None:
        self.geometry = geometry
        self.traffic = Traffic(geometry)
        self._hash = model_hash
        self._seeds = seeds or Seeds()

    def first(
        self,
        image: npt.NDArray[np.uint8],
        seq: int,
        options: AmotOptions,
        budget_s: float,
        code: Code = raw,
    ) -> tuple[Sample, patches.Positions]:
        """What to send of an image of ``as_seen`` first, and the positions of those patches.

        It is accounted for as sent. ``BudgetSpent`` where the budget has no room for any: the
        sample is smaller than ``first_ratio`` asks for where that is above the budget.
        """
        geometry, traffic, share = self.geometry, self.traffic, options.traffic_budget
        traffic.bring(share)
        count = min(
            patches.count_of(options.first_ratio, geometry.patches),
            traffic.patches(SAMPLE_HEAD_BYTES),
        )
        if count < 1:
            raise BudgetSpent(
                f'a traffic budget of {share:g} of the raw bytes has no room for a patch now '
                '(parameter amot.traffic_budget)'
            )
        seed = self._seeds.of(seq)
        positions = patches.sample(seed, count, geometry.patches)
        codec, data = _shorter(code, patches.cut(image, geometry.patch_px, positions))
        sent_bytes = SAMPLE_HEAD_BYTES + len(data)
        traffic.spend(sent_bytes)
        missing = geometry.patches - count
        sample = Sample(
            model=self._hash,
            seed=seed,
            count=count,
            limit=min(traffic.patches(MORE_HEAD_BYTES), MAX_LIMIT),
            fixed=min(missing, max(0, math.floor(share * geometry.patches + 1e-9) - count)),
            granted=traffic.granted(share, sent_bytes),
            confidence=options.confidence,
            budget_s=budget_s,
            adaptive=options.adaptive,
            weighted=options.weighted,
            codec=codec,
            data=data,
        )
        return sample, positions

    def more(
        self,
        image: npt.NDArray[np.uint8],
        sample: Sample,
        have: patches.Positions,
        wanted: npt.NDArray[np.uint16],
        code: Code = raw,
    ) -> tuple[int, memoryview]:
        """(codec, data) of the patches that the server wants, accounted for as sent.

        ``ValueError`` where it may not want them: that are not in the image, that it has, or that
        are more than was offered.
        """
        positions = wanted.astype(np.int64)
        if len(positions) > sample.limit:
            raise ValueError(f'{len(positions)} patches are wanted, {sample.limit} were offered')
        if positions.max() >= self.geometry.patches or np.isin(positions, have).any():
            raise ValueError('patches are wanted that are not missing')
        plain = patches.cut(image, self.geometry.patch_px, positions)
        codec, data = _shorter(code, plain)
        self.traffic.spend(MORE_HEAD_BYTES + len(data))
        self.traffic.coded(plain.nbytes, len(data))
        return codec, data


def _shorter(code: Code, plain: npt.NDArray[np.uint8]) -> tuple[int, memoryview]:
    """Coded, or raw where that is no longer: what was offered has room for raw patches."""
    codec, data = code(plain)
    return (codec, data) if len(data) < plain.nbytes else raw(plain)
